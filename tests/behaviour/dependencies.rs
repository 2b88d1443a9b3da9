//! `depends_on`: dependencies are started before and stopped after the service, which waits for them and names them.

use std::time::Duration;

use service_core::prelude::*;
use service_core::{HealthStatus, ServiceEventKind};

use crate::acting::{Acting, Configured, Plan, assert_says, soon};
use crate::events::drain;
use crate::support::{Log, Scripted, Step, secs};

/// Logs when it is built, runs and is cleaned up.
struct Named {
    log: Log,
    name: &'static str,
    cleanup: Step,
}

#[service(interval = 60, discover = false)]
impl Named {
    async fn update(&mut self) {
        self.log.push(format!("run {}", self.name));
    }

    async fn cleanup(&mut self) -> Result<()> {
        self.log.push(format!("cleanup {}", self.name));
        let _ = crate::support::act(self.cleanup).await?;
        self.log.push(format!("cleaned {}", self.name));
        Ok(())
    }
}

fn with(bed: TestBed, log: &Log, name: &'static str, depends_on: &'static [&'static str], cleanup: Step) -> TestBed {
    let named = Named { log: log.clone(), name, cleanup };
    let options = ServiceOptions::new().depends_on(depends_on.iter().copied());
    bed.with(|builder| builder.service(name, named).options_of(name, options))
}

/// `web` is `stop_last` and depends on `store`, on which `api` depends, too. `worker` depends on `web`.
fn with_stop_last(mut bed: TestBed, log: &Log, cleanup: Step) -> TestBed {
    let graph: [(&'static str, &'static [&'static str]); 5] =
        [("api", &["store"]), ("alone", &[]), ("store", &[]), ("web", &["store"]), ("worker", &["web"])];
    for (name, on) in graph {
        bed = with(bed, log, name, on, cleanup);
    }
    bed.set("web.stop_last", true)
}

fn position(log: &Log, what: &str) -> usize {
    log.lines().iter().position(|(_, line)| line == what).unwrap_or_else(|| panic!("no `{what}` in {:?}", log.lines()))
}

#[tokio::test(start_paused = true)]
async fn dependencies_start_first_and_stop_last() {
    let log = Log::default();
    let mut bed = TestBed::new();
    for (name, on) in [("api", &["cache", "queue"][..]), ("cache", &["store"]), ("queue", &["store"]), ("store", &[])] {
        bed = with(bed, &log, name, on, Step::Take(1.0));
    }
    let services = bed.services().await;
    let mut events = services.subscribe();
    soon(services.start()).await.unwrap();
    for (id, up) in drain(&mut events).await.into_iter().filter_map(|event| match event.kind {
        ServiceEventKind::InstanceBuilt => Some((event.service_id, "built")),
        ServiceEventKind::StateChanged { to: ServiceState::Running, .. } => Some((event.service_id, "up")),
        _ => None,
    }) {
        log.push(format!("{up} {id}"));
    }
    for (first, then) in [("store", "cache"), ("store", "queue"), ("cache", "api"), ("queue", "api")] {
        let (end, begin) = (position(&log, &format!("up {first}")), position(&log, &format!("built {then}")));
        assert!(end < begin, "{:?}", log.lines());
    }
    soon(services.stop_all()).await;
    for (first, then) in [("api", "cache"), ("api", "queue"), ("cache", "store"), ("queue", "store")] {
        let (end, begin) = (position(&log, &format!("cleaned {first}")), position(&log, &format!("cleanup {then}")));
        assert!(end < begin, "{:?}", log.lines());
    }
    assert_eq!(log.times("cleanup cache"), log.times("cleanup queue"), "concurrently");
}

#[tokio::test(start_paused = true)]
async fn a_service_waits_for_a_dependency_that_is_started_later_and_names_it() {
    let log = Log::default();
    let bed = TestBed::new().set("store.enabled", false);
    let bed = with(bed, &log, "store", &[], Step::Succeed);
    let bed = with(bed, &log, "api", &["store"], Step::Succeed);
    let bed = with(bed, &log, "web", &["api"], Step::Succeed);
    let services = bed.services().await;
    let start = tokio::time::Instant::now();
    soon(services.start()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO, "the start does not wait for a dependency that is not starting");
    let (api, web) = (services.get("api").unwrap(), services.get("web").unwrap());
    assert_eq!((api.state(), web.state()), (ServiceState::Starting, ServiceState::Starting));
    assert_eq!(api.health().reason.as_deref(), Some("waiting for store"));
    assert_eq!(web.health().reason.as_deref(), Some("waiting for api"));
    assert_eq!(api.health().status, HealthStatus::Degraded);
    bed.run_for(secs(500)).await;
    assert_eq!(log.count("run api"), 0);
    soon(services.get("store").unwrap().start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!((api.state(), web.state()), (ServiceState::Running, ServiceState::Running));
    assert_eq!((log.times("run api"), log.times("run web")), (vec![500.0], vec![500.0]));
    assert_eq!(api.health().reason, None);
}

#[tokio::test(start_paused = true)]
async fn a_service_starts_when_run_now_makes_its_paused_dependency_ready() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Fail]));
    let bed = bed.with(|builder| builder.service_of::<Configured>("store"));
    let bed = with(bed, &log, "api", &["store"], Step::Succeed);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    let (store, api) = (services.get("store").unwrap(), services.get("api").unwrap());
    store.pause().await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!(api.health().reason.as_deref(), Some("waiting for store"));
    soon(store.run_now()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!((store.state(), api.state()), (ServiceState::Paused, ServiceState::Running));
    assert_eq!(log.times("run api"), [100.0]);
}

#[tokio::test(start_paused = true)]
async fn a_service_waits_while_its_dependency_is_built() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Take(10.0)]));
    let bed = bed.with(|builder| builder.service_of::<Configured>("slow"));
    let api = Log::default();
    let bed = with(bed, &api, "api", &["slow"], Step::Succeed);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!((log.times("run"), api.times("run api")), (vec![10.0], vec![10.0]), "`start` waited for both");
}

