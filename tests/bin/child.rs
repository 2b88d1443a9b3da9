//! A program with services, which tests start as a process: they send it signals, and check its output and its exit
//! status. Its argument selects the services.

use std::io::Write;
use std::time::Duration;

use service_core::prelude::*;
use service_tests::Lines;

/// Prints what it does.
struct Loud {
    name: &'static str,
    /// How a run continues after its first line.
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    Ends,
    TakesAWhile,
    Hangs,
    IsHopeless,
    StopsItself,
    TellsItsRequester,
}

#[service(interval = 60, discover = false)]
impl Loud {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        println!("{}: run {}", self.name, cx.run_number());
        match self.run {
            Run::Ends => {}
            Run::TakesAWhile => {
                cx.stopping().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Run::Hangs => std::future::pending::<()>().await,
            Run::IsHopeless => return Err(Error::fatal("nothing helps")),
            Run::StopsItself => cx.stop(),
            Run::TellsItsRequester => println!("{}: acts as {}", self.name, cx.requester_id()),
        }
        println!("{}: end", self.name);
        Ok(())
    }

    async fn cleanup(&mut self) {
        println!("{}: cleanup", self.name);
    }
}

/// Its blocking run never returns.
struct Stuck;

#[service(interval = 60, discover = false)]
impl Stuck {
    fn update(&mut self) {
        println!("stuck: run");
        loop {
            std::thread::park();
        }
    }
}

/// Its async run blocks its thread and never returns.
struct Blocks;

#[service(interval = 60, discover = false)]
impl Blocks {
    async fn update(&mut self) {
        println!("blocks: run");
        loop {
            std::thread::park();
        }
    }
}

/// Holds the lock of standard error, to which the log is written, and never returns.
struct HoldsLog;

#[service(interval = 60, discover = false)]
impl HoldsLog {
    fn update(&mut self) {
        let _held = std::io::stderr().lock();
        println!("holds_log: run");
        loop {
            std::thread::park();
        }
    }
}

/// Its `configure` never ends.
struct NeverBuilt;

#[service(interval = 60, discover = false)]
impl NeverBuilt {
    async fn configure() -> Self {
        std::future::pending().await
    }

    async fn update(&mut self) {}
}

fn loud(name: &'static str, run: Run) -> Loud {
    Loud { name, run }
}

