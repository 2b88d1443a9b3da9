//! Which layer wins, and what is told about the others.

use std::time::Duration;

use super::*;
use crate::config::options::{Options, Restart, ServiceOptions};
use crate::schedule::{CatchUp, CronSchedule, RateLimit, Schedule};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn row(layer: Layer, key: &str, json: serde_json::Value) -> Row {
    Row { layer, key: key.to_owned(), value: json.into(), place: format!("{layer} row") }
}

#[test]
fn nothing_said_gives_the_defaults() {
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

#[test]
fn each_layer_beats_those_below() {
    let attribute = descriptor(&[("max_failures", Literal::Int(1))], None);
    let given = |upto: usize| {
        let mut given = Given::default();
        if upto >= 2 {
            given.toml = "[defaults]\nmax_failures = 3\n";
        }
        if upto >= 3 {
            given.toml = "[defaults]\nmax_failures = 3\n[mail]\nmax_failures = 4\n";
        }
        if upto >= 4 {
            given = given.env([("SERVICES__MAIL__MAX_FAILURES", "5")]);
        }
        if upto >= 7 { given.set("mail.max_failures", 8) } else { given }
    };
    let layers = [
        (Layer::Attribute, "attribute at src/mail.rs:7"),
        (Layer::Code, "ServiceOptions at"),
        (Layer::Defaults, "services.toml:2"),
        (Layer::File, "services.toml:4"),
        (Layer::Environment, "environment variable SERVICES__MAIL__MAX_FAILURES"),
        (Layer::Table, "service_config row"),
        (Layer::Override, "operator override row"),
        (Layer::Set, ".set(\"mail.max_failures\", …)"),
        (Layer::Running, "set by the service itself while running row"),
    ];
    let rows = [(Layer::Table, 5, 6), (Layer::Override, 6, 7), (Layer::Running, 8, 9)];
    for (upto, (layer, place)) in layers.into_iter().enumerate() {
        let code = (upto >= 1).then(|| ServiceOptions::new().max_failures(2));
        let rows: Vec<Row> = rows
            .iter()
            .filter(|(_, from, _)| upto >= *from)
            .map(|(layer, _, value)| row(*layer, "max_failures", (*value).into()))
            .collect();
        let resolved = given(upto).load().resolve("mail", Some(attribute), code.as_ref(), &rows).unwrap();
        assert_eq!(resolved.options.max_failures, u32::try_from(upto).unwrap() + 1, "{layer}");
        let told = &resolved.provenance[0];
        assert_eq!((told.key, told.layer, told.value.clone()), ("max_failures", layer, (upto + 1).to_string()));
        assert!(told.place.starts_with(place), "{} for {place}", told.place);
        let hidden: Vec<String> = told.shadowed.iter().map(|below| below.value.clone()).collect();
        assert_eq!(hidden, (1..=upto).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_said_of_one_service_beats_what_is_said_of_all() {
    let given = toml("[mail]\ninterval = 10").env([("SERVICES__DEFAULTS__INTERVAL", "20")]);
    assert_eq!(given.options(&[]).schedule, Schedule::Interval(s(10)));
    let given = toml("[defaults]\ninterval = 10").env([("SERVICES__DEFAULTS__INTERVAL", "20")]);
    assert_eq!(given.options(&[]).schedule, Schedule::Interval(s(20)));
    assert_eq!(given.set("defaults.interval", 30).options(&[]).schedule, Schedule::Interval(s(30)));
}

#[test]
#[cfg_attr(not(feature = "cron"), ignore = "needs the feature cron")]
fn a_later_layers_schedule_replaces_one_of_another_kind() {
    let attribute = &[("cron", Literal::Str("0 3 * * *")), ("timezone", Literal::Str("Europe/Berlin"))];
    let resolved = toml("[mail]\ndelay = \"5m\"").resolve(attribute).unwrap();
    assert_eq!(resolved.options.schedule, Schedule::Delay(s(300)));
    let told = &resolved.provenance;
    assert_eq!((told.len(), told[0].key, told[0].shadowed[0].key), (1, "delay", "cron"));
    assert_eq!(told[0].shadowed[0].value, "0 3 * * *");
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
fn a_later_layer_changes_one_part_of_what_hangs_together() {
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
fn defaults_for_all_are_no_mistake_where_they_do_not_fit() {
    let given = toml("[defaults]\ntimezone = \"Europe/Berlin\"\nrestart_delay = 5");
    assert_eq!(given.options(&[]), Options::default());
    let with_cron = given.options(&[("cron", Literal::Str("0 3 * * *"))]);
    assert!(matches!(with_cron.schedule, Schedule::Cron(cron) if cron.timezone == "Europe/Berlin"));
}

#[test]
fn none_takes_back_what_a_lower_layer_gave() {
    let attribute = &[("timeout", Literal::Int(5)), ("rate_limit", Literal::Str("1/s"))];
    let options = toml("[mail]\ntimeout = \"none\"\nrate_limit = \"none\"").options(attribute);
    assert_eq!((options.timeout, options.rate_limit), (None, None));
}

#[test]
fn environment_variables_become_what_the_key_asks_for() {
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
fn code_sets_options_of_any_kind() {
    let code = ServiceOptions::new()
        .interval(Duration::from_millis(1500))
        .restart_on_failure()
        .restart_delay(s(1))
        .depends_on(["a"])
        .rate_limit("10/s")
        .requester_id("robot");
    let resolved = toml("").load().resolve("mail", None, Some(&code), &[]).unwrap();
    let expected = Options {
        schedule: Schedule::Interval(Duration::from_millis(1500)),
        restart: Some(Restart { delay: s(1), ..Restart::default() }),
        depends_on: vec!["a".to_owned()],
        rate_limit: Some(RateLimit { permits: 10, per: s(1) }),
        requester_id: Some("robot".to_owned()),
        ..Options::default()
    };
    assert_eq!(*resolved.options, expected);
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
    let resolved = toml("[mail]\ninterval = 10").load().resolve("mail", None, None, &rows).unwrap();
    assert_eq!((&resolved.options.schedule, resolved.options.max_failures), (&Schedule::Interval(s(10)), 7));
    let rejected: Vec<String> = resolved.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        rejected,
        [
            "`interval` of service `mail` (service_config row): found \"-5\", expected a time above zero, in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\"), up to 100 years",
            "`max_falures` of service `mail` (operator override row): unknown key, did you mean `max_failures`?",
            "`timezone` of service `mail` (service_config row): goes with `cron` only, and this service has `interval`",
        ]
    );
}

#[test]
fn rows_of_the_table_may_read_variables_and_an_operators_may_not() {
    let sources = env([("EVERY", "5m")]).load();
    let rows = [sources.row(Layer::Table, "interval", "${EVERY}".into(), "service_config row")];
    let resolved = sources.resolve("mail", None, None, &rows).unwrap();
    assert_eq!(resolved.options.schedule, Schedule::Interval(s(300)));
    let rows = [sources.row(Layer::Override, "interval", "${EVERY}".into(), "operator override")];
    assert_eq!(sources.resolve("mail", None, None, &rows).unwrap().rejected.len(), 1);
}

#[test]
fn services_of_one_type_without_a_word_of_their_own_share_one_resolution() {
    let sources = toml("[other]\ninterval = 1").load();
    let mail = descriptor(&[("interval", Literal::Int(5))], None);
    let first = sources.resolve("a", Some(mail), None, &[]).unwrap();
    assert!(Arc::ptr_eq(&first, &sources.resolve("b", Some(mail), None, &[]).unwrap()));
    assert!(!Arc::ptr_eq(&first, &sources.resolve("other", Some(mail), None, &[]).unwrap()));
    assert!(!Arc::ptr_eq(&first, &sources.resolve("c", None, None, &[]).unwrap()));
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
    let told = |now: &Options| -> Vec<String> {
        let one = |set: &Provenance| format!("{} = {} ({})", set.key, set.value, set.place);
        let line = |set: Provenance| [one(&set)].into_iter().chain(set.shadowed.iter().map(one)).collect::<Vec<_>>();
        resolved.explain(now).into_iter().map(|set| line(set).join(" over ")).collect()
    };
    let at_start = [
        "delay = 5s (services.toml:2) over interval = 9s (attribute at src/mail.rs:7)",
        "initial_delay = 0s (default)",
        "jitter = 0s (default)",
        "max_failures = 3 (services.toml:3)",
        "retry_delay = 5s (default)",
        "retry_backoff = 1 (default)",
        "max_retry_delay = 5m (default)",
        "timeout = none (default)",
        "drain_timeout = 30s (default)",
        "restart = never (default)",
        "critical = false (default)",
        "depends_on = none (default)",
        "rate_limit = none (default)",
        "enabled = true (default)",
    ];
    assert_eq!(told(&resolved.options), at_start);
    let mut now = Options::clone(&resolved.options);
    (now.schedule, now.retry_delay) = (Schedule::Interval(s(1)), s(7));
    let changed = told(&now);
    assert_eq!(
        changed[0],
        "interval = 1s (set by the service itself while running) over delay = 5s (services.toml:2) over \
         interval = 9s (attribute at src/mail.rs:7)"
    );
    assert_eq!(changed[4], "retry_delay = 7s (set by the service itself while running)");
    assert_eq!(changed[5..], at_start[5..]);
}