#[tokio::test(start_paused = true)]
async fn a_service_waits_for_a_failed_dependency_until_its_reset() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Fatal]));
    let bed = bed.with(|builder| builder.service_of::<Configured>("store"));
    let bed = with(bed, &log, "api", &["store"], Step::Succeed);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    let api = services.get("api").unwrap();
    assert_eq!(services.get("store").unwrap().state(), ServiceState::Failed);
    assert_eq!((api.state(), api.health().reason), (ServiceState::Starting, Some("waiting for store".to_owned())));
    soon(services.get("store").unwrap().reset()).await.unwrap();
    soon(api.wait_for(ServiceState::Running)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_fails_later_stops_no_other_service() {
    let log = Log::default();
    let bed =
        TestBed::new().with(|builder| builder.service("store", Scripted::new(&log, &[Step::Succeed, Step::Fatal])));
    let api = Log::default();
    let bed = with(bed, &api, "api", &["store"], Step::Succeed);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(121)).await;
    assert_eq!(services.get("store").unwrap().state(), ServiceState::Failed);
    assert_eq!(api.times("run api"), [0.0, 60.0, 120.0]);
}

#[tokio::test(start_paused = true)]
async fn a_service_can_be_stopped_while_it_waits_for_a_dependency() {
    let log = Log::default();
    let bed = with(TestBed::new().set("store.enabled", false), &log, "store", &[], Step::Succeed);
    let bed = with(bed, &log, "api", &["store"], Step::Succeed);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    let api = services.get("api").unwrap();
    soon(api.stop()).await.unwrap();
    assert_eq!(api.state(), ServiceState::Stopped);
    soon(api.start()).await.unwrap();
    assert_eq!(api.state(), ServiceState::Starting, "the ready-made instance was never taken");
    soon(services.shutdown()).await.unwrap();
    assert_eq!((api.state(), log.lines().len()), (ServiceState::Stopped, 0));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_paused_while_it_waits_is_paused_when_it_is_ready() {
    let log = Log::default();
    let bed = with(TestBed::new().set("store.enabled", false), &log, "store", &[], Step::Succeed);
    let bed = with(bed, &log, "api", &["store"], Step::Succeed);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    let api = services.get("api").unwrap();
    api.pause().await.unwrap();
    soon(services.get("store").unwrap().start()).await.unwrap();
    soon(api.wait_for(ServiceState::Paused)).await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!(log.count("run api"), 0);
}

#[tokio::test(start_paused = true)]
async fn unknown_ids_and_cycles_are_errors_and_nothing_starts() {
    let log = Log::default();
    let build = |graph: &[(&'static str, &'static [&'static str])]| {
        let mut builder = ServiceRegistry::builder().without_discovered();
        for &(name, on) in graph {
            let named = Named { log: log.clone(), name, cleanup: Step::Succeed };
            builder =
                builder.service(name, named).options_of(name, ServiceOptions::new().depends_on(on.iter().copied()));
        }
        builder.start_all()
    };
    let unknown = build(&[("store", &[]), ("api", &["stroe"])]).await;
    assert_says(unknown, &["service `api`", "dependencies.rs:", "depends on `stroe`", "did you mean `store`?"]);
    let cycle = build(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"])]).await;
    assert_says(cycle, &["in a cycle: a -> b -> c -> a"]);
    assert_says(build(&[("me", &["me"])]).await, &["in a cycle: me -> me"]);
    let both = build(&[("a", &["b"]), ("b", &["a"]), ("c", &["missing"]), ("d", &["nothing"])]).await;
    assert_says(both, &["cycle", "`c`", "`missing`", "`d`", "`nothing`"]);
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn dependencies_are_checked_when_a_service_is_registered_by_hand() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let options = || ServiceOptions::new().depends_on(["store"]);
    let named = || Named { log: log.clone(), name: "x", cleanup: Step::Succeed };
    assert_says(services.register("api", named()).options(options()).await, &["`api`", "depends on `store`"]);
    services.register("store", named()).await.unwrap();
    services.register("api", named()).options(options()).await.unwrap();
    // An older service misses a dependency, which is not an error of the new one.
    services.unregister("store").await.unwrap();
    services.register("other", named()).await.unwrap();
    let back = ServiceOptions::new().depends_on(["api"]);
    assert_says(services.register("store", named()).options(back).await, &["in a cycle: api -> store -> api"]);
    assert_eq!(services.list(), ["api", "other"]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_cleans_up_a_chain_of_hanging_runs_in_time() {
    let log = Log::default();
    let mut bed = TestBed::new().set("drain_timeout", 1000).with(|builder| builder.shutdown_timeout(secs(25)));
    for (name, on) in [("a", &[][..]), ("b", &["a"]), ("c", &["b"]), ("d", &["c"])] {
        let options = ServiceOptions::new().depends_on(on.iter().copied());
        let acting = Acting::new(&log, |_| std::future::pending::<()>());
        bed = bed.with(|builder| builder.service(name, acting).options_of(name, options));
    }
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(log.count("run"), 4);
    let start = tokio::time::Instant::now();
    soon(services.shutdown()).await.unwrap();
    assert!(start.elapsed() <= secs(25), "{:?}", start.elapsed());
    assert_eq!(log.count("cleanup"), 4);
}

/// Services that do not run any more take no share of the time.
#[tokio::test(start_paused = true)]
async fn the_time_of_a_shutdown_is_for_the_services_that_run() {
    let log = Log::default();
    let mut bed = TestBed::new().with(|builder| builder.shutdown_timeout(secs(25)));
    for (name, on, runs_for) in [("a", &[][..], 0), ("b", &["a"], 0), ("c", &["b"], 15)] {
        let options = ServiceOptions::new().depends_on(on.iter().copied()).drain_timeout(secs(60));
        let ends = log.clone();
        let acting = Acting::new(&log, move |_| {
            let ends = ends.clone();
            async move {
                tokio::time::sleep(secs(runs_for)).await;
                ends.push("run end");
            }
        });
        bed = bed.with(|builder| builder.service(name, acting).options_of(name, options));
    }
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    for name in ["a", "b"] {
        soon(services.get(name).unwrap().stop()).await.unwrap();
    }
    soon(services.shutdown()).await.unwrap();
    assert_eq!((log.count("cleanup"), log.count("run end")), (3, 3), "{:?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_aborts_a_chain_of_hanging_cleanups_in_time() {
    let log = Log::default();
    let mut bed = TestBed::new().with(|builder| builder.shutdown_timeout(secs(20)));
    for (name, on) in [("a", &[][..]), ("b", &["a"]), ("c", &["b"])] {
        bed = with(bed, &log, name, on, Step::Hang);
    }
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    let start = tokio::time::Instant::now();
    soon(services.shutdown()).await.unwrap();
    assert!(start.elapsed() <= secs(20), "{:?}", start.elapsed());
    for name in ["a", "b", "c"] {
        assert_eq!(log.count(&format!("cleanup {name}")), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_last_services_and_their_dependencies_stop_after_all_others() {
    let log = Log::default();
    let services = with_stop_last(TestBed::new(), &log, Step::Take(1.0)).services().await;
    soon(services.start()).await.unwrap();
    soon(services.stop_all()).await;
    for (first, then) in [("worker", "web"), ("api", "web"), ("alone", "web"), ("web", "store")] {
        let (end, begin) = (position(&log, &format!("cleaned {first}")), position(&log, &format!("cleanup {then}")));
        assert!(end < begin, "{first} stops before {then}: {:?}", log.lines());
    }
    assert_eq!(log.times("cleanup worker"), log.times("cleanup api"), "concurrently");
}

#[tokio::test(start_paused = true)]
async fn stop_last_services_get_their_share_of_the_shutdown_timeout() {
    let log = Log::default();
    let bed = TestBed::new().with(|builder| builder.shutdown_timeout(secs(20)));
    let services = with_stop_last(bed, &log, Step::Hang).services().await;
    soon(services.start()).await.unwrap();
    let start = tokio::time::Instant::now();
    soon(services.shutdown()).await.unwrap();
    assert!(start.elapsed() <= secs(20), "{:?}", start.elapsed());
    for name in ["worker", "api", "alone", "web", "store"] {
        assert_eq!(log.count(&format!("cleanup {name}")), 1, "{name}");
    }
}
