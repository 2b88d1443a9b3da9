//! `instances`: several services of one type, each with its own id, state, settings and rate limit.

use service_core::RegistryBuilder;
use service_core::prelude::*;

use crate::acting::{assert_says, has_line, logged, soon};
use crate::support::{Log, Scripted, secs};

/// Logs which instance runs and what it is configured with.
struct Packer {
    log: Log,
    runs: u32,
    size: u32,
}

#[derive(serde::Deserialize)]
struct Settings {
    #[serde(default = "one")]
    size: u32,
}

fn one() -> u32 {
    1
}

#[service(interval = 60, instances = 3, rate_limit = "1/m", discover = false)]
impl Packer {
    fn configure(cx: &Context, settings: Settings) -> Result<Self> {
        Ok(Self { log: cx.state::<Log>()?.clone(), runs: 0, size: settings.size })
    }

    async fn update(&mut self, cx: &Context) {
        self.runs += 1;
        let (number, of) = cx.instance();
        let permit = cx.permit().await;
        let Self { log, runs, size } = self;
        log.push(format!("{} is {number} of {of}, run {runs}, size {size}, {permit}", cx.service_id()));
    }

    async fn cleanup(&mut self, cx: &Context) {
        self.log.push(format!("cleanup {}", cx.service_id()));
    }
}

fn bed(log: &Log) -> TestBed {
    let log = log.clone();
    TestBed::new().with(|builder| builder.state(log).service_of::<Packer>("packer"))
}

/// A bed with this text as its `services.toml`.
fn with_file(log: &Log, text: &str) -> (TestBed, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    std::fs::write(&file, text).unwrap();
    (bed(log).with(|builder| builder.config_file(file)), folder)
}

fn lines(log: &Log) -> Vec<String> {
    let mut lines: Vec<String> = log.lines().into_iter().map(|(_, line)| line).collect();
    lines.sort();
    lines
}

async fn ids(builder: RegistryBuilder) -> Vec<String> {
    builder.build().await.unwrap().list()
}

fn builder() -> RegistryBuilder {
    ServiceRegistry::builder().without_discovered().state(Log::default())
}

#[tokio::test(start_paused = true)]
async fn each_instance_has_its_own_id_state_and_rate_limit() {
    let log = Log::default();
    let bed = bed(&log);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(61)).await;
    let expected: Vec<String> = (1..=3)
        .flat_map(|n| (1..=2).map(move |run| format!("packer_{n} is {n} of 3, run {run}, size 1, true")))
        .collect();
    assert_eq!(lines(&log), expected);
    assert_eq!(services.list(), ["packer_1", "packer_2", "packer_3"]);
    assert!(services.get("packer").is_none());
    soon(services.get("packer_2").unwrap().stop()).await.unwrap();
    assert_eq!(services.get("packer_3").unwrap().state(), ServiceState::Running);
    assert!(services.get("packer_1").unwrap().explain().to_string().contains("\n  instances   3"));
}

