//! Configuration from a real file, through the builder, to running services.

#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use service_core::{BuildError, Secret, prelude::*};

use crate::support::secs;

#[derive(serde::Deserialize, Clone, Debug)]
struct Settings {
    batch_size: u32,
    #[serde(default)]
    dsn: Secret<String>,
    #[serde(default)]
    linger: Duration,
}

type Seen = Arc<Mutex<Vec<Settings>>>;

struct Mailer(Settings);

#[service(interval = 30, discover = false)]
impl Mailer {
    fn configure(_cx: &Context, settings: Settings) -> Self {
        Self(settings)
    }

    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.state::<Seen>()?.lock().unwrap().push(self.0.clone());
        Ok(())
    }
}

/// A bed whose registry reads this file.
fn bed(text: &str) -> (TestBed, Seen, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    fs::write(&file, text).unwrap();
    let seen = Seen::default();
    (TestBed::new().state(seen.clone()).with(|builder| builder.config_file(file)), seen, folder)
}

#[tokio::test(start_paused = true)]
async fn the_file_sets_options_and_settings() {
    let (bed, seen, _folder) = bed("[mailer]\ninterval = 10\nbatch_size = 7\ndsn = \"hunter2\"\nlinger = \"5m\"");
    bed.start_of::<Mailer>().await;
    bed.run_for(secs(60)).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 7);
    assert_eq!((seen[0].batch_size, seen[0].linger), (7, secs(300)));
    assert_eq!(seen[0].dsn.expose(), "hunter2");
    assert!(!format!("{seen:?}").contains("hunter2"));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_own_setting_in_the_file_fails_only_that_service_at_once() {
    let (bed, seen, _folder) = bed("[mailer]\nbatch_size = \"many\"\n[mailer_2]\nbatch_size = 1");
    let wrong = bed.start_of::<Mailer>().await;
    let right = bed.start_of::<Mailer>().await;
    assert_eq!((wrong.state(), right.state()), (ServiceState::Failed, ServiceState::Running));
    let health = wrong.health();
    assert_eq!(health.failures, 1, "it is not retried");
    let error = health.last_error.unwrap();
    assert!(error.contains("`batch_size` of service `mailer`") && error.contains("services.toml:2"), "{error}");
    assert!(error.contains("found \"many\", expected a whole number"), "{error}");
    bed.run_for(secs(1)).await;
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_error_for_a_missing_setting_says_where_to_set_it() {
    let (bed, _seen, _folder) = bed("");
    let service = bed.start_of::<Mailer>().await;
    let error = service.health().last_error.unwrap();
    assert!(error.contains("under [mailer]") && error.contains("SERVICES__MAILER__BATCH_SIZE"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn mistakes_in_options_are_reported_together_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    let text = "[defaults]\njitter = -1\n[a]\ninterval = 0\nbatch_sise = 5\n[b]\nmax_failures = \"3\"\n[ab]";
    fs::write(&file, text).unwrap();
    let mail = |batch_size| Mailer(Settings { batch_size, dsn: Secret::default(), linger: Duration::ZERO });
    let builder = ServiceRegistry::builder().without_discovered().config_file(&file);
    let error = builder.service("a", mail(1)).service("b", mail(2)).start_all().await.unwrap_err().to_string();
    for part in [
        "`jitter` of `[defaults]`",
        "services.toml:2): found -1",
        "`interval` of service `a`",
        "services.toml:4): found 0",
        "`batch_sise` of service `a`",
        "did you mean `batch_size`?",
        "`max_failures` of service `b`",
        "services.toml:7): found \"3\"",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn a_missing_configuration_file_is_reported_with_all_other_mistakes() {
    let mail = || Mailer(Settings { batch_size: 1, dsn: Secret::default(), linger: Duration::ZERO });
    let builder = ServiceRegistry::builder().without_discovered().config_file("nowhere.toml");
    let builder = builder.service("a", mail()).service("b", mail()).service("b", mail()).service("c", mail());
    let builder = builder.set("b.interval", 0).set("b.timeout", "soon").set("c.depends_on", vec!["b", "d"]);
    let error = builder.build().await.unwrap_err();
    let problems = &error.find::<BuildError>().unwrap().problems;
    let beginnings = [
        "two services have the id `b`",
        "nowhere.toml: the file does not exist; it is named by `config_file`",
        "`interval` of service `b`",
        "`timeout` of service `b`",
        "service `c`",
    ];
    assert_eq!(problems.len(), beginnings.len(), "{problems:#?}");
    for (problem, beginning) in problems.iter().zip(beginnings) {
        assert!(problem.starts_with(beginning), "{beginning} in {problem}");
    }
    assert!(problems[4].ends_with("depends on `d`, which is not registered"), "{problems:#?}");
}

#[derive(Default)]
struct Packer;

#[service(interval = 30, discover = false)]
impl Packer {
    async fn update(&mut self) {}
}

#[derive(Default)]
struct Sorter;

#[service(interval = 30, discover = false)]
impl Sorter {
    async fn update(&mut self) {}
}

#[tokio::test]
async fn an_id_that_is_the_name_of_another_registered_type_is_an_error() {
    let builder = ServiceRegistry::builder().without_discovered();
    let builder = builder.service_of::<Packer>("sorter").service_of::<Sorter>("sorter_2");
    let error = builder.build().await.unwrap_err().to_string();
    for part in ["service `sorter`", "Packer", "is the name of", "Sorter", "tests/behaviour/configuration.rs:"] {
        assert!(error.contains(part), "{part} in {error}");
    }

    let services =
        ServiceRegistry::builder().without_discovered().service_of::<Packer>("sorter").build().await.unwrap();
    let error = services.register_of::<Sorter>("sorter_2").await.unwrap_err().to_string();
    assert!(error.contains("service `sorter`") && error.contains("is the name of"), "{error}");
    let services =
        ServiceRegistry::builder().without_discovered().service_of::<Sorter>("sorter_2").build().await.unwrap();
    let error = services.register_of::<Packer>("sorter").await.unwrap_err().to_string();
    assert!(error.contains("service `sorter`") && error.contains("is the name of"), "{error}");
    // For a service of that type, the name of the type is an id like any other.
    services.register_of::<Sorter>("sorter").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_section_of_a_type_configures_its_services_of_every_id() {
    let text = "[packer]\ninterval = 10\n[packer_2]\njitter = 1\n[sorter]\ninterval = 20";
    let (bed, _seen, _folder) = bed(text);
    let bed = bed.with(|builder| builder.service_of::<Packer>("packer_1").service_of::<Packer>("packer_2"));
    let services = bed.services().await;
    let option = |id: &str, key: &str| {
        let found = services.get(id).unwrap().explain().options.into_iter().find(|option| option.key == key).unwrap();
        (found.value, found.layer)
    };
    assert_eq!(option("packer_1", "interval"), ("10s".to_owned(), service_core::Layer::Type));
    assert_eq!(option("packer_2", "interval"), ("10s".to_owned(), service_core::Layer::Type));
    assert_eq!(option("packer_2", "jitter"), ("1s".to_owned(), service_core::Layer::File));
    let sorter = services.register_of::<Sorter>("another").await.unwrap();
    assert_eq!(sorter.explain().schedule, "every 20s");
}

#[tokio::test]
async fn settings_of_a_linked_service_that_is_not_registered_are_accepted() {
    service_tests::ask_each_thread();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = lines.clone();
    let _guard = tracing::subscriber::set_default(service_tests::Lines(move |line| seen.lock().unwrap().push(line)));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    fs::write(&file, "[annotated]\ninterval = 10\n[anotated]\ninterval = 10\n[packer]\ninterval = 10").unwrap();
    let builder = ServiceRegistry::builder().except(["annotated"]).service_of::<Packer>("packer_2");
    builder.config_file(&file).build().await.unwrap();
    let warnings: Vec<String> = lines.lock().unwrap().drain(..).filter(|line| line.starts_with("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("`anotated`") && warnings[0].contains("did you mean `annotated`?"), "{warnings:?}");
}

/// Reads settings that it does not declare.
#[derive(Default)]
struct Reader;

#[service(interval = 30, discover = false)]
impl Reader {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let settings: Settings = cx.config()?;
        cx.state::<Seen>()?.lock().unwrap().push(settings);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_an_error_for_a_service_without_settings_too() {
    for (line, near) in [("retries = 5", "max_failures"), ("max_fails = 3", "max_failures"), ("schedule = 'x'", "cron")]
    {
        let (bed, _seen, _folder) = bed(&format!("[packer]\n{line}"));
        let builder_error = |id: &'static str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("services.toml");
            fs::write(&file, format!("[packer]\n{line}")).unwrap();
            async move {
                let builder = ServiceRegistry::builder().without_discovered().config_file(file);
                let error = builder.service_of::<Packer>(id).start_all().await.unwrap_err().to_string();
                drop(folder);
                error
            }
        };
        for id in ["packer", "packer_2"] {
            let error = builder_error(id).await;
            assert!(error.contains("unknown key") && error.contains(&format!("did you mean `{near}`?")), "{error}");
        }
        let error = bed.services().await.register_of::<Packer>("packer_3").await.unwrap_err().to_string();
        assert!(error.contains("unknown key"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_code_reads_by_itself_are_no_unknown_keys() {
    let (bed, seen, _folder) = bed("[reader]\nbatch_size = 3\n[built]\nbatch_size = 4");
    bed.start_of::<Reader>().await;
    bed.run_for(secs(1)).await;
    assert_eq!(seen.lock().unwrap()[0].batch_size, 3);
    let build = async |cx: &Context| -> Result<Packer> {
        let settings: Settings = cx.config()?;
        cx.state::<Seen>()?.lock().unwrap().push(settings);
        Ok(Packer)
    };
    bed.services().await.register_fn("built", build).start().await.unwrap();
    assert_eq!(seen.lock().unwrap()[1].batch_size, 4);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_nested_key_fails_its_service() {
    #[derive(serde::Deserialize)]
    struct Outer {
        smtp: Smtp,
    }

    #[derive(serde::Deserialize)]
    struct Smtp {
        #[serde(default)]
        port: u16,
    }

    struct Nested(Outer);

    #[service(interval = 30, discover = false)]
    impl Nested {
        fn configure(_: &Context, settings: Outer) -> Self {
            Self(settings)
        }

        async fn update(&mut self) -> Outcome {
            Outcome::processed(self.0.smtp.port.into())
        }
    }

    let (bed, _seen, _folder) = bed("[nested.smtp]\nprot = 25");
    let service = bed.start_of::<Nested>().await;
    let error = service.health().last_error.unwrap();
    assert_eq!(service.state(), ServiceState::Failed);
    assert!(error.contains("`smtp.prot` of service `nested`") && error.contains("did you mean `port`?"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_setting_in_code_names_the_line_of_its_call() {
    let (bed, _seen, _folder) = bed("");
    let services = bed.services().await;
    let (registered, line) = (services.register_of::<Mailer>("mailer").setting("batch_siz", 5).await, line!());
    let error = registered.unwrap_err().to_string();
    let place = format!("(ServiceOptions at {}:{line})", file!());
    assert!(error.contains(&place) && error.contains("`batch_size`"), "{error}");
}
