//! `Register::parent`: a service that belongs to the instance of another one ends before the `cleanup` of that
//! instance.

use service_core::prelude::*;
use tokio::time::Instant;

use crate::acting::{Acting, assert_says, has_line, logged, soon};
use crate::support::{Log, Step, act, built, secs};

/// Registers a child in its first run (or in `configure`), and then follows its script.
struct Manager {
    log: Log,
    script: std::vec::IntoIter<Step>,
}

impl Manager {
    fn new(log: &Log, script: &[Step]) -> Self {
        Self { log: log.clone(), script: Vec::from(script).into_iter() }
    }

    async fn add(log: &Log, cx: &Context) -> Result<()> {
        let services = cx.services();
        let this = services.get(cx.service_id()).expect("it is registered");
        services.register("child", Child::new(log, "child", Step::Succeed)).parent(&this).start().await?;
        Ok(())
    }
}

#[service(interval = 60, retry_delay = 5, discover = false)]
impl Manager {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        if cx.services().get("child").is_none() {
            Self::add(&self.log, cx).await?;
        }
        act(self.script.next().unwrap_or(Step::Succeed)).await.map(drop)
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        if failure.error().to_string() == "it failed" { Recovery::Rebuild } else { failure.recovery() }
    }

    async fn cleanup(&mut self, cx: &Context) {
        let left = cx.services().list().len() - 1;
        self.log.push(format!("cleanup manager, {left} left"));
    }
}

struct Child {
    log: Log,
    name: &'static str,
    cleanup: Step,
}

impl Child {
    fn new(log: &Log, name: &'static str, cleanup: Step) -> Self {
        Self { log: log.clone(), name, cleanup }
    }
}

#[service(interval = 1, drain_timeout = 2, discover = false)]
impl Child {
    async fn update(&mut self) {
        self.log.push(format!("run {}", self.name));
    }

    async fn cleanup(&mut self) -> Result<()> {
        self.log.push(format!("cleanup {}", self.name));
        act(self.cleanup).await.map(drop)
    }
}

/// Where the line is in the log.
fn position(log: &Log, what: &str) -> usize {
    log.lines().iter().position(|(_, line)| line == what).unwrap_or_else(|| panic!("no `{what}` in {:?}", log.lines()))
}