#[tokio::test(start_paused = true)]
async fn a_single_instance_has_the_id_without_a_number() {
    let log = Log::default();
    let bed = bed(&log).set("packer.instances", 1);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(
        (services.list(), lines(&log)),
        (vec!["packer".to_owned()], vec!["packer is 1 of 1, run 1, size 1, true".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_section_of_the_type_is_for_all_instances_and_one_of_an_id_for_one() {
    let log = Log::default();
    let (bed, _folder) = with_file(&log, "[packer]\ninstances = 2\nsize = 5\n[packer_2]\nsize = 7\ninterval = 1000");
    soon(bed.services().await.start()).await.unwrap();
    bed.run_for(secs(60)).await;
    let expected = [
        "packer_1 is 1 of 2, run 1, size 5, true",
        "packer_1 is 1 of 2, run 2, size 5, true",
        "packer_2 is 2 of 2, run 1, size 7, true",
    ];
    assert_eq!(lines(&log), expected);
}

/// The services of the second registration wait for a gate, so the service that depends on the type waits, too.
#[tokio::test(start_paused = true)]
async fn the_name_of_a_type_stands_for_the_services_of_all_its_registrations() {
    let log = Log::default();
    let depends = |on: &str| ServiceOptions::new().depends_on([on]);
    let (gate, after) = (Scripted::new(&log, &[]), Scripted::new(&log, &[]));
    let bed = bed(&log).set("packer.instances", 2).with(|builder| {
        builder
            .service_of::<Packer>("night_packer")
            .options_of("night_packer", depends("gate"))
            .service("gate", gate)
            .options_of("gate", ServiceOptions::new().enabled(false))
            .service("after", after)
            .options_of("after", depends("packer"))
    });
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    let state = |id: &str| services.get(id).unwrap().state();
    assert_eq!((state("packer_2"), state("night_packer_1")), (ServiceState::Running, ServiceState::Starting));
    assert_eq!(state("after"), ServiceState::Starting);
    soon(services.get("gate").unwrap().start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(state("after"), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn discovered_services_and_closures_have_instances_too() {
    let discovered = ServiceRegistry::builder().only(["annotated"]).set("annotated.instances", 2);
    assert_eq!(ids(discovered).await, ["annotated_1", "annotated_2"]);
    let none = ServiceRegistry::builder().except(["annotated"]).set("annotated.instances", 2);
    assert_eq!(ids(none).await, [""; 0]);
    let log = Log::default();
    let closures = builder().service_fn("job", move || Scripted::new(&log, &[]));
    let closures = closures.options_of("job", ServiceOptions::new().instances(2));
    assert_eq!(ids(closures).await, ["job_1", "job_2"]);
    let other_id = builder().service_of::<Packer>("fast");
    assert_eq!(ids(other_id).await, ["fast_1", "fast_2", "fast_3"]);
    // The most that is allowed.
    let many = ids(builder().service_of::<Packer>("packer").set("packer.instances", 10_000)).await;
    assert_eq!((many.len(), many.contains(&"packer_10000".to_owned())), (10_000, true));
}

#[tokio::test(start_paused = true)]
async fn options_of_takes_the_name_of_all_instances_and_the_id_of_one() {
    let interval = |seconds| ServiceOptions::new().interval(secs(seconds));
    let schedule = |services: &ServiceRegistry, id: &str| services.get(id).unwrap().explain().schedule;
    for id in ["packer", "fast"] {
        let (second, third) = (format!("{id}_2"), format!("{id}_3"));
        let builder = builder().service_of::<Packer>(id);
        let builder = builder.options_of(&second, interval(7)).options_of(id, interval(5).initial_delay(secs(1)));
        let services = builder.build().await.unwrap();
        assert_eq!(
            (schedule(&services, &second), schedule(&services, &third)),
            ("every 7s".to_owned(), "every 5s".to_owned())
        );
        let delay = services.get(&second).unwrap().explain().options;
        assert!(delay.iter().any(|option| option.key == "initial_delay" && option.value == "1s"));
    }
    let by_type = builder().service_of::<Packer>("fast").options_of("packer", interval(9)).build().await.unwrap();
    assert_eq!(schedule(&by_type, "fast_2"), "every 9s");
    let by_both =
        builder().service_of::<Packer>("fast").options_of("fast_2", interval(7)).options_of("packer", interval(9));
    let by_both = by_both.build().await.unwrap();
    assert_eq!(["fast_1", "fast_2"].map(|id| schedule(&by_both, id)), ["every 9s", "every 7s"]);
    let unknown = builder().service_of::<Packer>("packer").options_of("packer_4", interval(5)).build().await;
    assert_says(unknown, &["`options_of` names `packer_4`", "did you mean `packer_"]);
    let one = builder().service_of::<Packer>("packer").options_of("packer_1", ServiceOptions::new().instances(2));
    assert_says(one.build().await, &["`options_of` sets `instances` of `packer_1`", "for all services of a type"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_depends_on_the_name_waits_for_all_and_stops_before_all() {
    for on in ["packer", "fast"] {
        let log = Log::default();
        let state = log.clone();
        let api = Scripted::new(&log, &[]);
        let options = ServiceOptions::new().depends_on([on]);
        let bed = TestBed::new().with(|builder| {
            builder.state(state).service_of::<Packer>("fast").service("api", api).options_of("api", options)
        });
        let bed = bed.set("fast_2.enabled", false);
        let services = bed.services().await;
        soon(services.start()).await.unwrap();
        let api = services.get("api").unwrap();
        assert_eq!(api.health().reason.as_deref(), Some("waiting for fast_2"), "{on}");
        soon(services.get("fast_2").unwrap().start()).await.unwrap();
        bed.run_for(secs(1)).await;
        assert_eq!(api.state(), ServiceState::Running);
        soon(services.shutdown()).await.unwrap();
        let order: Vec<String> =
            log.lines().into_iter().map(|(_, line)| line).filter(|line| line.starts_with("cleanup")).collect();
        assert_eq!(order[0], "cleanup", "api ends first: {order:?}");
        assert_eq!(order.len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_depends_on_its_own_name_is_a_cycle() {
    let options = ServiceOptions::new().depends_on(["packer"]);
    let built = builder().service_of::<Packer>("packer").options_of("packer", options).build().await;
    assert_says(built, &["in a cycle: packer -> packer_1 -> packer"]);
}

#[tokio::test(start_paused = true)]
async fn wrong_numbers_are_errors_before_anything_starts() {
    for (text, found) in [("0", "found 0"), ("10001", "found 10001"), ("\"many\"", "found \"many\"")] {
        let (bed, _folder) = with_file(&Log::default(), &format!("[packer]\ninstances = {text}"));
        let built = tokio::spawn(async move { bed.services().await }).await;
        let panic = *built.unwrap_err().into_panic().downcast::<String>().unwrap();
        for part in ["`instances` of service `packer`", "services.toml:2", found, "a whole number from 1 to 10000"] {
            assert!(panic.contains(part), "no `{part}` in: {panic}");
        }
    }
    let set = |key: &str| builder().service_of::<Packer>("packer").set(key, 2).build();
    assert_says(set("packer_2.instances").await, &["`instances` of service `packer_2`", "set it for `packer`"]);
    let packer = builder().service_of::<Packer>("packer_").set("packer.instances", 2).build().await;
    assert_says(packer, &["service `packer_`", "`instances = 2`", "`packer__1` is no id"]);
    assert_says(set("defaults.instances").await, &["`instances` of `[defaults]`", "cannot apply to all services"]);
    // A mistake in the section of the type is one error, not one for each instance.
    let wrong =
        builder().service_of::<Packer>("packer").set("packer.interval", 0).build().await.unwrap_err().to_string();
    assert_eq!(wrong.matches("`interval` of service").count(), 1, "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn a_clash_of_ids_names_both_places() {
    let log = Log::default();
    let clash = builder().service_of::<Packer>("packer").service("packer_2", Scripted::new(&log, &[])).build().await;
    assert_says(
        clash,
        &["two services have the id `packer_2`", "Packer, instance 2 of 3", "Scripted", "instances.rs:"],
    );
    let twice = builder().service_of::<Packer>("packer").service_of::<Packer>("packer").build().await;
    let twice = twice.unwrap_err().to_string();
    assert_eq!(twice.matches("two services have the id").count(), 1, "{twice}");
}

#[tokio::test(start_paused = true)]
async fn a_ready_made_instance_cannot_be_several() {
    let log = Log::default();
    let options = ServiceOptions::new().instances(2);
    let built = builder().service("job", Scripted::new(&log, &[])).options_of("job", options).build().await;
    assert_says(built, &["service `job`", "instances.rs:", "`instances = 2`", "ServiceOptions at", "`service_fn`"]);
}

/// Has the id that a second instance of `Packer` would have.
struct Packer2;

#[service(name = "packer_2", discover = false)]
impl Packer2 {
    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn an_id_with_a_number_that_is_the_name_of_another_type_is_an_error() {
    let both = builder().service_of::<Packer>("packer").service("other", Packer2).build().await;
    assert_says(both, &["service `packer_2` (", "is the name of another registered type", "Packer2"]);
    let taken = builder().service_of::<Packer>("packer").service("packer_2", Packer2).build().await;
    assert_says(taken, &["two services have the id `packer_2`"]);
    // Nothing has that id with fewer instances.
    let fewer = builder().service_of::<Packer>("packer").service("packer_2", Packer2).set("packer.instances", 1);
    assert_eq!(ids(fewer).await, ["packer", "packer_2"]);
}

/// Another type of the same name.
mod elsewhere {
    use service_core::prelude::*;

    pub(super) struct Packer2;

    #[service(name = "packer_2", discover = false)]
    impl Packer2 {
        async fn update(&mut self) {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_the_name_of_another_type_is_an_error_while_the_registry_runs() {
    for with_both in [false, true] {
        let services = builder().build().await.unwrap();
        services.register("packer_2", Packer2).await.unwrap();
        if with_both {
            services.register("another", Packer2).await.unwrap();
        }
        let other = services.register("other", elsewhere::Packer2).await.unwrap_err().to_string();
        assert!(
            other.contains("service `packer_2` (") && other.contains("is the name of another registered type"),
            "{other}"
        );
    }
}

// The name of the type stands for all of its instances.
service_core::expect_services!["annotated"];

/// Depends on the type, not on an id.
struct Shipping(Log);

#[service(depends_on = [Packer], discover = false)]
impl Shipping {
    async fn update(&mut self) {
        self.0.push("ships");
    }
}

#[tokio::test(start_paused = true)]
async fn depends_on_takes_the_type_with_and_without_several_instances() {
    for instances in [1, 2] {
        let log = Log::default();
        let shipping = Shipping(log.clone());
        let bed = bed(&log).with(|builder| builder.service("shipping", shipping)).set("packer.instances", instances);
        let services = bed.services().await;
        soon(services.start()).await.unwrap();
        bed.run_for(secs(1)).await;
        assert_eq!(log.count("ships"), 1, "with {instances}");
        assert_eq!(services.list().len() as u64, instances + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn log_lines_spans_and_health_show_the_id_of_the_instance() {
    let log = Log::default();
    let bed = bed(&log);
    let services = bed.services().await;
    let (lines, _guard) = logged();
    soon(services.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    let shown: Vec<String> = services.health().services.into_iter().map(|health| health.service_id).collect();
    assert_eq!(shown, ["packer_1", "packer_2", "packer_3"]);
    soon(services.shutdown()).await.unwrap();
    for id in ["[packer_1]", "[packer_2]", "[packer_3]"] {
        assert!(has_line(&lines, &[id, "stopped"]), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_registered_while_the_registry_runs_reads_the_section_of_the_type() {
    let log = Log::default();
    let (bed, _folder) = with_file(&log, "[packer]\ninstances = 2\nsize = 5\n[packer_eu]\ninterval = 30");
    let services = bed.services().await;
    let eu = soon(services.register_of::<Packer>("packer_eu").setting("size", 4).start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(lines(&log), ["packer_eu is 1 of 1, run 1, size 5, true"]);
    let shown = eu.explain();
    assert_eq!(shown.schedule, "every 30s");
    assert!(shown.to_string().contains("\n  instances        1\n"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn the_name_of_several_services_is_no_id_for_another_one() {
    let services = builder().service_of::<Packer>("fast").build().await.unwrap();
    for id in ["packer", "fast"] {
        let taken = services.register_of::<Packer>(id).await;
        assert_says(taken, &[&format!("service id `{id}`"), "is taken", "`fast_1`", "choose another id"]);
    }
    for id in services.list() {
        soon(services.unregister(&id)).await.unwrap();
    }
    services.register_of::<Packer>("fast").await.unwrap();
    assert_says(services.run_once("packer").await, &["there is no service `packer`"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_registered_while_the_registry_runs_is_one() {
    let log = Log::default();
    let services = builder().state(log.clone()).build().await.unwrap();
    soon(services.register_of::<Packer>("extra").start()).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(lines(&log), ["extra is 1 of 1, run 1, size 1, true"]);
    let several = services.register_of::<Packer>("more").options(ServiceOptions::new().instances(2)).await;
    assert_says(several, &["service `more`", "`instances` has no effect", "an id of its own"]);
}
