//! The test bed: all annotated services, and one run of a service that `configure` builds.

use service_core::prelude::*;

use crate::acting::{Configured, Plan, soon};
use crate::support::{Log, Step, secs};

#[tokio::test(start_paused = true)]
async fn start_all_starts_every_annotated_service_on_virtual_time() {
    let bed = TestBed::new().set("annotated.interval", 30);
    let services = soon(bed.start_all()).await;
    assert_eq!(services.list(), ["annotated"]);
    bed.run_for(secs(3600)).await;
    assert_eq!(services.get("annotated").unwrap().health().runs, 121);
    let none = TestBed::new().with(|builder| builder.except(["annotated"]));
    assert_eq!(none.start_all().await.list(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn start_all_starts_the_services_of_the_builder_too() {
    let log = Log::default();
    let plan = Plan::new(&log, &[Step::Fatal]);
    let bed = TestBed::new().state(plan).with(|builder| builder.only(["annotated"]).service_of::<Configured>("job"));
    let services = soon(bed.start_all()).await;
    assert_eq!(services.list(), ["annotated", "job"]);
    assert_eq!(services.get("job").unwrap().state(), ServiceState::Failed, "a test may be about that");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the registry of the bed exists already: call `start_all` first")]
async fn start_all_comes_first() {
    let bed = TestBed::new();
    bed.services().await;
    bed.start_all().await;
}

#[tokio::test(start_paused = true)]
async fn start_all_leaves_out_the_annotated_services_if_the_bed_says_so() {
    let plan = Plan::new(&Log::default(), &[]);
    let bed = TestBed::new().state(plan).with(|builder| builder.without_discovered().service_of::<Configured>("job"));
    assert_eq!(soon(bed.start_all()).await.list(), ["job"]);
}

#[tokio::test(start_paused = true)]
async fn without_start_all_the_annotated_services_are_left_out() {
    assert_eq!(TestBed::new().with(|builder| builder.only(["annotated"])).services().await.list(), [""; 0]);
}

/// Does not end before 5 s have passed.
#[derive(Default)]
struct SlowToEnd;

#[service(interval = 60, discover = false)]
impl SlowToEnd {
    async fn update(&mut self) {}

    async fn cleanup(&mut self) {
        tokio::time::sleep(secs(5)).await;
    }
}

/// Its state shows why it does not run, so that is no panic.
#[derive(Default)]
struct Broken;

#[service(max_failures = 0, discover = false)]
impl Broken {
    async fn configure() -> Result<Self> {
        Err(Error::fatal("it is broken"))
    }

    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_at_its_start_is_returned() {
    let broken = soon(TestBed::new().start_of::<Broken>()).await;
    assert_eq!(broken.state(), ServiceState::Failed);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the service cannot be started: cannot start service `twin`: a shutdown is in progress")]
async fn a_refused_start_ends_the_test() {
    let bed = TestBed::new();
    bed.start_of::<SlowToEnd>().await;
    let services = bed.services().await;
    let _shutdown = tokio::spawn(async move { services.shutdown().await });
    bed.run_for(secs(1)).await;
    bed.start_of::<Twin>().await;
}

/// Reads a setting and the shared value, and depends on a service that is not there.
struct Reader {
    size: u64,
}

#[derive(serde::Deserialize)]
struct Settings {
    size: u64,
}

#[service(interval = 60, initial_delay = 100, depends_on = ["elsewhere"], discover = false)]
impl Reader {
    async fn configure(cx: &Context, settings: Settings) -> Result<Self> {
        cx.state::<Log>()?.push(format!("configure {}", settings.size));
        Ok(Self { size: settings.size })
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.state::<Log>()?.push(format!("{} run {}", cx.service_id(), cx.run_number()));
        if self.size == 0 { Err(Error::msg("it is empty")) } else { Ok(Outcome::processed(self.size).again()) }
    }

    async fn cleanup(&mut self, cx: &Context) -> Result<()> {
        cx.state::<Log>()?.push("cleanup");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn update_of_builds_the_instance_runs_it_once_and_cleans_it_up() {
    let log = Log::default();
    let bed = TestBed::new().state(log.clone()).set("size", 7);
    for _ in 0..2 {
        let report = soon(bed.update_of::<Reader>()).await;
        assert_eq!((report.processed(), report.again(), report.error().is_none()), (7, true, true));
    }
    bed.run_for(secs(1000)).await;
    let lines: Vec<String> = log.lines().into_iter().map(|(_, line)| line).collect();
    let one = ["configure 7", "reader run 1", "cleanup"];
    assert_eq!(lines, [one, one].concat());
    assert_eq!(bed.services().await.list(), [""; 0]);
}

/// A fake under the id of the type, and several instances of it.
#[tokio::test(start_paused = true)]
async fn update_of_runs_beside_services_that_have_the_name_of_its_type() {
    let log = Log::default();
    let fake = TestBed::new().state(log.clone()).set("size", 7);
    fake.services().await.register("reader", HandedOver).await.unwrap();
    assert_eq!(soon(fake.update_of::<Reader>()).await.processed(), 7);
    let runs: Vec<String> = log.lines().into_iter().map(|(_, line)| line).filter(|line| line.contains("run")).collect();
    assert_eq!(runs, ["reader_2 run 1"]);

    let two = ServiceOptions::new().instances(2);
    let bed = TestBed::new()
        .with(move |builder| builder.except(["annotated"]).service_of::<Twin>("twin").options_of("twin", two));
    assert_eq!(soon(bed.start_all()).await.list(), ["twin_1", "twin_2"]);
    assert_eq!(soon(bed.update_of::<Twin>()).await.processed(), 1);
}

#[derive(Default)]
struct Twin;

#[service(discover = false)]
impl Twin {
    async fn update(&mut self, cx: &Context) -> Outcome {
        Outcome::processed(u64::from(cx.instance().0))
    }
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_update_and_configure_are_in_the_report() {
    let empty = TestBed::new().state(Log::default()).set("size", 0);
    let report = empty.update_of::<Reader>().await;
    assert!(report.error().is_some_and(|error| error.to_string() == "it is empty"));
    let missing = TestBed::new().state(Log::default());
    let report = missing.update_of::<Reader>().await;
    assert!(report.error().is_some_and(|error| error.to_string().contains("`size`")), "{:?}", report.error());
}

/// Has neither `configure` nor `Default`.
struct HandedOver;

#[service(discover = false)]
impl HandedOver {
    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "has neither `configure` nor `Default`")]
async fn update_of_needs_a_way_to_build_the_service() {
    TestBed::new().update_of::<HandedOver>().await;
}

/// Continues until a stop is requested.
#[derive(Default)]
struct Endless;

#[service(discover = false)]
impl Endless {
    async fn run(&mut self, cx: &Context) {
        cx.stopping().await;
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "only a service with `update` can run once")]
async fn update_of_needs_an_update() {
    TestBed::new().update_of::<Endless>().await;
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
async fn update_of_works_with_a_database() {
    let log = Log::default();
    let bed = TestBed::new().state(log.clone()).set("size", 3);
    let _db = bed.sqlite().await;
    assert_eq!(bed.update_of::<Reader>().await.processed(), 3);
    assert_eq!(log.count("cleanup"), 1);
}

mod reports {
    #[derive(Default)]
    pub(super) struct Job;

    #[service_core::service(discover = false)]
    impl Job {
        async fn update(&mut self) {}
    }
}

mod mails {
    #[derive(Default)]
    pub(super) struct Job;

    #[service_core::service(discover = false)]
    impl Job {
        async fn update(&mut self) {}
    }
}

#[tokio::test(start_paused = true)]
async fn where_an_id_is_taken_a_number_is_appended() {
    // Two types of the same name.
    let bed = TestBed::new();
    let (report, mail) = (bed.start_of::<reports::Job>().await, bed.start_of::<mails::Job>().await);
    assert_eq!((report.id(), mail.id()), ("job", "job_2"));
    assert_eq!((report.state(), mail.state()), (ServiceState::Running, ServiceState::Running));
    // The name of the type stands for four services.
    let bed = TestBed::new().with(|builder| {
        let four = service_core::ServiceOptions::new().instances(4);
        builder.service_of::<mails::Job>("mails").options_of("mails", four)
    });
    let (report, mail) = (bed.start_of::<reports::Job>().await, bed.start_of::<mails::Job>().await);
    assert_eq!((report.id(), mail.id()), ("job_2", "job_3"));
}
