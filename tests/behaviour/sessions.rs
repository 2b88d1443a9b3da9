//! Sessions: from a start of the registry to the end of its shutdown, and the callers that wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use service_core::prelude::*;
use tokio::runtime::{Builder, Handle};

use crate::acting::soon;
use crate::support::{Log, Scripted, Step, secs};

#[tokio::test(start_paused = true)]
async fn a_start_after_a_shutdown_reopens_the_registry() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let writer = log.clone();
    let service = services.register_fn("one", move || Scripted::new(&writer, &[])).start().await.unwrap();
    soon(services.shutdown()).await.unwrap();
    // Both the handle and the registry reopen it.
    for start_all in [false, true] {
        if start_all {
            services.start().await.unwrap()
        } else {
            service.start().await.unwrap()
        }
        let closed = tokio::spawn(services.clone().until_shutdown());
        bed.run_for(secs(3600)).await;
        assert_eq!((service.state(), closed.is_finished()), (ServiceState::Running, false));
        soon(services.shutdown()).await.unwrap();
        soon(closed).await.unwrap().unwrap();
        assert_eq!(service.state(), ServiceState::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_during_a_shutdown_is_an_error_and_changes_nothing() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(5.0)])).await;
    let services = bed.services().await;
    bed.run_for(secs(1)).await;
    let shutdown = tokio::spawn({
        let services = services.clone();
        async move { services.shutdown().await }
    });
    bed.run_for(secs(1)).await;
    let error = services.start().await.unwrap_err().to_string();
    assert!(error.contains("a shutdown is in progress"), "{error}");
    soon(shutdown).await.unwrap().unwrap();
    assert_eq!(service.state(), ServiceState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn every_caller_of_closed_gets_the_result_of_the_shutdown() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fatal])).await;
    let services = bed.services().await;
    let stopping = tokio::spawn({
        let services = services.clone();
        async move { services.stopping().await }
    });
    let closed: Vec<_> = (0..3)
        .map(|_| {
            let services = services.clone();
            tokio::spawn(async move { services.closed().await })
        })
        .collect();
    bed.run_for(secs(1)).await;
    assert!(!stopping.is_finished() && service.state() == ServiceState::Failed);
    let dropped = tokio::time::timeout(Duration::ZERO, services.shutdown()).await;
    drop(dropped);
    soon(stopping).await.unwrap();
    for closed in closed {
        let error = soon(closed).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("service `scripted` failed: it is hopeless"), "{error}");
    }
    soon(services.stopping()).await;
    soon(services.closed()).await.unwrap_err();
}

/// Records the runtimes on which its code runs.
struct AtHome {
    home: tokio::runtime::Id,
    away: Arc<AtomicUsize>,
}

impl AtHome {
    fn note(&self) {
        self.away.fetch_add(usize::from(Handle::current().id() != self.home), SeqCst);
    }
}

#[service(interval = 3600, discover = false)]
impl AtHome {
    async fn update(&mut self) {
        self.note();
    }

    async fn cleanup(&mut self) {
        self.note();
    }
}

