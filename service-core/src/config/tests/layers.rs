//! Which layer wins, and what is shown of the others.

use std::time::Duration;

use super::*;
use crate::config::layers::Scope;
use crate::config::options::{Options, Restart, ServiceOptions};
use crate::schedule::{CatchUp, CronSchedule, LongRun, OnEnd, RateLimit, Schedule};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn row(layer: Layer, key: &str, json: serde_json::Value) -> Row {
    toml("").load().row(layer, Scope::Service, key, json, &format!("{layer} row"))
}

#[test]
fn without_any_layer_the_defaults_apply() {
    assert_eq!(toml("").options(&[]), Options::default());
}

#[test]
fn the_attribute_is_read_with_its_units() {
    let options = toml("").options(&[
        ("name", Literal::Str("mail")),
        ("interval", Literal::Float(0.5)),
        ("initial_delay", Literal::Str("1h 30m")),
        ("jitter", Literal::Int(2)),
        ("max_failures", Literal::Int(0)),
        ("retry_backoff", Literal::Int(2)),
        ("timeout", Literal::Str("500ms")),
        ("restart", Literal::Str("on_failure")),
        ("max_restarts", Literal::Int(2)),
        ("critical", Literal::Bool(true)),
        ("depends_on", Literal::List(&["a", "b"])),
        ("rate_limit", Literal::Str("600/m")),
        ("enabled", Literal::Bool(false)),
        ("discover", Literal::Bool(false)),
    ]);
    let expected = Options {
        schedule: Schedule::Interval(Duration::from_millis(500)),
        initial_delay: s(5400),
        jitter: s(2),
        max_failures: 0,
        retry_backoff: 2.0,
        timeout: Some(Duration::from_millis(500)),
        restart: Some(Restart { max: 2, ..Restart::default() }),
        critical: true,
        depends_on: vec!["a".to_owned(), "b".to_owned()],
        rate_limit: Some(RateLimit { permits: 600, per: s(60) }),
        enabled: false,
        ..Options::default()
    };
    assert_eq!(options, expected);
}

/// `mail_2`, a service of the type `mail`, has one more layer with each entry: its source, the layer, and the start of
/// the place.
const LAYERS: [(&str, Layer, &str); 15] = [
    ("[defaults]", Layer::Defaults, "services.toml:"),
    ("SERVICES__DEFAULTS__MAX_FAILURES", Layer::Defaults, "environment variable SERVICES__DEFAULTS__MAX_FAILURES"),
    ("row of defaults", Layer::Defaults, "row of defaults"),
    ("defaults.max_failures", Layer::Defaults, ".set(\"defaults.max_failures\", …)"),
    ("attribute", Layer::Attribute, "attribute at src/mail.rs:7"),
    ("code", Layer::Code, "ServiceOptions at"),
    ("[mail]", Layer::Type, "services.toml:"),
    ("[mail_2]", Layer::File, "services.toml:"),
    ("SERVICES__MAIL__MAX_FAILURES", Layer::Environment, "environment variable SERVICES__MAIL__MAX_FAILURES"),
    ("SERVICES__MAIL_2__MAX_FAILURES", Layer::Environment, "environment variable SERVICES__MAIL_2__MAX_FAILURES"),
    ("row of mail", Layer::Table, "row of mail"),
    ("row of mail_2", Layer::Table, "row of mail_2"),
    ("override of mail_2", Layer::Override, "override of mail_2"),
    ("mail.max_failures", Layer::Set, ".set(\"mail.max_failures\", …)"),
    ("mail_2.max_failures", Layer::Set, ".set(\"mail_2.max_failures\", …)"),
];

