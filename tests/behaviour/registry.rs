//! The registry: ids, discovery, starting, unregistering, and its errors.

use std::time::Duration;

use service_core::HealthStatus;
use service_core::prelude::*;

use crate::acting::{Acting, Configured, Plan, assert_says, soon};
use crate::support::{Log, Scripted, Step, secs};

/// The only annotated service of this test program.
#[derive(Default)]
struct Annotated;

#[service(interval = 60)]
impl Annotated {
    async fn update(&mut self) {}
}

/// Has neither `configure` nor `Default`, so only ready-made instances can be registered.
struct HandedOver;

#[service(interval = 60, discover = false)]
impl HandedOver {
    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn annotated_services_are_discovered_and_started() {
    let found = ServiceRegistry::discovered();
    assert_eq!(found.iter().map(|descriptor| descriptor.id()).collect::<Vec<_>>(), ["annotated"]);
    assert!(found[0].file().ends_with("registry.rs"));
    let services = ServiceRegistry::start_all().await.unwrap();
    assert_eq!(services.list(), ["annotated"]);
    assert_eq!(services.get("annotated").unwrap().state(), ServiceState::Running);
    soon(services.shutdown()).await.unwrap();
    assert!(ServiceRegistry::builder().except(["annotated"]).build().await.unwrap().list().is_empty());
    assert_eq!(ServiceRegistry::builder().only(["annotated"]).build().await.unwrap().list(), ["annotated"]);
}

#[tokio::test(start_paused = true)]
async fn only_and_except_reject_unknown_ids() {
    let built = ServiceRegistry::builder().only(["annotatd"]).except(["nothing_like_it"]).build().await;
    assert_says(built, &["`annotatd`", "did you mean `annotated`?", "`nothing_like_it`", "no annotated service"]);
}

#[tokio::test(start_paused = true)]
async fn the_error_for_a_duplicate_id_names_both_places() {
    let log = Log::default();
    let by_hand = ServiceRegistry::builder()
        .without_discovered()
        .service("twice", Scripted::new(&log, &[]))
        .service_fn("twice", || HandedOver)
        .build()
        .await;
    let file = "behaviour/registry.rs:";
    assert_says(by_hand, &["two services have the id `twice`", "Scripted", "HandedOver", file, "`name`", "`.except`"]);
    let annotated = ServiceRegistry::builder().service("annotated", HandedOver).build().await;
    let attribute = &format!("registry.rs:{}", Annotated::DESCRIPTOR.line());
    assert_says(annotated, &["the id `annotated`", attribute, "HandedOver", "`discover = false`"]);

    let bed = TestBed::new();
    let services = bed.services().await;
    services.register("twice", HandedOver).await.unwrap();
    let again = services.register("twice", HandedOver).await;
    assert_says(again, &["`twice` is taken", file, "and again at", "another id"]);
    assert_eq!(services.list(), ["twice"]);
}

#[tokio::test(start_paused = true)]
async fn an_id_may_be_a_string_that_is_made_at_run_time() {
    const WANTED: &[&str] = &["worker_0", "worker_1"];
    let mut builder = ServiceRegistry::builder().only(WANTED.iter().take(0)).except(Vec::<String>::new());
    for n in 0..2 {
        let id = format!("worker_{n}");
        let every = format!("{n}m 1s");
        builder = builder.set(format!("{id}.interval"), &every).service(id, HandedOver);
    }
    for id in WANTED {
        let after = ServiceOptions::new().depends_on([id]);
        builder = builder.service(format!("after_{id}"), HandedOver).options_of(format!("after_{id}"), after);
    }
    let services = builder.service_fn(String::from("closure"), || HandedOver).build().await.unwrap();
    assert_eq!(services.list(), ["after_worker_0", "after_worker_1", "closure", "worker_0", "worker_1"]);
    assert_eq!(services.get("worker_1").unwrap().explain().schedule, "every 1m 1s");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_id_is_an_error() {
    let services = TestBed::new().services().await;
    for id in ["", "Upper", "with-dash", "two__two", "defaults", "1st", "ümlaut", "_x"] {
        assert_says(services.register(id, HandedOver).await, &[&format!("`{id}`"), "is not a service id", "a-z"]);
    }
    for id in ["a", "email_sender", "v2_x9", "ends_"] {
        services.register(id, HandedOver).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_for_a_type_that_cannot_be_built_says_what_to_add() {
    let parts = &["service `one`", "HandedOver", "`configure`", "`Default`", "`service_fn`"];
    assert_says(ServiceRegistry::builder().without_discovered().service_of::<HandedOver>("one").build().await, parts);
    assert_says(TestBed::new().services().await.register_of::<HandedOver>("one").await, parts);
}

#[tokio::test(start_paused = true)]
async fn all_mistakes_are_reported_at_once() {
    let built = ServiceRegistry::builder()
        .without_discovered()
        .service("Bad", HandedOver)
        .service("twice", HandedOver)
        .service("twice", HandedOver)
        .service_of::<HandedOver>("unbuilt")
        .service("typed", HandedOver)
        .options_of("typed", ServiceOptions::new().interval(Duration::ZERO))
        .set("twice.max_failures", "many")
        .only(["unknown"])
        .build()
        .await;
    assert_says(built, &["`Bad`", "id `twice`", "`unbuilt`", "interval", "max_failures"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_start_does_not_keep_others_from_starting() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Fatal]));
    let bed = bed.with(|builder| {
        builder.service_of::<Configured>("broken").service("fine", HandedOver).service("off", HandedOver)
    });
    let services = bed.set("off.enabled", false).services().await;
    soon(services.start()).await.unwrap();
    let states: Vec<_> = services.health().services.iter().map(|service| service.state).collect();
    assert_eq!(states, [ServiceState::Failed, ServiceState::Running, ServiceState::Created]);
    assert_eq!(services.health().status, HealthStatus::Unhealthy);
    assert_says(soon(services.shutdown()).await, &["service `broken` failed: it is hopeless"]);
}

#[tokio::test(start_paused = true)]
async fn start_waits_at_most_30_seconds_in_all() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Take(29.0), Step::Hang, Step::Hang]));
    let bed = bed
        .with(|builder| ["a", "b", "c"].into_iter().fold(builder, |builder, id| builder.service_of::<Configured>(id)));
    let services = bed.services().await;
    let start = tokio::time::Instant::now();
    soon(services.start()).await.unwrap();
    assert_eq!(start.elapsed(), secs(30));
    let states: Vec<_> = services.health().services.iter().map(|service| service.state).collect();
    assert_eq!(states, [ServiceState::Running, ServiceState::Starting, ServiceState::Starting]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_while_starting_ends_in_time() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Hang, Step::Take(2.0), Step::Take(2.0)]));
    let bed = bed.with(|builder| {
        ["a", "b", "c"]
            .into_iter()
            .fold(builder.shutdown_timeout(secs(10)), |builder, id| builder.service_of::<Configured>(id))
    });
    let services = bed.services().await;
    let start = tokio::time::Instant::now();
    let starting = tokio::spawn({
        let services = services.clone();
        async move { services.start().await }
    });
    bed.run_for(secs(1)).await;
    soon(services.shutdown()).await.unwrap();
    assert!(start.elapsed() <= secs(11), "{:?}", start.elapsed());
    starting.await.unwrap().unwrap();
    assert!(services.health().services.iter().all(|service| service.state == ServiceState::Stopped));
    assert_eq!(
        (log.count("run"), log.times("cleanup")),
        (0, vec![2.0, 2.0]),
        "instances that were built are cleaned up"
    );
}