fn main() -> Result<()> {
    let what = std::env::args().nth(1).unwrap_or_default();
    let mut runtime = match what.as_str() {
        "blocks_the_only_thread" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(2).enable_all().build()?.block_on(run(what))
}

async fn run(what: String) -> Result<()> {
    if what != "mute" {
        tracing::subscriber::set_global_default(Lines(|line| {
            // In one piece: on a terminal, parts of lines would mix with those of the standard output.
            let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
        }))?;
    }
    let options = || ServiceOptions::new();
    let builder = ServiceRegistry::builder().without_discovered();
    let builder = match what.as_str() {
        "drain" => builder
            .service("store", loud("store", Run::Ends))
            .service("worker", loud("worker", Run::TakesAWhile))
            .options_of("worker", options().depends_on(["store"])),
        "critical" => builder
            .service("steady", loud("steady", Run::TakesAWhile))
            .service("heart", loud("heart", Run::IsHopeless))
            .options_of("heart", options().critical(true)),
        "hang" => builder.service("hanging", loud("hanging", Run::Hangs)),
        "mute" => builder.service("broken", loud("broken", Run::IsHopeless)),
        "blocks_the_only_thread" => builder.service("one", Blocks),
        "blocks_one_thread" => builder.service("one", Blocks).shutdown_timeout(Duration::from_millis(200)),
        "holds_log" => builder.service("holds_log", HoldsLog),
        "blocks_all_threads" => builder.service("one", Blocks).service("two", Blocks),
        "failed" => {
            builder.service("broken", loud("broken", Run::IsHopeless)).service("steady", loud("steady", Run::Ends))
        }
        "stuck" | "stuck_by_itself" | "stuck_beside" => {
            builder.service("stuck", Stuck).shutdown_timeout(Duration::from_millis(200))
        }
        "starting" => builder
            .service_of::<NeverBuilt>("never_built")
            .service("steady", loud("steady", Run::Ends))
            .shutdown_timeout(Duration::from_millis(500)),
        "forgetful" | "by_itself" | "lingers" | "waits_twice" | "over" | "over_by_signal" | "beside_task"
        | "early_signal" | "two" => {
            builder.service("steady", loud("steady", Run::Ends)).shutdown_timeout(Duration::from_millis(300))
        }
        "requester" => builder.service("loud", loud("loud", Run::TellsItsRequester)),
        "sized" => {
            println!("main: process {}", std::process::id());
            builder.service_of::<WithSize>("sized")
        }
        "run" => return service_core::run(loud("single", Run::TakesAWhile)).await,
        "run_until" => {
            let token = tokio_util::sync::CancellationToken::new();
            let task = tokio::spawn(service_core::run_until(loud("single", Run::Ends), token.clone()));
            tokio::time::sleep(Duration::from_millis(200)).await;
            token.cancel();
            drop(task.await);
            println!("main: the task is over");
            return std::future::pending().await;
        }
        "run_stops" => return service_core::run(loud("single", Run::StopsItself)).await,
        "run_fails" => return service_core::run(loud("single", Run::IsHopeless)).await,
        "run_configures" => return service_core::run(Configuring).await,
        other => return Err(Error::msg(format!("`{other}` is not a known argument"))),
    };
    let services = builder.start_all().await?;
    let ended = match what.as_str() {
        "forgetful" => std::future::pending().await,
        "over" => {
            services.shutdown().await?;
            // Until then, the shutdown may have been the answer to a signal.
            tokio::time::sleep(Duration::from_millis(1200)).await;
            println!("main: the services are over");
            std::future::pending().await
        }
        "over_by_signal" => {
            services.until_shutdown().await?;
            println!("main: the services are over");
            std::future::pending().await
        }
        "early_signal" => {
            println!("main: started");
            tokio::time::sleep(Duration::from_millis(300)).await;
            services.until_shutdown().await?;
            // Until then, the program is given time to wait for the shutdown.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            println!("main: the services are over");
            std::future::pending().await
        }
        "beside_task" => {
            let token = tokio_util::sync::CancellationToken::new();
            let task = tokio::spawn(service_core::run_until(loud("single", Run::Ends), token.clone()));
            tokio::time::sleep(Duration::from_millis(200)).await;
            println!("main: both run");
            let ended = services.until_shutdown().await;
            token.cancel();
            drop(task.await);
            ended
        }
        "stuck_beside" => {
            let other = ServiceRegistry::builder().without_discovered().service("other", loud("other", Run::Ends));
            let other = other.build().await?;
            other.start().await?;
            services.shutdown().await.ok();
            services.until_shutdown().await.ok();
            // Longer than the process waits for blocking code.
            tokio::time::sleep(Duration::from_secs(4)).await;
            println!("main: the other one still runs");
            other.shutdown().await
        }
        "two" => {
            let second =
                || ServiceRegistry::builder().without_discovered().service("second", loud("second", Run::Ends));
            let ended = services.clone().until_shutdown().await;
            let second = second().start_all().await?;
            println!("main: the second one");
            second.until_shutdown().await?;
            drop(services);
            ended
        }
        "stuck_by_itself" => {
            let own = services.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                own.shutdown().await
            });
            services.until_shutdown().await
        }
        "by_itself" => {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            println!("main: listens");
            terminate.recv().await;
            let ended = services.shutdown().await;
            // Longer than `shutdown_timeout`.
            tokio::time::sleep(Duration::from_millis(600)).await;
            ended
        }
        "lingers" => {
            let ended = services.until_shutdown().await;
            // Longer than the wait after which a program without a wait for the shutdown is ended.
            tokio::time::sleep(Duration::from_millis(1600)).await;
            println!("main: lingered");
            ended
        }
        "waits_twice" => {
            let once = tokio::time::timeout(Duration::from_millis(10), services.clone().until_shutdown()).await;
            println!("main: {}", if once.is_err() { "waits again" } else { "ended early" });
            services.until_shutdown().await
        }
        _ => services.until_shutdown().await,
    };
    println!("main: ended");
    ended
}

/// Has a setting that a test changes.
struct WithSize {
    size: u32,
}

#[derive(serde::Deserialize)]
struct Settings {
    size: u32,
}

#[service(interval = "50ms", discover = false)]
impl WithSize {
    fn configure(_cx: &Context, settings: Settings) -> Self {
        Self { size: settings.size }
    }

    async fn update(&mut self) {
        println!("sized: runs with {}", self.size);
    }
}

/// Has a setting that a test sets in the environment.
struct Configuring;

#[service(interval = 60, discover = false)]
impl Configuring {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Settings {
            word: String,
        }
        println!("configuring: {}", cx.config::<Settings>()?.word);
        cx.stop();
        Ok(())
    }
}