#[test]
fn each_layer_beats_those_below() {
    for (upto, (what, layer, place)) in LAYERS.into_iter().enumerate() {
        let (mut given, mut text, mut rows) = (Given::default(), String::new(), Vec::new());
        let (mut attributes, mut code) = (Vec::new(), None);
        for (n, (source, ..)) in LAYERS.iter().enumerate().take(upto + 1) {
            let value = i64::try_from(n).unwrap();
            match *source {
                "attribute" => attributes.push(("max_failures", Literal::Int(value))),
                "code" => code = Some(ServiceOptions::new().max_failures(n as u32)),
                section if section.starts_with('[') => text += &format!("{section}\nmax_failures = {n}\n"),
                variable if variable.starts_with("SERVICES") => given.env.push((variable, n.to_string().leak())),
                key if key.contains('.') => given = given.set(key, value),
                "row of defaults" => rows.push(scoped_row(Layer::Table, Scope::Defaults, source, value)),
                "row of mail" => rows.push(scoped_row(Layer::Table, Scope::Type, source, value)),
                "row of mail_2" => rows.push(scoped_row(Layer::Table, Scope::Service, source, value)),
                _ => rows.push(scoped_row(Layer::Override, Scope::Service, source, value)),
            }
        }
        given.toml = text.leak();
        let mail = descriptor(attributes.leak(), None);
        let resolved = given.load().resolve(Target::new("mail_2", mail, code.as_ref()), &rows).unwrap();
        assert_eq!(resolved.options.max_failures, upto as u32, "{what}");
        let found = &resolved.provenance[0];
        assert_eq!((found.key, found.layer, found.value.clone()), ("max_failures", layer, upto.to_string()), "{what}");
        assert!(found.place.starts_with(place), "{} for {place}", found.place);
        let hidden: Vec<String> = found.shadowed.iter().map(|below| below.value.clone()).collect();
        assert_eq!(hidden, (0..upto).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

fn scoped_row(layer: Layer, scope: Scope, place: &str, value: i64) -> Row {
    toml("").load().row(layer, scope, "max_failures", value.into(), place)
}

#[test]
fn changes_by_the_running_service_override_every_layer() {
    let rows = [row(Layer::Running, "max_failures", 8.into())];
    let given = toml("").set("mail.max_failures", 7);
    let resolved = given.load().resolve(Target::new("mail", undeclared(), None), &rows).unwrap();
    assert_eq!((resolved.options.max_failures, resolved.provenance[0].layer), (8, Layer::Running));
}

#[test]
fn the_layers_are_in_the_order_in_which_they_win() {
    let mut layers = LAYERS.map(|(_, layer, _)| layer).to_vec();
    layers.dedup();
    let order = [&[Layer::Default][..], &layers, &[Layer::Running]].concat();
    assert!(order.is_sorted() && order.len() == 11, "{order:?}");
}

#[test]
fn defaults_are_one_layer_wherever_they_are_written() {
    let given = toml("[mail]\ninterval = 10").env([("SERVICES__DEFAULTS__INTERVAL", "20")]);
    assert_eq!(given.options(&[]).schedule, Schedule::Interval(s(10)));
    let given = toml("[defaults]\ninterval = 10").env([("SERVICES__DEFAULTS__DELAY", "20")]);
    assert_eq!(given.options(&[]).schedule, Schedule::Delay(s(20)), "a schedule replaces one of another kind");
    assert_eq!(given.set("defaults.interval", 30).options(&[]).schedule, Schedule::Interval(s(30)));
    let given = toml("[defaults]\ninterval = 10\nretry_delay = 7").set("defaults.jitter", 1);
    let options = given.options(&[("delay", Literal::Int(5)), ("retry_delay", Literal::Int(6))]);
    assert_eq!((options.schedule, options.retry_delay), (Schedule::Delay(s(5)), s(6)), "the attribute wins");
    assert_eq!(options.jitter, s(1), "what the attribute omits is set");
}

#[test]
fn the_section_of_a_type_holds_for_its_services_of_other_ids() {
    #[derive(serde::Deserialize)]
    struct Settings {
        batch_size: u32,
        smtp: std::collections::BTreeMap<String, u32>,
    }
    let text = "[mail]\ninterval = 10\nbatch_size = 5\nsmtp = { port = 25, limit = 1 }\n\
                [mail_2]\nbatch_size = 6\nsmtp.port = 26\n[other]\ninterval = 3";
    let sources = toml(text).env([("SERVICES__MAIL__SMTP__LIMIT", "2")]).load();
    let resolve = |id: &str| sources.resolve(Target::new(id, undeclared(), None), &[]).unwrap();
    let schedules = ["mail", "mail_2", "mail_3", "other"].map(|id| resolve(id).options.schedule.clone());
    assert_eq!(schedules, [10, 10, 10, 3].map(|seconds| Schedule::Interval(s(seconds))));
    let settings = |id: &str| {
        let settings = resolve(id).settings.get::<Settings>(id).unwrap();
        (settings.batch_size, settings.smtp["port"], settings.smtp["limit"])
    };
    assert_eq!(["mail", "mail_2", "mail_3"].map(settings), [(5, 25, 2), (6, 26, 2), (5, 25, 2)]);
    let places = resolve("mail_2").settings.places();
    assert!(places.contains(&("smtp.port".to_owned(), "services.toml:7".to_owned())), "{places:?}");
}

#[test]
#[cfg_attr(not(feature = "cron"), ignore = "needs the feature cron")]
fn a_later_layers_schedule_replaces_one_of_another_kind() {
    let attribute = &[("cron", Literal::Str("0 3 * * *")), ("timezone", Literal::Str("Europe/Berlin"))];
    let resolved = toml("[mail]\ndelay = \"5m\"").resolve(attribute).unwrap();
    assert_eq!(resolved.options.schedule, Schedule::Delay(s(300)));
    let shown = &resolved.provenance;
    assert_eq!((shown.len(), shown[0].key, shown[0].shadowed[0].key), (1, "delay", "cron"));
    assert_eq!(shown[0].shadowed[0].value, "0 3 * * *");
    // And back again: the time zone of below is in use once more.
    let given = toml("[mail]\ndelay = \"5m\"").env([("SERVICES__MAIL__CRON", "0 4 * * *")]);
    assert_eq!(
        given.options(attribute).schedule,
        Schedule::Cron(CronSchedule {
            expression: "0 4 * * *".to_owned(),
            timezone: "Europe/Berlin".to_owned(),
            catch_up: CatchUp::None
        })
    );
}

#[test]
#[cfg_attr(not(feature = "cron"), ignore = "needs the feature cron")]
fn a_later_layer_changes_one_of_several_related_keys() {
    let attribute = &[("cron", Literal::Str("0 3 * * *")), ("restart", Literal::Str("on_failure"))];
    let options = toml("[mail]\ntimezone = \"UTC\"\ncatch_up = \"latest\"\nmax_restarts = 9").options(attribute);
    assert_eq!(options.restart, Some(Restart { max: 9, ..Restart::default() }));
    assert!(matches!(options.schedule, Schedule::Cron(cron) if cron.catch_up == CatchUp::Latest));
    // What belonged to a restart that a later layer took back is out of use.
    let attribute = &[("restart", Literal::Str("on_failure")), ("restart_delay", Literal::Int(1))];
    assert_eq!(toml("[mail]\nrestart = \"never\"").options(attribute).restart, None);
}

#[test]
#[cfg_attr(not(feature = "cron"), ignore = "needs the feature cron")]
fn keys_of_defaults_that_need_another_key_are_no_error() {
    let given = toml("[defaults]\ntimezone = \"Europe/Berlin\"\nrestart_delay = 5");
    assert_eq!(given.options(&[]), Options::default());
    let with_cron = given.options(&[("cron", Literal::Str("0 3 * * *"))]);
    assert!(matches!(with_cron.schedule, Schedule::Cron(cron) if cron.timezone == "Europe/Berlin"));
}

#[test]
fn none_removes_a_limit_of_a_lower_layer() {
    let attribute = &[("timeout", Literal::Int(5)), ("rate_limit", Literal::Str("1/s"))];
    let options = toml("[mail]\ntimeout = \"none\"\nrate_limit = \"none\"").options(attribute);
    assert_eq!((options.timeout, options.rate_limit), (None, None));
}

#[test]
fn text_of_the_environment_is_converted_for_each_key() {
    let options = env([
        ("SERVICES__MAIL__DELAY", "0.25"),
        ("SERVICES__MAIL__TIMEOUT", "2m"),
        ("SERVICES__MAIL__ENABLED", "off"),
        ("SERVICES__MAIL__DEPENDS_ON", "a, b"),
        ("SERVICES__MAIL__RATE_LIMIT", "5/m"),
        ("SERVICES__MAIL__RETRY_BACKOFF", "1.5"),
    ])
    .options(&[]);
    assert_eq!(options.schedule, Schedule::Delay(Duration::from_millis(250)));
    assert_eq!((options.timeout, options.enabled), (Some(s(120)), false));
    assert_eq!(options.depends_on, ["a", "b"]);
    assert_eq!(options.rate_limit, Some(RateLimit { permits: 5, per: s(60) }));
    assert_eq!(options.retry_backoff, 1.5);
    let array = env([("SERVICES__MAIL__DEPENDS_ON", "[\"a\", \"b\"]")]).options(&[]);
    assert_eq!(array.depends_on, ["a", "b"]);
}

#[test]
fn a_later_layer_replaces_a_value_of_the_environment_whose_key_has_capitals_or_hyphens() {
    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Camel {
        batch_size: u32,
        smtp_server: SmtpServer,
    }
    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    struct SmtpServer {
        max_size: u32,
        port: u32,
    }
    let given = || {
        env([
            ("SERVICES__MAIL__BATCHSIZE", "10"),
            ("SERVICES__MAIL__SMTPSERVER__MAX_SIZE", "3"),
            ("SERVICES__MAIL__SMTPSERVER__PORT", "25"),
        ])
    };
    let expected = |batch_size, max_size| Camel { batch_size, smtp_server: SmtpServer { max_size, port: 25 } };
    assert_eq!(given().settings::<Camel>(), Ok(expected(10, 3)));
    let set = given().set("mail.batchSize", 11).set("mail.smtpServer.max-size", 4);
    assert_eq!(set.settings::<Camel>(), Ok(expected(11, 4)));
    for layer in [Layer::Table, Layer::Override] {
        let rows = [row(layer, "batchSize", 11.into()), row(layer, "smtpServer.max-size", 4.into())];
        let resolved = given().load().resolve(Target::new("mail", undeclared(), None), &rows).unwrap();
        assert_eq!(resolved.settings.get::<Camel>("mail"), Ok(expected(11, 4)), "{layer}");
    }
}

/// `options_of` for one service, after `options_of` for its type.
#[test]
#[cfg_attr(not(feature = "cron"), ignore = "needs the feature cron")]
fn options_of_code_replace_a_schedule_of_earlier_ones() {
    let resolve = |code: &ServiceOptions| toml("").load().resolve(Target::new("mail", undeclared(), Some(code)), &[]);
    let schedule = |code: ServiceOptions| resolve(&code).map(|resolved| resolved.options.schedule.clone());
    let cron = || ServiceOptions::new().cron("0 3 * * *").timezone("Europe/Berlin");
    assert_eq!(schedule(cron().and(ServiceOptions::new().interval(s(5)))), Ok(Schedule::Interval(s(5))));
    let delay = ServiceOptions::new().delay(s(5)).and(ServiceOptions::new().on_demand(true));
    assert_eq!(schedule(delay), Ok(Schedule::OnDemand));
    let on_demand = ServiceOptions::new().on_demand(true).and(ServiceOptions::new().interval(s(5)));
    assert_eq!(schedule(on_demand), Ok(Schedule::Interval(s(5))));
    let unchanged = ServiceOptions::new().delay(s(5)).and(ServiceOptions::new().on_demand(false));
    assert_eq!(schedule(unchanged), Ok(Schedule::Delay(s(5))));
    let later = schedule(cron().and(ServiceOptions::new().cron("0 4 * * *")));
    assert!(matches!(later, Ok(Schedule::Cron(cron)) if cron.timezone == "Europe/Berlin"));
    let two = schedule(ServiceOptions::new().delay(s(5)).interval(s(5))).unwrap_err().to_string();
    assert!(two.contains("in the same layer"), "{two}");
}

#[test]
fn each_option_of_code_has_the_place_of_its_own_call() {
    let (first, line) = (ServiceOptions::new().max_failures(1).retry_delay(s(1)), line!());
    let code = first.and(ServiceOptions::new().max_failures(2).jitter(s(1)));
    let resolved = toml("").load().resolve(Target::new("mail", undeclared(), Some(&code)), &[]).unwrap();
    let place = |key: &str| resolved.set_by(key).unwrap().place.clone();
    let at = |line: u32| format!("ServiceOptions at {}:{line}", file!());
    assert_eq!(place("retry_delay"), at(line));
    assert_eq!([place("max_failures"), place("jitter")], [at(line + 1), at(line + 1)]);
}

#[test]
fn code_sets_options_of_any_kind() {
    let code = ServiceOptions::new()
        .interval(Duration::from_millis(1500))
        .restart_on_failure()
        .restart_delay(s(1))
        .depends_on(["a"])
        .rate_limit("10/s")
        .requester_id("robot");
    let resolved = toml("").load().resolve(Target::new("mail", undeclared(), Some(&code)), &[]).unwrap();
    let expected = Options {
        schedule: Schedule::Interval(Duration::from_millis(1500)),
        restart: Some(Restart { delay: s(1), ..Restart::default() }),
        depends_on: vec!["a".to_owned()],
        rate_limit: Some(RateLimit { permits: 10, per: s(1) }),
        ..Options::default()
    };
    assert_eq!(*resolved.options, expected);
    assert_eq!(resolved.set_by("requester_id").map(|set| set.value.as_str()), Some("robot"));
    assert_eq!(resolved.provenance[0].value, "1s 500ms");
    assert!(resolved.provenance[0].place.starts_with("ServiceOptions at "));
}

#[test]
fn a_wrong_row_is_left_out_and_reported() {
    let rows = [
        row(Layer::Table, "interval", "-5".into()),
        row(Layer::Table, "timezone", "UTC".into()),
        row(Layer::Override, "max_failures", 7.into()),
        row(Layer::Override, "max_falures", 7.into()),
    ];
    let resolved =
        toml("[mail]\ninterval = 10").load().resolve(Target::new("mail", undeclared(), None), &rows).unwrap();
    assert_eq!((&resolved.options.schedule, resolved.options.max_failures), (&Schedule::Interval(s(10)), 7));
    let rejected: Vec<String> = resolved.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        rejected,
        [
            "`interval` of service `mail` (service_config row): found \"-5\", expected a time above zero, in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\"), up to 100 years",
            "`max_falures` of service `mail` (operator override row): unknown key, did you mean `max_failures`?",
            "`timezone` of service `mail` (service_config row): needs `cron`, but this service has `interval`",
        ]
    );
}

#[test]
fn rows_of_service_config_can_read_variables_and_overrides_cannot() {
    let sources = env([("EVERY", "5m")]).load();
    let rows = [sources.row(Layer::Table, Scope::Service, "interval", "${EVERY}".into(), "service_config row")];
    let resolved = sources.resolve(Target::new("mail", undeclared(), None), &rows).unwrap();
    assert_eq!(resolved.options.schedule, Schedule::Interval(s(300)));
    let rows = [sources.row(Layer::Override, Scope::Service, "interval", "${EVERY}".into(), "operator override")];
    assert_eq!(sources.resolve(Target::new("mail", undeclared(), None), &rows).unwrap().rejected.len(), 1);
}

#[test]
fn services_that_no_layer_names_share_one_resolution() {
    let sources = toml("[other]\ninterval = 1").load();
    let mail = descriptor(&[("interval", Literal::Int(5))], None);
    let first = sources.resolve(Target::new("a", mail, None), &[]).unwrap();
    assert!(Arc::ptr_eq(&first, &sources.resolve(Target::new("b", mail, None), &[]).unwrap()));
    assert!(!Arc::ptr_eq(&first, &sources.resolve(Target::new("other", mail, None), &[]).unwrap()));
    assert!(!Arc::ptr_eq(&first, &sources.resolve(Target::new("c", undeclared(), None), &[]).unwrap()));
}

#[test]
fn a_bed_sets_options_and_settings_of_every_service() {
    #[derive(serde::Deserialize)]
    struct Batch {
        batch_size: u32,
    }
    let given = toml("[mail]\nbatch_size = 1").set_for_all("batch_size", 10).set_for_all("interval", s(3));
    assert_eq!(given.options(&[]).schedule, Schedule::Interval(s(3)));
    assert_eq!(given.settings::<Batch>().unwrap().batch_size, 10);
    assert_eq!(given.set("mail.batch_size", 20).settings::<Batch>().unwrap().batch_size, 20);
}

#[test]
fn every_option_in_effect_is_explained() {
    let resolved = toml("[mail]\ndelay = 5\nmax_failures = 3").resolve(&[("interval", Literal::Int(9))]).unwrap();
    let shown = |now: &Options| -> Vec<String> {
        let one = |set: &Provenance| format!("{} = {} ({})", set.key, set.value, set.place);
        let line = |set: Provenance| [one(&set)].into_iter().chain(set.shadowed.iter().map(one)).collect::<Vec<_>>();
        resolved.explain(now).into_iter().map(|set| line(set).join(" over ")).collect()
    };
    let at_start = [
        "delay = 5s (services.toml:2) over interval = 9s (attribute at src/mail.rs:7)",
        "wake_on = none (default)",
        "instances = 1 (default)",
        "initial_delay = 0s (default)",
        "jitter = 0s (default)",
        "max_failures = 3 (services.toml:3)",
        "exhausted = fail (default)",
        "retry_delay = 5s (default)",
        "retry_backoff = 1 (default)",
        "max_retry_delay = 5m (default)",
        "timeout = none (default)",
        "drain_timeout = 30s (default)",
        "restart = never (default)",
        "critical = false (default)",
        "depends_on = none (default)",
        "stop_last = false (default)",
        "needs = none (default)",
        "rate_limit = none (default)",
        "enabled = true (default)",
        "scope = process (default)",
    ];
    assert_eq!(shown(&resolved.options), at_start);
    let mut now = Options::clone(&resolved.options);
    (now.schedule, now.retry_delay) = (Schedule::Interval(s(1)), s(7));
    let changed = shown(&now);
    assert_eq!(
        changed[0],
        "interval = 1s (set by the service itself while running) over delay = 5s (services.toml:2) over \
         interval = 9s (attribute at src/mail.rs:7)"
    );
    assert_eq!(changed[7], "retry_delay = 7s (set by the service itself while running)");
    assert_eq!(changed[8..], at_start[8..]);
}

#[test]
fn keys_of_a_schedule_have_no_effect_on_a_service_with_run_and_the_other_way_round() {
    let (update, run) = (undeclared(), long_running());
    let defaults =
        "[defaults]\ninterval = 10\ntimeout = 5\njitter = 1\nidle_timeout = 7\non_end = \"again\"\nretry_delay = 3";
    let resolve = |text: &'static str, of| toml(text).load().resolve(Target::new("mail", of, None), &[]);
    let options = resolve(defaults, run).unwrap().options.clone();
    let long = LongRun { idle_timeout: Some(s(7)), on_end: OnEnd::Again, ..LongRun::default() };
    assert_eq!(options.schedule, Schedule::LongRun(long));
    assert_eq!((options.timeout, options.jitter, options.retry_delay), (None, Duration::ZERO, s(3)));
    let options = resolve(defaults, update).unwrap().options.clone();
    assert_eq!((&options.schedule, options.timeout), (&Schedule::Interval(s(10)), Some(s(5))));

    let error = |text, of| resolve(text, of).unwrap_err().to_string();
    let wrong = error("[mail]\ninterval = 10\ncatch_up = \"all\"\ntimeout = 5", run);
    for key in ["interval", "catch_up", "timeout"] {
        let expected = format!("`{key}` of service `mail` (services.toml");
        assert!(wrong.contains(&expected) && wrong.contains("does not apply to a service with `run`"), "{wrong}");
    }
    let wrong = error("[mail]\nidle_timeout = 10\nreadiness = \"explicit\"", update);
    assert!(wrong.contains("`readiness`") && wrong.contains("applies only to a service with `run`"), "{wrong}");
}

#[test]
fn of_two_variants_of_an_enum_the_one_of_the_highest_layer_is_read() {
    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Limit {
        Limited(u32),
        Daily(u32),
        Range { from: u32, to: u32 },
    }
    #[derive(serde::Deserialize, Debug)]
    struct Limits {
        limit: Limit,
    }
    let read = |given: &Given, rows: &[Row]| {
        let resolved = given.load().resolve(Target::new("mail", undeclared(), None), rows).unwrap();
        resolved.settings.get::<Limits>("mail").map(|limits| limits.limit).map_err(|error| error.to_string())
    };
    let file = toml("[mail]\nlimit = { limited = 5 }");
    assert_eq!(read(&file, &[row(Layer::Override, "limit", serde_json::json!({ "daily": 3 }))]), Ok(Limit::Daily(3)));
    // The fields of one variant are merged.
    let file = toml("[mail.limit.range]\nfrom = 1\nto = 2").env([("SERVICES__MAIL__LIMIT__RANGE__TO", "9")]);
    assert_eq!(read(&file, &[]), Ok(Limit::Range { from: 1, to: 9 }));
    // Two variants in one layer are an error.
    let error = read(&toml("[mail]\nlimit = { limited = 5, daily = 3 }"), &[]).unwrap_err();
    assert!(error.contains("`limit`") && error.contains("a table with one key"), "{error}");
}

#[test]
fn of_two_variants_in_one_layer_the_one_for_the_id_is_read_and_not_the_one_for_the_type() {
    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Limited(u32),
        Rated(u32),
    }
    #[derive(serde::Deserialize, Debug)]
    struct Settings {
        mode: Mode,
    }
    let read = |given: &Given, code: Option<&ServiceOptions>, rows: &[Row]| {
        let resolved = given.load().resolve(Target::new("mail_2", undeclared(), code), rows).unwrap();
        resolved.settings.get::<Settings>("mail_2").map(|read| read.mode).map_err(|error| error.to_string())
    };
    let variables = env([("SERVICES__MAIL__MODE__LIMITED", "5"), ("SERVICES__MAIL_2__MODE__RATED", "7")]);
    assert_eq!(read(&variables, None, &[]), Ok(Mode::Rated(7)));
    let variables = env([("SERVICES__MAIL_2__MODE__LIMITED", "5"), ("SERVICES__MAIL__MODE__RATED", "7")]);
    assert_eq!(read(&variables, None, &[]), Ok(Mode::Limited(5)));
    let row = |scope, key: &str, value: u32| toml("").load().row(Layer::Table, scope, key, value.into(), "row");
    let rows = [row(Scope::Service, "mode.limited", 5), row(Scope::Type, "mode.rated", 7)];
    assert_eq!(read(&toml(""), None, &rows), Ok(Mode::Limited(5)));
    let sets = toml("").set("mail.mode.limited", 5).set("mail_2.mode.rated", 7);
    assert_eq!(read(&sets, None, &[]), Ok(Mode::Rated(7)));
    let of_type = ServiceOptions::new().setting("mode.limited", 5);
    let of_id = ServiceOptions::new().setting("mode.rated", 7);
    assert_eq!(read(&toml(""), Some(&of_type.and(of_id)), &[]), Ok(Mode::Rated(7)));
    // Two in one place are an error.
    let rows = [row(Scope::Service, "mode.limited", 5), row(Scope::Service, "mode.rated", 7)];
    assert!(read(&toml(""), None, &rows).unwrap_err().contains("a table with one key"));
    let two = env([("SERVICES__MAIL_2__MODE__LIMITED", "5"), ("SERVICES__MAIL_2__MODE__RATED", "7")]);
    assert!(read(&two, None, &[]).unwrap_err().contains("a table with one key"));
    let both = ServiceOptions::new().setting("mode.limited", 5).setting("mode.rated", 7);
    assert!(read(&toml(""), Some(&both), &[]).unwrap_err().contains("a table with one key"));
}

#[test]
fn an_inline_table_in_a_variable_is_merged_with_the_tables_of_other_layers() {
    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Settings {
        smtp: Smtp,
    }
    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Smtp {
        host: String,
        port: u16,
    }
    let expected = Ok(Settings { smtp: Smtp { host: "h".to_owned(), port: 25 } });
    let file = || toml("[mail.smtp]\nhost = \"h\"\nport = 587");
    assert_eq!(file().env([("SERVICES__MAIL__SMTP", "{ port = 25 }")]).settings(), expected);
    let above = env([("SERVICES__MAIL__SMTP", "{ host = \"h\", port = 587 }")]);
    assert_eq!(above.set("mail.smtp.port", 25).settings(), expected);
    // A secret stays one.
    let secret = toml("[mail]\nsmtp = \"${MAIL_SECRET}\"").env([("MAIL_SECRET", "{ port = 99999 }")]);
    assert_eq!(
        secret.set("mail.smtp.host", "h").settings::<Settings>().unwrap_err(),
        "`smtp.port` of service `mail` (services.toml:2): found •••, expected a whole number from 0 to 65535"
    );

    // Text that looks like a table is still a string, if a string is expected.
    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Words {
        template: String,
    }
    let words = env([("SERVICES__MAIL__TEMPLATE", "{ a = 1 }"), ("SERVICES__MAIL_2__TEMPLATE", "{ b = 2 }")]);
    let resolved = words.load().resolve(Target::new("mail_2", undeclared(), None), &[]).unwrap();
    assert_eq!(resolved.settings.get::<Words>("mail_2"), Ok(Words { template: "{ b = 2 }".to_owned() }));
}

#[test]
fn a_bed_sets_an_option_of_the_services_that_have_it() {
    let given = || toml("").set_for_all("interval", s(3)).set_for_all("idle_timeout", s(4));
    let given = || given().set_for_all("restart_delay", 5);
    let options = |of| given().load().resolve(Target::new("mail", of, None), &[]).unwrap().options.clone();
    let update = options(undeclared());
    assert_eq!((&update.schedule, update.restart), (&Schedule::Interval(s(3)), None));
    let long = LongRun { idle_timeout: Some(s(4)), ..LongRun::default() };
    assert_eq!(options(long_running()).schedule, Schedule::LongRun(long));
    // For one service, it is still an error.
    let one = toml("").set("mail.interval", s(3)).load();
    assert!(one.resolve(Target::new("mail", long_running(), None), &[]).is_err());
}

#[test]
fn a_setting_that_is_nan_is_the_same_after_the_file_is_read_again() {
    let settings = |text| toml(text).resolve(&[]).unwrap().settings.clone();
    let text = "[mail]\nfactor = nan\nlist = [1.0, nan]";
    assert!(settings(text).same_values(&settings(text)));
    assert!(!settings(text).same_values(&settings("[mail]\nfactor = 1.0\nlist = [1.0, nan]")));
}

#[test]
fn an_override_whose_reason_looks_like_a_value_for_every_service_is_for_one() {
    let fields: fn() -> Option<&'static [&'static str]> = || Some(&["size"]);
    let place = "override by `anna`: slower for every service";
    let row = |key| toml("").load().row(Layer::Override, Scope::Service, key, 5.into(), place);
    let rows = [row("interval"), row("sise")];
    let target = Target::new("mail", descriptor(&[], Some(fields)), None);
    let resolved = toml("").load().resolve(target, &rows).unwrap();
    assert!(!resolved.provenance.iter().any(|set| set.key == "interval" && set.is_for_all()));
    assert_eq!(resolved.rejected.len(), 1, "{:?}", resolved.rejected);
}