#[tokio::test(start_paused = true)]
async fn after_stop_all_everything_starts_again() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[]));
    let bed = bed.with(|builder| builder.service_of::<Configured>("a").service_of::<Configured>("b"));
    let services = bed.services().await;
    for _ in 0..2 {
        soon(services.start()).await.unwrap();
        bed.run_for(secs(1)).await;
        soon(services.stop_all()).await;
    }
    assert_eq!((log.count("configure"), log.count("run"), log.count("cleanup")), (4, 4, 4));
    soon(services.start()).await.unwrap();
    soon(services.start()).await.unwrap();
    assert_eq!(log.count("configure"), 6, "services that run already are not started again");
}

#[tokio::test(start_paused = true)]
async fn unregister_stops_cleans_up_and_removes_the_service() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(5.0)])).await;
    let services = bed.services().await;
    bed.run_for(secs(1)).await;
    soon(services.unregister("scripted")).await.unwrap();
    assert_eq!((log.times("cleanup"), services.list().len()), (vec![5.0], 0));
    assert_says(service.start().await, &["`scripted`", "unregistered"]);
    assert_says(service.wait_for(ServiceState::Running).await, &["`scripted`", "unregistered"]);
    service.stop().await.unwrap();
    services.register("scripted", HandedOver).await.unwrap();
    assert_says(services.unregister("scriptd").await, &["no service `scriptd`", "did you mean `scripted`?"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_unregisters_itself_and_another() {
    let (bed, log) = (TestBed::new(), Log::default());
    let other = bed.start(Scripted::new(&log, &[])).await;
    let own = Log::default();
    let inner = own.clone();
    bed.start(Acting::new(&own, move |cx| {
        let log = inner.clone();
        async move {
            cx.services().unregister("scripted").await?;
            cx.services().unregister(cx.service_id()).await?;
            log.push("on");
            Ok::<_, Error>(())
        }
    }))
    .await;
    bed.run_for(secs(1)).await;
    assert!(bed.services().await.list().is_empty());
    assert_eq!((own.count("on"), own.count("cleanup"), log.count("cleanup")), (1, 1, 1));
    assert_eq!(other.state(), ServiceState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_service_may_end_everything_from_its_run() {
    for what in ["shutdown", "stop_all", "cleanup_all"] {
        let (bed, log) = (TestBed::new(), Log::default());
        let steady = Log::default();
        let other = bed.start(Scripted::new(&steady, &[])).await;
        let inner = log.clone();
        let service = bed
            .start(Acting::new(&log, move |cx| {
                let log = inner.clone();
                async move {
                    let services = cx.services();
                    match what {
                        "shutdown" => services.shutdown().await?,
                        "stop_all" => services.stop_all().await,
                        _ => services.cleanup_all().await,
                    }
                    log.push("returned");
                    cx.sleep(secs(100)).await;
                    log.push("requested");
                    Ok::<_, Error>(())
                }
            }))
            .await;
        soon(service.wait_for(ServiceState::Stopped)).await.unwrap();
        soon(other.wait_for(ServiceState::Stopped)).await.unwrap();
        bed.run_for(secs(1)).await;
        assert_eq!((log.times("returned"), log.times("requested")), (vec![0.0], vec![0.0]), "{what}");
        assert_eq!((log.count("cleanup"), steady.count("cleanup")), (1, 1), "{what}");
        let left = bed.services().await.list().len();
        assert_eq!(left, if what == "cleanup_all" { 0 } else { 2 }, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_registry_stops_nothing() {
    let log = Log::default();
    {
        let bed = TestBed::new();
        bed.start(Scripted::new(&log, &[])).await;
    }
    tokio::time::sleep(secs(121)).await;
    assert_eq!(log.times("run"), [0.0, 60.0, 120.0]);
    assert_eq!(log.count("cleanup"), 0);
}

#[tokio::test(start_paused = true)]
async fn cleanup_all_removes_every_service() {
    let log = Log::default();
    let bed = TestBed::new()
        .with(|builder| builder.service("a", Scripted::new(&log, &[])).service("b", Scripted::new(&log, &[])));
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    soon(services.cleanup_all()).await;
    assert_eq!((services.list().len(), log.count("cleanup")), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn wait_for_does_not_miss_a_short_state() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(1.0), Step::Fail])).await;
    soon(service.wait_for(ServiceState::Running)).await.unwrap();
    soon(service.wait_for(ServiceState::BackingOff)).await.unwrap();
    assert_eq!(log.times("run").len(), 2);
    let waits = tokio::spawn({
        let service = service.clone();
        async move { service.wait_for(ServiceState::Draining).await }
    });
    bed.run_for(secs(1)).await;
    soon(service.stop()).await.unwrap();
    assert!(waits.await.unwrap().is_ok(), "it was draining for a moment");
    let failed = bed.start(Scripted::new(&log, &[Step::Fatal])).await;
    assert_says(
        soon(failed.wait_for(ServiceState::BackingOff)).await,
        &["cannot wait for service `scripted_2`", "has failed and will not become backing_off"],
    );
}

#[tokio::test(start_paused = true)]
async fn start_of_a_running_service_is_refused() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    assert_says(service.start().await, &["cannot start service `scripted`", "running already"]);
    service.pause().await.unwrap();
    assert_says(service.start().await, &["cannot start service `scripted`", "running already"]);
}

#[test]
fn services_run_on_a_runtime_without_io() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let builder = ServiceRegistry::builder().without_discovered().service_fn("alone", || HandedOver);
        let services = builder.start_all().await.unwrap();
        assert_eq!(services.get("alone").unwrap().state(), ServiceState::Running);
        services.shutdown().await.unwrap();
    });
}

#[test]
fn without_a_runtime_start_is_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let services = runtime.block_on(async { TestBed::new().services().await });
    let service = runtime.block_on(services.register("one", HandedOver).into_future()).unwrap();
    drop(runtime);
    let mut start = std::pin::pin!(service.start());
    let polled = start.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(result) = polled else { panic!("it waits") };
    assert_says(result, &["runtime"]);
    assert_eq!(service.state(), ServiceState::Created);
}