fn assert_child_ended_first(log: &Log) {
    assert!(position(log, "cleanup child") < position(log, "cleanup manager, 0 left"), "{:?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_child_is_stopped_and_unregistered_when_its_parent_stops() {
    let (bed, log) = (TestBed::new(), Log::default());
    let manager = bed.start(Manager::new(&log, &[])).await;
    bed.run_for(secs(3)).await;
    let child = bed.services().await.get("child").unwrap();
    assert_eq!((child.state(), child.explain().parent.as_deref()), (ServiceState::Running, Some("manager")));
    assert!(child.explain().to_string().contains("\n  parent    manager\n"));
    soon(manager.stop()).await.unwrap();
    assert_child_ended_first(&log);
    assert_eq!(child.state(), ServiceState::Stopped);
    assert_eq!(bed.services().await.list(), ["manager"]);
    assert_says(soon(child.start()).await, &["`child`", "unregistered"]);
}

#[tokio::test(start_paused = true)]
async fn a_child_ends_with_the_instance_when_that_is_rebuilt_panics_or_fails() {
    for (step, state, count) in [
        (Step::Fail, ServiceState::Running, 2),
        (Step::Panic, ServiceState::Running, 2),
        (Step::Fatal, ServiceState::Failed, 1),
    ] {
        let (bed, log) = (TestBed::new(), Log::default());
        let manager = bed.start_fn(built(&log, move |log, n| Manager::new(log, &[step][..2 - n.min(2)]))).await;
        bed.run_for(secs(4)).await;
        assert_child_ended_first(&log);
        assert_eq!(bed.services().await.list(), ["manager"], "{step:?}");
        bed.run_for(secs(4)).await;
        assert_eq!((manager.state(), log.count("built")), (state, count), "{step:?}");
        // The fresh instance has registered its own.
        assert_eq!(bed.services().await.list().len(), count, "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_ends_when_the_run_of_its_parent_is_aborted() {
    let (bed, log) = (TestBed::new().set("manager.drain_timeout", 10), Log::default());
    let manager = bed.start(Manager::new(&log, &[Step::Hang])).await;
    bed.run_for(secs(3)).await;
    soon(manager.stop()).await.unwrap();
    assert_child_ended_first(&log);
    assert_eq!(log.times("cleanup child"), [13.0], "the child continues while the run of the parent drains");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_a_run_keeps_the_instance_and_its_children() {
    let (bed, log) = (TestBed::new().set("manager.timeout", 2), Log::default());
    bed.start(Manager::new(&log, &[Step::Hang])).await;
    bed.run_for(secs(20)).await;
    assert_eq!((log.count("cleanup child"), log.count("run child")), (0, 21));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_end_in_time_delays_the_cleanup_of_its_parent_by_its_own_limits() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let manager = bed.start(Manager::new(&log, &[Step::Succeed])).await;
    bed.run_for(secs(1)).await;
    let child = services.register("slow", Child::new(&log, "slow", Step::Hang)).parent(&manager);
    soon(child.start()).await.unwrap();
    let start = Instant::now();
    soon(manager.stop()).await.unwrap();
    assert_eq!(start.elapsed(), secs(2), "the `drain_timeout` of the child limits its `cleanup`");
    assert!(position(&log, "cleanup slow") < position(&log, "cleanup manager, 0 left"));
}

/// Registers a child in `configure`, which fails the first time.
struct InConfigure;

#[service(interval = 60, discover = false)]
impl InConfigure {
    async fn configure(cx: &Context) -> Result<Self> {
        let log = cx.state::<Log>()?;
        Manager::add(log, cx).await?;
        log.push("configured");
        if log.count("configured") == 1 { Err(Error::msg("not yet")) } else { Ok(Self) }
    }

    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn a_child_that_a_failing_configure_has_registered_ends_before_the_retry() {
    let log = Log::default();
    let bed = TestBed::new().state(log.clone());
    let service = bed.start_of::<InConfigure>().await;
    bed.run_for(secs(10)).await;
    assert_eq!(service.state(), ServiceState::Running, "{:?}", service.health().last_error);
    assert_eq!((log.times("configured"), log.times("cleanup child")), (vec![0.0, 5.0], vec![0.0]));
    assert_eq!(bed.services().await.list(), ["child", "in_configure"]);
}

#[tokio::test(start_paused = true)]
async fn children_of_children_end_first() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let mut parent = bed.start(Manager::new(&log, &[])).await;
    for name in ["first", "second", "third"] {
        let child = services.register(name, Child::new(&log, name, Step::Take(1.0))).parent(&parent);
        parent = soon(child.start()).await.unwrap();
    }
    soon(services.get("manager").unwrap().stop()).await.unwrap();
    let order = ["cleanup third", "cleanup second", "cleanup first", "cleanup manager, 0 left"];
    assert!(order.map(|line| position(&log, line)).is_sorted(), "{:?}", log.lines());
    assert_eq!(services.list(), ["manager"]);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_unregistered_no_longer_belongs_to_its_parent() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let manager = bed.start(Manager::new(&log, &[])).await;
    let register = || services.register("other", Child::new(&log, "other", Step::Succeed));
    register().parent(&manager).await.unwrap();
    services.unregister("other").await.unwrap();
    let other = soon(register().start()).await.unwrap();
    soon(manager.stop()).await.unwrap();
    assert_eq!(
        (other.state(), services.list()),
        (ServiceState::Running, vec!["manager".to_owned(), "other".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_parent_without_an_instance_that_continues_is_an_error() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let manager = services.register("manager", Manager::new(&log, &[Step::Succeed])).await.unwrap();
    let child = || services.register("x", Child::new(&log, "x", Step::Succeed)).parent(&manager);
    assert_says(child().await, &["`x`", "children.rs:", "parent `manager`", "has not been started"]);
    soon(manager.start()).await.unwrap();
    child().await.unwrap();
    services.unregister("x").await.unwrap();
    soon(manager.stop()).await.unwrap();
    assert_says(child().await, &["`x`", "parent `manager`", "it is stopped"]);
    services.unregister("manager").await.unwrap();
    assert_says(child().await, &["parent `manager`"]);

    let other = TestBed::new();
    let stranger = other.start(Manager::new(&log, &[])).await;
    let child = services.register("x", Child::new(&log, "x", Step::Succeed)).parent(&stranger);
    assert_says(child.await, &["`x`", "`manager`", "another registry"]);
    assert_eq!(services.list(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_is_stopping_takes_no_children() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let refused = log.clone();
    let stopping = Acting::new(&log, move |cx| {
        let log = refused.clone();
        async move {
            cx.stopping().await;
            let services = cx.services();
            let this = services.get("acting").expect("it is registered");
            let child = services.register("x", Child::new(&log, "x", Step::Succeed)).parent(&this).await;
            log.push(child.map_or_else(|error| error.to_string(), |_| "registered".to_owned()));
        }
    });
    let service = soon(services.register("acting", stopping).start()).await.unwrap();
    bed.run_for(secs(1)).await;
    soon(service.stop()).await.unwrap();
    assert!(log.lines().iter().any(|(_, line)| line.contains("it is stopping")), "{:?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_stops_parents_and_children_in_its_time() {
    let log = Log::default();
    let bed = TestBed::new().with(|builder| builder.shutdown_timeout(secs(20))).set("drain_timeout", 1000);
    let services = bed.services().await;
    // Another service depends on the manager, so there are two tiers.
    let manager = bed.start(Manager::new(&log, &[Step::Hang])).await;
    let dependent = Child::new(&log, "dependent", Step::Hang);
    let options = ServiceOptions::new().depends_on(["manager"]);
    soon(services.register("dependent", dependent).options(options).start()).await.unwrap();
    let hanging = Acting::new(&log, |_| std::future::pending::<()>());
    soon(services.register("hanging", hanging).parent(&manager).start()).await.unwrap();
    bed.run_for(secs(1)).await;
    let start = Instant::now();
    soon(services.shutdown()).await.unwrap();
    assert!(start.elapsed() <= secs(20), "{:?}", start.elapsed());
    let dependent = position(&log, "cleanup dependent");
    for line in ["cleanup child", "cleanup", "cleanup manager, 1 left"] {
        assert!(dependent < position(&log, line), "{line}: {:?}", log.lines());
    }
    assert_eq!(services.list(), ["dependent", "manager"]);
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_stop_last_service_are_stopped_with_it() {
    let (bed, log) = (TestBed::new().set("manager.stop_last", true), Log::default());
    let services = bed.services().await;
    bed.start(Manager::new(&log, &[])).await;
    let other = services.register("other", Child::new(&log, "other", Step::Take(1.0)));
    soon(other.start()).await.unwrap();
    bed.run_for(secs(3)).await;
    soon(services.shutdown()).await.unwrap();
    assert_eq!((log.times("cleanup other"), log.times("cleanup child")), (vec![3.0], vec![4.0]));
    assert_child_ended_first_beside(&log, 1);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_depends_on_a_service_that_depends_on_its_parent_ends_before_both() {
    let (bed, log) = (TestBed::new().set("between.depends_on", vec!["manager"]), Log::default());
    let bed = bed.set("child.depends_on", vec!["between"]).set("manager.initial_delay", 1);
    let services = bed.services().await;
    bed.start(Manager::new(&log, &[])).await;
    soon(services.register("between", Child::new(&log, "between", Step::Take(1.0))).start()).await.unwrap();
    bed.run_for(secs(3)).await;
    assert_eq!(services.list(), ["between", "child", "manager"]);
    soon(services.shutdown()).await.unwrap();
    let cleanups = ["cleanup child", "cleanup between", "cleanup manager, 1 left"];
    assert_eq!(cleanups.map(|what| log.times(what)), [[3.0], [3.0], [4.0]]);
}

/// Starts children, each of which depends on the one before. By name, the first of them would also be the first to
/// stop.
async fn start_chain(services: &ServiceRegistry, manager: &ServiceHandle, log: &Log, cleanup: Step) {
    for (id, depends_on) in [("a_store", vec![]), ("b_cache", vec!["a_store"]), ("c_api", vec!["b_cache"])] {
        let options = ServiceOptions::new().depends_on(depends_on);
        let child = services.register(id, Child::new(log, id, cleanup)).options(options);
        soon(child.parent(manager).start()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn children_stop_before_those_that_they_depend_on() {
    for is_shutdown in [true, false] {
        let (bed, log) = (TestBed::new(), Log::default());
        let services = bed.services().await;
        let manager = bed.start(Manager::new(&log, &[])).await;
        start_chain(&services, &manager, &log, Step::Take(1.0)).await;
        bed.run_for(secs(3)).await;
        match is_shutdown {
            true => soon(services.shutdown()).await.unwrap(),
            false => soon(manager.stop()).await.unwrap(),
        }
        let cleanups = ["cleanup c_api", "cleanup b_cache", "cleanup a_store", "cleanup manager, 0 left"];
        assert_eq!(cleanups.map(|what| log.times(what)), [[3.0], [4.0], [5.0], [6.0]], "shutdown: {is_shutdown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_parent_has_the_time_of_its_children_in_a_shutdown() {
    let (bed, log) = (TestBed::new().with(|builder| builder.shutdown_timeout(secs(12))), Log::default());
    let (lines, _logging) = logged();
    let services = bed.services().await;
    let manager = bed.start(Manager::new(&log, &[])).await;
    start_chain(&services, &manager, &log, Step::Take(3.0)).await;
    bed.run_for(secs(3)).await;
    soon(services.shutdown()).await.unwrap();
    // The `drain_timeout` of the children ends each of their cleanups after 2 s.
    assert_eq!(log.times("cleanup manager, 0 left"), [9.0]);
    assert!(!has_line(&lines, &["did not stop in time"]), "{lines:?}");
}

/// Its `cleanup` takes a second.
struct Saving(Log);

#[service(interval = 60, discover = false)]
impl Saving {
    async fn update(&mut self) {}

    async fn cleanup(&mut self) {
        tokio::time::sleep(secs(1)).await;
        self.0.push("saved");
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_cleanup_hangs_leaves_its_parent_time_in_a_shutdown() {
    let log = Log::default();
    let bed = TestBed::new().with(|builder| builder.shutdown_timeout(secs(20))).set("drain_timeout", 1000);
    let services = bed.services().await;
    let saving = bed.start(Saving(log.clone())).await;
    let child = services.register("slow", Child::new(&log, "slow", Step::Hang)).parent(&saving);
    soon(child.start()).await.unwrap();
    bed.run_for(secs(3)).await;
    soon(services.shutdown()).await.unwrap();
    assert_eq!((log.count("cleanup slow"), log.count("saved")), (1, 1), "{:?}", log.lines());
}

fn assert_child_ended_first_beside(log: &Log, left: usize) {
    let manager = position(log, &format!("cleanup manager, {left} left"));
    assert!(position(log, "cleanup child") < manager, "{:?}", log.lines());
}
