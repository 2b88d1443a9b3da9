//! Services whose run or `configure` is given by the test.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use service_core::prelude::*;
use service_tests::Lines;
use tokio::time::timeout;

use crate::support::{Log, Step, act};

type Act = Arc<dyn Fn(Context) -> Acted + Send + Sync>;
type Acted = std::pin::Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// Runs a closure.
#[derive(Clone)]
pub(crate) struct Acting {
    log: Log,
    act: Act,
}

impl Acting {
    pub(crate) fn new<F>(log: &Log, act: impl Fn(Context) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output: IntoOutcome> + Send + 'static,
    {
        let act: Act = Arc::new(move |cx| {
            let acted = act(cx);
            Box::pin(async move { acted.await.into_outcome() })
        });
        Self { log: log.clone(), act }
    }
}

#[service(interval = 60, discover = false)]
impl Acting {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.log.push("run");
        (self.act)(cx.clone()).await
    }

    async fn cleanup(&mut self) {
        self.log.push("cleanup");
    }
}

/// The script of `configure` of [`Configured`]. After the end of the script it succeeds.
#[derive(Clone)]
pub(crate) struct Plan {
    log: Log,
    script: Arc<Mutex<VecDeque<Step>>>,
}

impl Plan {
    pub(crate) fn new(log: &Log, script: &[Step]) -> Self {
        Self { log: log.clone(), script: Arc::new(Mutex::new(script.iter().copied().collect())) }
    }
}

/// Built by a `configure` that follows the [`Plan`] in the bed's state.
pub(crate) struct Configured {
    log: Log,
}

#[service(interval = 60, discover = false)]
impl Configured {
    async fn configure(cx: &Context) -> Result<Self> {
        let plan = cx.state::<Plan>()?.clone();
        plan.log.push("configure");
        let step = plan.script.lock().unwrap().pop_front().unwrap_or(Step::Succeed);
        let _ = act(step).await?;
        Ok(Self { log: plan.log })
    }

    async fn update(&mut self) {
        self.log.push("run");
    }

    async fn cleanup(&mut self) {
        self.log.push("cleanup");
    }
}

/// Returns the output if it comes within an hour of virtual time; after that the future counts as hanging.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(3600), work).await.expect("it hangs")
}

/// Collects what is logged on this thread while the guard exists.
pub(crate) fn logged() -> (Arc<Mutex<Vec<String>>>, tracing::subscriber::DefaultGuard) {
    service_tests::ask_each_thread();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let into = lines.clone();
    let guard = tracing::subscriber::set_default(Lines(move |line| into.lock().unwrap().push(line)));
    (lines, guard)
}

/// Whether a line contains all of these parts.
pub(crate) fn has_line(lines: &Mutex<Vec<String>>, parts: &[&str]) -> bool {
    lines.lock().unwrap().iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

/// Checks that the result is an error whose text contains all of these parts.
pub(crate) fn assert_says<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    let error = format!("{:#}", result.expect_err("an error was expected"));
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}