#[test]
fn all_code_of_a_service_runs_on_the_runtime_that_the_registry_was_first_started_on() {
    let home = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let away = Arc::new(AtomicUsize::new(0));
    let (id, count) = (home.handle().id(), away.clone());
    let (services, service) = home.block_on(async {
        let services = ServiceRegistry::builder().without_discovered().build().await.unwrap();
        services.start().await.unwrap();
        let build = async move |_: &Context| {
            let service = AtHome { home: id, away: count.clone() };
            service.note();
            service
        };
        let service = services.register_fn("at_home", build).await.unwrap();
        (services, service)
    });
    for action in ["start", "run", "stop", "start", "shutdown"] {
        // A runtime that only exists during the call.
        let guest = Builder::new_current_thread().enable_all().build().unwrap();
        guest.block_on(async {
            match action {
                "start" => service.start().await.unwrap(),
                "run" => drop(service.run_now().await.unwrap()),
                "stop" => service.stop().await.unwrap(),
                _ => services.shutdown().await.unwrap(),
            }
        });
    }
    assert_eq!((away.load(SeqCst), service.health().error_count), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn strict_makes_the_start_fail_and_stops_what_it_started() {
    for (strict, step) in [(true, Step::Fail), (true, Step::Fatal), (false, Step::Fail)] {
        let log = Log::default();
        let writer = log.clone();
        let broken = async move |_: &Context| match step {
            Step::Fail => Err(Error::msg("no secret")),
            _ => Err::<Scripted, _>(Error::fatal("no secret")),
        };
        let bed = TestBed::new().with(|builder| {
            let builder = builder.service_fn("broken", broken).service("steady", Scripted::new(&writer, &[]));
            if strict { builder.strict() } else { builder }
        });
        let services = bed.services().await;
        let started = soon(services.start()).await;
        let steady = services.get("steady").unwrap().state();
        if strict {
            let error = started.unwrap_err().to_string();
            assert!(error.contains("service `broken` did not start: no secret"), "{error}");
            assert_eq!(steady, ServiceState::Stopped);
        } else {
            started.unwrap();
            assert_eq!(steady, ServiceState::Running);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn strict_counts_a_first_failure_that_a_retry_has_repaired_meanwhile() {
    let (log, built) = (Log::default(), Arc::new(AtomicUsize::new(0)));
    let writer = log.clone();
    let (slow_log, slow) = (log.clone(), secs(5));
    let flaky = async move |_: &Context| match built.fetch_add(1, SeqCst) {
        0 => Err(Error::msg("no secret")),
        _ => Ok(Scripted::new(&writer, &[])),
    };
    let slow = async move |_: &Context| {
        tokio::time::sleep(slow).await;
        Ok::<_, Error>(Scripted::new(&slow_log, &[]))
    };
    let bed = TestBed::new().with(|builder| {
        let options = ServiceOptions::new().retry_delay(Duration::from_millis(100));
        builder.service_fn("flaky", flaky).options_of("flaky", options).service_fn("slow", slow).strict()
    });
    let error = soon(bed.services().await.start()).await.unwrap_err().to_string();
    assert!(error.contains("service `flaky` did not start: no secret"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn options_of_any_service_override_its_attribute() {
    let options = ServiceOptions::new().interval(secs(5));
    let log = Log::default();
    let bed = TestBed::new().with(|builder| {
        builder
            .service("one", Scripted::new(&log, &[]))
            .options_of("one", options)
            .options_of("one", ServiceOptions::new().jitter(secs(0)))
    });
    let services = bed.services().await;
    services.start().await.unwrap();
    bed.run_for(secs(10)).await;
    assert_eq!(services.get("one").unwrap().health().runs, 3);
    let unknown = ServiceRegistry::builder().without_discovered().options_of("on", ServiceOptions::new()).build().await;
    let error = unknown.unwrap_err().to_string();
    assert!(error.contains("`options_of` names `on`, but no service has that id"), "{error}");
}

#[tokio::test]
async fn register_does_nothing_before_it_is_awaited() {
    let services = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let log = Log::default();
    let register = services.register("one", Scripted::new(&log, &[]));
    assert!(services.list().is_empty());
    let service = register.options(ServiceOptions::new().interval(secs(60))).start().await.unwrap();
    assert_eq!(service.state(), ServiceState::Running);
    services.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_later_strict_start_stops_only_what_it_started() {
    let (log, builds) = (Log::default(), Arc::new(AtomicUsize::new(0)));
    let writer = log.clone();
    let second_fails = async move |_: &Context| match builds.fetch_add(1, SeqCst) {
        1 => Err(Error::fatal("no secret")),
        _ => Ok(Scripted::new(&writer, &[])),
    };
    let bed = TestBed::new().with(|builder| {
        builder.service_fn("second_fails", second_fails).service("steady", Scripted::new(&log, &[])).strict()
    });
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    soon(services.get("second_fails").unwrap().stop()).await.unwrap();
    let error = soon(services.start()).await.unwrap_err().to_string();
    assert!(error.contains("service `second_fails` did not start: no secret"), "{error}");
    assert_eq!(services.get("steady").unwrap().state(), ServiceState::Running);
}

/// Only an outage of the database excuses a service, so the result does not depend on when the probe is checked.
#[tokio::test(start_paused = true)]
async fn strict_counts_a_failure_during_an_outage_of_a_probe() {
    for slow in [false, true] {
        let fails = async move |_: &Context| {
            tokio::time::sleep(secs(if slow { 5 } else { 0 })).await;
            Err::<Scripted, _>(Error::msg("no secret"))
        };
        let bed = TestBed::new().with(|builder| {
            let options = ServiceOptions::new().needs(["api"]);
            let builder = builder.probe("api", secs(10), async || Err::<(), _>(Error::msg("down")));
            builder.service_fn("fails", fails).options_of("fails", options).strict()
        });
        let error = bed.services().await.start().await.unwrap_err().to_string();
        assert!(error.contains("service `fails` did not start: no secret"), "{error}");
    }
}

/// Another call starts a service that fails while this start waits for it.
#[tokio::test(start_paused = true)]
async fn a_strict_start_stops_no_service_that_another_call_starts() {
    let (log, builds) = (Log::default(), Arc::new(AtomicUsize::new(0)));
    let writer = log.clone();
    let fails_slowly = async move |_: &Context| {
        tokio::time::sleep(secs(3)).await;
        match builds.fetch_add(1, SeqCst) {
            1 => Err(Error::msg("no secret")),
            _ => Ok(Scripted::new(&writer, &[])),
        }
    };
    let writer = log.clone();
    let bed = TestBed::new().with(|builder| {
        let steady = move || Scripted::new(&writer, &[]);
        builder.service_fn("fails_slowly", fails_slowly).service_fn("steady", steady).strict()
    });
    let services = bed.services().await;
    services.start().await.unwrap();
    let (slow, steady) = (services.get("fails_slowly").unwrap(), services.get("steady").unwrap());
    slow.stop().await.unwrap();
    steady.stop().await.unwrap();
    let (_, started) = tokio::join!(slow.start(), async {
        tokio::time::sleep(secs(1)).await;
        services.start().await
    });
    let error = started.unwrap_err().to_string();
    assert!(error.contains("service `fails_slowly` did not start: no secret"), "{error}");
    assert_eq!(steady.state(), ServiceState::Stopped);
    bed.run_for(secs(120)).await;
    assert_eq!(slow.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_refused_start_after_a_shutdown_does_not_reopen_the_registry() {
    let log = Log::default();
    let bed = TestBed::new().with(|builder| builder.service("once", Scripted::new(&log, &[])));
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    soon(services.shutdown()).await.unwrap();
    // A ready-made instance is built once.
    soon(services.get("once").unwrap().start()).await.unwrap_err();
    soon(services.closed()).await.unwrap();
}

/// Reports an item in `cleanup`.
#[derive(Default)]
struct Flushing;

#[service(interval = 60, discover = false)]
impl Flushing {
    async fn update(&mut self) -> Outcome {
        Outcome::processed(2)
    }

    async fn cleanup(&mut self, cx: &Context) {
        cx.processed(7);
    }
}

#[tokio::test(start_paused = true)]
async fn items_that_cleanup_reports_are_kept_by_the_next_start() {
    let bed = TestBed::new();
    let service = bed.start_of::<Flushing>().await;
    bed.run_for(secs(1)).await;
    soon(service.stop()).await.unwrap();
    assert_eq!(service.health().total_processed, 9);
    soon(service.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(service.health().total_processed, 11);
}

/// Its `configure` takes ten seconds, and fails if `fails`.
struct Slow;

#[service(interval = 60, max_failures = 0, discover = false)]
impl Slow {
    async fn configure(cx: &Context) -> Result<Self> {
        tokio::time::sleep(secs(10)).await;
        if cx.config::<SlowConfig>()?.fails { Err(Error::msg("it failed")) } else { Ok(Self) }
    }

    async fn update(&mut self) {}
}

#[derive(serde::Deserialize)]
struct SlowConfig {
    #[serde(default)]
    fails: bool,
}

/// The start goes on when its caller has left, and the next caller waits for it, too.
#[tokio::test(start_paused = true)]
async fn a_start_waits_for_services_that_an_earlier_one_has_started() {
    for fails in [false, true] {
        let bed = TestBed::new().with(|builder| builder.strict().set("slow.fails", fails).service_of::<Slow>("slow"));
        let services = bed.services().await;
        assert!(tokio::time::timeout(secs(1), services.start()).await.is_err(), "it waits");
        let started = soon(services.start()).await;
        let state = services.get("slow").unwrap().state();
        match fails {
            false => assert_eq!((started.map_err(|error| error.to_string()), state), (Ok(()), ServiceState::Running)),
            true => assert!(started.unwrap_err().to_string().contains("it failed")),
        }
    }
}
