//! Every kind of mistake, with the whole of its message.

use std::path::PathBuf;

use super::*;
use crate::config::layers::Scope;
use crate::config::options::ServiceOptions;

const TIME: &str =
    "a time in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\"), up to 100 years";
const SOME_TIME: &str = "a time above zero, in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\"), up to 100 years";

/// The errors that do not belong to one service.
fn errors(sources: &Sources) -> String {
    sources.errors().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_value_that_does_not_fit_names_place_found_and_expected() {
    let count = "a whole number from 0 to 4294967295, or \"unlimited\"";
    let cases: &[(&str, &str, &str, &str)] = &[
        ("interval = 0", "interval", "0", SOME_TIME),
        ("interval = -5", "interval", "-5", SOME_TIME),
        ("interval = \"5\"", "interval", "\"5\"", SOME_TIME),
        ("interval = \"5 parsecs\"", "interval", "\"5 parsecs\"", SOME_TIME),
        ("interval = \"-5s\"", "interval", "\"-5s\"", SOME_TIME),
        ("interval = \"0s\"", "interval", "\"0s\"", SOME_TIME),
        ("interval = nan", "interval", "NaN", SOME_TIME),
        ("interval = inf", "interval", "inf", SOME_TIME),
        ("interval = 1e300", "interval", "1e300", SOME_TIME),
        ("interval = \"5M\"", "interval", "\"5M\"", SOME_TIME),
        ("interval = \"200 years\"", "interval", "\"200 years\"", SOME_TIME),
        ("interval = 9223372036854775807", "interval", "9223372036854775807", SOME_TIME),
        ("interval = true", "interval", "true", SOME_TIME),
        ("interval = [1, 2]", "interval", "[1, 2]", SOME_TIME),
        ("interval = { every = 5 }", "interval", "{ every = 5 }", SOME_TIME),
        ("initial_delay = -1", "initial_delay", "-1", TIME),
        ("max_failures = -1", "max_failures", "-1", count),
        ("max_failures = 1.5", "max_failures", "1.5", count),
        ("max_failures = \"3\"", "max_failures", "\"3\"", count),
        ("max_failures = 4294967296", "max_failures", "4294967296", count),
        ("retry_backoff = 0.5", "retry_backoff", "0.5", "a number of at least 1, such as 2 or 1.5"),
        ("retry_backoff = nan", "retry_backoff", "NaN", "a number of at least 1, such as 2 or 1.5"),
        ("critical = \"yes\"", "critical", "\"yes\"", "true or false"),
        ("restart = \"always\"", "restart", "\"always\"", "\"never\" or \"on_failure\""),
        ("catch_up = 1", "catch_up", "1", "\"none\", \"latest\" or \"all\""),
        ("depends_on = \"a\"", "depends_on", "\"a\"", "a list of service ids such as [\"importer\", \"cleanup\"]"),
        ("depends_on = [1]", "depends_on", "[1]", "a list of service ids such as [\"importer\", \"cleanup\"]"),
        ("rate_limit = \"0/s\"", "rate_limit", "\"0/s\"", "a rate per s, m or h (\"10/s\", \"600/m\"), or \"none\""),
        ("rate_limit = 10", "rate_limit", "10", "a rate per s, m or h (\"10/s\", \"600/m\"), or \"none\""),
        ("cron = \"\"", "cron", "\"\"", "a cron expression such as \"0 3 * * *\""),
    ];
    for (line, key, found, expected) in cases {
        let toml: &'static str = Box::leak(format!("\n[mail]\n{line}\n").into_boxed_str());
        let message = format!("`{key}` of service `mail` (services.toml:3): found {found}, expected {expected}");
        assert_eq!(super::toml(toml).errors(), message);
    }
}

#[test]
fn the_environment_is_named_by_its_variable() {
    assert_eq!(
        env([("SERVICES__MAIL__INTERVAL", "soon")]).errors(),
        format!(
            "`interval` of service `mail` (environment variable SERVICES__MAIL__INTERVAL): found \"soon\", expected {SOME_TIME}"
        )
    );
    assert_eq!(
        env([("SERVICES__MAIL__INTERVAL", "")]).errors(),
        format!(
            "`interval` of service `mail` (environment variable SERVICES__MAIL__INTERVAL): found \"\", expected {SOME_TIME}"
        )
    );
}

#[test]
fn all_mistakes_come_at_once() {
    let given = toml("[mail]\ninterval = 0\nmax_falures = 1\nenabled = 1").env([("SERVICES__MAIL__JITTER", "x")]);
    assert_eq!(
        given.errors(),
        format!(
            "4 errors in the configuration:
  `enabled` of service `mail` (services.toml:4): found 1, expected true or false
  `interval` of service `mail` (services.toml:2): found 0, expected {SOME_TIME}
  `jitter` of service `mail` (environment variable SERVICES__MAIL__JITTER): found \"x\", expected {TIME}
  `max_falures` of service `mail` (services.toml:3): unknown key, did you mean `max_failures`?"
        )
    );
}

#[test]
fn contradicting_keys_are_errors() {
    let cases = [
        (
            "[mail]\ninterval = 5\ndelay = 5",
            "`delay` of service `mail` (services.toml:3): `interval` is set in the same layer: a service has one schedule, so keep one of the two",
        ),
        (
            "[mail]\ntimezone = \"UTC\"",
            "`timezone` of service `mail` (services.toml:2): needs `cron`, but this service has no schedule of its own",
        ),
        (
            "[mail]\ncatch_up = \"all\"\ninterval = 5",
            "`catch_up` of service `mail` (services.toml:2): needs `cron`, but this service has `interval`",
        ),
        (
            "[mail]\nrestart_delay = 5",
            "`restart_delay` of service `mail` (services.toml:2): needs `restart = \"on_failure\"`",
        ),
        (
            "[mail]\nrestart = \"never\"\nmax_restarts = 5",
            "`max_restarts` of service `mail` (services.toml:3): needs `restart = \"on_failure\"`",
        ),
        ("[mail]\nname = \"post\"", "`name` of service `mail` (services.toml:2): can only be set in `#[service(…)]`"),
    ];
    for (text, message) in cases {
        assert_eq!(toml(text).errors(), message);
    }
    let code = ServiceOptions::new().interval(std::time::Duration::ZERO).rate_limit("often");
    let line = line!() - 1;
    let errors = toml("").load().resolve(Target::new("mail", undeclared(), Some(&code)), &[]).unwrap_err();
    let place = format!("ServiceOptions at {}:{line}", file!());
    assert_eq!(
        errors.to_string(),
        format!(
            "2 errors in the configuration:
  `interval` of service `mail` ({place}): found 0s, expected {SOME_TIME}
  `rate_limit` of service `mail` ({place}): found \"often\", expected a rate per s, m or h (\"10/s\", \"600/m\"), or \"none\""
        )
    );
}

#[test]
fn defaults_accept_only_keys_that_apply_to_every_service() {
    let given = toml(
        "[defaults]\nname = \"x\"\ndepends_on = [\"a\"]\nbatch_size = 5\nintervall = 5\ninterval = 0\ndelay = 1\njitter = \"${NO}\"",
    )
    .env([("SERVICES__DEFAULTS__MAX_FAILURES", "many")]);
    let sources = given.load();
    let errors: Vec<String> = sources.errors().iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "`batch_size` of `[defaults]` (services.toml:4): unknown key, `[defaults]` can only have keys of `#[service]`"
                .to_owned(),
            "`depends_on` of `[defaults]` (services.toml:3): cannot apply to all services: set it in the section of one service".to_owned(),
            format!("`interval` of `[defaults]` (services.toml:6): found 0, expected {SOME_TIME}"),
            "`intervall` of `[defaults]` (services.toml:5): unknown key, did you mean `interval`?".to_owned(),
            "`name` of `[defaults]` (services.toml:2): can only be set in `#[service(…)]`".to_owned(),
            "`max_failures` of `[defaults]` (environment variable SERVICES__DEFAULTS__MAX_FAILURES): found \"many\", expected a whole number from 0 to 4294967295, or \"unlimited\"".to_owned(),
            "`delay` of `[defaults]` (services.toml:7): `interval` is set in the same layer: a service has one schedule, so keep one of the two".to_owned(),
            "`jitter` of `[defaults]` (services.toml:8): `${NO}` cannot be read: the environment variable is not set".to_owned(),
        ]
    );
    // They are reported once, not for each service.
    assert!(sources.resolve(Target::new("mail", undeclared(), None), &[]).is_ok());
}

#[test]
fn a_variable_that_cannot_be_read_is_named_with_the_setting() {
    let cases = [
        ("${NOT_SET}", "`${NOT_SET}` cannot be read: the environment variable is not set"),
        ("${A B}", "`${…}` cannot be read: its content is not the name of a variable (`$${` stands for `${` itself)"),
        ("5${X", "`${…}` cannot be read: its `}` is missing (`$${` stands for `${` itself)"),
    ];
    for (text, message) in cases {
        let text: &'static str = Box::leak(format!("[mail]\ninterval = \"{text}\"").into_boxed_str());
        assert_eq!(toml(text).errors(), format!("`interval` of service `mail` (services.toml:2): {message}"));
    }
    // One that is not in use is no error.
    let given = toml("[mail]\ninterval = \"${NOT_SET}\"").env([("SERVICES__MAIL__INTERVAL", "5")]);
    assert!(given.resolve(&[]).is_ok());
}

#[test]
fn unknown_keys_are_found_by_the_fields_of_the_settings() {
    let fields: fn() -> Option<&'static [&'static str]> = || Some(&["batch_size", "max_age", "batchSize", "dead-line"]);
    let resolve = |given: Given| {
        given
            .load()
            .resolve(Target::new("mail", descriptor(&[], Some(fields)), None), &[])
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let cases = [
        ("batch_sise = 5", "`batch_sise` of service `mail` (services.toml:2): unknown key, did you mean `batch_size`?"),
        ("intervall = 5", "`intervall` of service `mail` (services.toml:2): unknown key, did you mean `interval`?"),
        (
            "verbose = true",
            "`verbose` of service `mail` (services.toml:2): unknown key, the settings of this service are `batch_size`, `max_age`, `batchSize`, `dead-line`",
        ),
    ];
    for (line, message) in cases {
        let text: &'static str = Box::leak(format!("[mail]\n{line}").into_boxed_str());
        assert_eq!(resolve(toml(text)).unwrap_err(), message);
    }
    assert_eq!(resolve(toml("[mail]\nbatch_size = 5\ninterval = 5")), Ok(()));
    assert_eq!(resolve(env([("SERVICES__MAIL__BATCHSIZE", "5"), ("SERVICES__MAIL__DEAD_LINE", "5")])), Ok(()));
    assert!(resolve(toml("[mail]\ndead_line = 5")).is_err(), "only a variable cannot have the hyphen");
    assert_eq!(resolve(toml("").set_for_all("of_another", 5)), Ok(()));
}

#[test]
fn what_a_test_bed_sets_for_all_services_is_checked_with_a_warning() {
    let mail = descriptor(&[], Some(|| Some(&["batch_size"])));
    let other = descriptor(&[], None);
    for (key, near) in [("batch_sise", "batch_size"), ("intervall", "interval"), ("of_another", "")] {
        for (descriptor, undeclared) in [(mail, false), (other, false), (other, true)] {
            let target = Target { undeclared, ..Target::new("mail", descriptor, None) };
            let warnings = &toml("").set_for_all(key, 5).load().resolve(target, &[]).unwrap().warnings;
            let is_known = key == "intervall" || std::ptr::eq(descriptor, mail);
            let expected = (is_known && !near.is_empty()).then(|| {
                format!("`{key}` of service `mail` (.set(\"{key}\", …) for every service) may have no effect: if `{near}` is meant, correct the name")
            });
            assert_eq!(warnings.as_slice(), expected.as_slice());
        }
    }
}

#[test]
fn unknown_keys_of_a_service_without_settings_are_mistakes() {
    let resolve = |given: &Given, rows: &[Row]| {
        given.load().resolve(Target::new("mail_2", descriptor(&[], None), None), rows).map_err(|e| e.to_string())
    };
    let near = |key: &str, place: &str, near: &str| {
        format!("`{key}` of service `mail_2` ({place}): unknown key, did you mean `{near}`?")
    };
    for (line, key, meant) in [
        ("retries = 5", "retries", "max_failures"),
        ("max_fails = 3", "max_fails", "max_failures"),
        ("schedule = \"x\"", "schedule", "cron"),
        ("every = 5", "every", "interval"),
        ("timout = 5", "timout", "timeout"),
    ] {
        for section in ["mail", "mail_2"] {
            let text: &'static str = Box::leak(format!("[{section}]\n{line}").into_boxed_str());
            assert_eq!(resolve(&toml(text), &[]).unwrap_err(), near(key, "services.toml:2", meant));
        }
        let variable: &'static str = Box::leak(format!("SERVICES__MAIL_2__{}", key.to_uppercase()).into_boxed_str());
        let place = format!("environment variable {variable}");
        assert_eq!(resolve(&env([(variable, "5")]), &[]).unwrap_err(), near(key, &place, meant));
        let set: &'static str = Box::leak(format!("mail_2.{key}").into_boxed_str());
        let place = format!(".set(\"{set}\", …)");
        assert_eq!(resolve(&toml("").set(set, 5), &[]).unwrap_err(), near(key, &place, meant));
        let row = toml("").load().row(Layer::Table, Scope::Service, key, 5.into(), "row");
        let rejected = &resolve(&toml(""), &[row]).unwrap().rejected;
        assert_eq!(rejected.iter().map(ToString::to_string).collect::<Vec<_>>(), [near(key, "row", meant)]);
    }
    assert_eq!(
        resolve(&toml("[mail_2]\nverbose.level = 1"), &[]).unwrap_err(),
        "`verbose` of service `mail_2` (services.toml:2): unknown key, the service has no settings; to give it \
         some, add a parameter to `configure`: `fn configure(cx: &Context, settings: Settings)`"
    );
    let code = ServiceOptions::new().setting("colour", 5);
    let target = Target::new("mail_2", descriptor(&[], None), Some(&code));
    let error = toml("").load().resolve(target, &[]).unwrap_err().to_string();
    assert!(error.contains("`colour`") && error.contains("unknown key"), "{error}");
    assert!(resolve(&toml("").set_for_all("of_another", 5), &[]).is_ok());
    // Where code outside of the type reads settings, their keys are not known.
    let target = Target { undeclared: true, ..Target::new("mail_2", descriptor(&[], None), None) };
    assert!(toml("[mail_2]\nverbose = 1").load().resolve(target, &[]).is_ok());
}

#[test]
fn nested_keys_that_no_field_reads_are_mistakes() {
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Settings {
        smtp: Smtp,
        #[serde(default)]
        limits: Vec<Smtp>,
        level: Option<Level>,
    }
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Smtp {
        host: String,
        #[serde(default, alias = "tcp_port")]
        port: u16,
    }
    #[derive(serde::Deserialize, Debug)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code, reason = "only read")]
    enum Level {
        Between { from: u8 },
    }
    let all = |text: &'static str| {
        let resolved = toml(text).resolve(&[]).unwrap();
        resolved.settings.get_all::<Settings>("mail").map(|_| ()).map_err(|error| error.to_string())
    };
    let cases = [
        (
            "[mail.smtp]\nhost = \"h\"\nprot = 5",
            "`smtp.prot` of service `mail` (services.toml:3): unknown key, did you mean `port`?",
        ),
        (
            "[mail]\nsmtp.host = \"h\"\n[[mail.limits]]\nhost = \"h\"\ncolour = 5",
            "`limits[0].colour` of service `mail` (services.toml:5): unknown key, expected \"host\", \"port\" or \"tcp_port\"",
        ),
        (
            "[mail]\nsmtp.host = \"h\"\nlevel.between = { from = 1, form = 2 }",
            "`level.between.form` of service `mail` (services.toml:3): unknown key, did you mean `from`?",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(all(text).unwrap_err(), message);
        // A part of the settings may be read on its own.
        assert!(toml(text).settings::<Settings>().is_ok(), "{text}");
    }
    assert_eq!(all("[mail.smtp]\nhost = \"h\"\ntcp_port = 5"), Ok(()));
}

#[test]
fn a_misspelt_key_of_settings_that_code_reads_by_itself_is_found_once() {
    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "only its fields matter")]
    struct Settings {
        #[serde(default)]
        batch_size: u32,
        host: String,
    }
    let misspelt = |text: &'static str| {
        let resolved = toml(text).load().resolve(Target::new("mail", undeclared(), None), &[]).unwrap();
        [resolved.settings.misspelt::<Settings>("mail"), resolved.settings.misspelt::<Settings>("mail")]
    };
    let warning = "`batch_sise` of service `mail` (services.toml:3): is not read, did you mean `batch_size`?";
    assert_eq!(misspelt("[mail]\nhost = \"h\"\nbatch_sise = 5"), [vec![warning.to_owned()], vec![]]);
    // A field of another type: the field of this one is set, or the names are not similar enough.
    for other in ["batch_size = 1\nbatch_sizes = 5", "hosts = 5", "colour = 5"] {
        assert_eq!(
            misspelt(Box::leak(format!("[mail]\n{other}").into_boxed_str())),
            [const { Vec::<String>::new() }; 2]
        );
    }
}

#[test]
fn keys_behind_flatten_that_nothing_reads_are_mistakes() {
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Settings {
        #[serde(flatten)]
        common: Common,
        #[serde(default)]
        word: String,
    }
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Common {
        #[serde(default)]
        account: String,
    }
    let all = |given: Given| {
        let resolved = given.resolve(&[]).unwrap();
        resolved.settings.get_all::<Settings>("mail").map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(all(toml("[mail]\naccount = \"a\"\nword = \"b\"")), Ok(()));
    assert_eq!(
        all(toml("[mail]\nacount = \"a\"\nword = \"b\"")).unwrap_err(),
        "`acount` of service `mail` (services.toml:2): unknown key, no field of the service's settings has this name"
    );
    assert_eq!(
        all(toml("[mail]\nhosts = [1, 2]")).unwrap_err(),
        "`hosts` of service `mail` (services.toml:2): unknown key, no field of the service's settings has this name"
    );
    assert!(all(env([("SERVICES__MAIL__ACOUNT", "5")])).unwrap_err().contains("SERVICES__MAIL__ACOUNT"));
    assert_eq!(all(toml("").set_for_all("of_another", 5)), Ok(()));
    assert!(toml("[mail]\nacount = 5").settings::<Settings>().is_ok(), "a part of the settings");
}

#[test]
fn without_known_fields_only_a_misspelt_option_is_an_error() {
    for (line, near) in [("max_failure", "max_failures"), ("itnerval", "interval"), ("time_out", "timeout")] {
        let text: &'static str = Box::leak(format!("[mail]\n{line} = 5").into_boxed_str());
        let message = format!("`{line}` of service `mail` (services.toml:2): unknown key, did you mean `{near}`?");
        assert_eq!(toml(text).errors(), message);
    }
    let resolved = toml("[mail]\nrelay = \"host\"\nverbose = true\nnames = 1").resolve(&[]).unwrap();
    assert_eq!(
        resolved.warnings,
        [
            "`relay` of service `mail` (services.toml:2) is read as a setting of the service: if the option `delay` is meant, correct the name"
        ]
    );
}

#[test]
fn a_setting_that_is_called_nearly_like_an_option_is_read_where_its_type_does_not_tell_its_fields() {
    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Flat {
        #[serde(flatten)]
        common: Common,
    }
    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Common {
        instance: String,
        #[serde(default)]
        rate_limits: Vec<u32>,
    }
    fn resolve<T: serde::de::DeserializeOwned>(given: &Given, rows: &[Row]) -> Result<(Arc<Resolved>, T), String> {
        let settings = Some(crate::config::settings::<T>());
        let mail = Box::leak(Box::new(ServiceDescriptor { settings, ..new_descriptor(&[], None) }));
        let resolved = given.load().resolve(Target::new("mail", mail, None), rows).map_err(|e| e.to_string())?;
        let settings = resolved.settings.get_all::<T>("mail").map_err(|error| error.to_string())?;
        Ok((resolved, settings))
    }
    let given = toml("[mail]\ninstance = \"eu\"\nrate_limits = [1, 2]");
    let (resolved, settings) = resolve::<Flat>(&given, &[]).unwrap();
    assert_eq!(settings, Flat { common: Common { instance: "eu".to_owned(), rate_limits: vec![1, 2] } });
    let warnings = [("instance", 2, "instances"), ("rate_limits", 3, "rate_limit")].map(|(key, line, near)| {
        format!("`{key}` of service `mail` (services.toml:{line}) is read as a setting of the service: if the option `{near}` is meant, correct the name")
    });
    assert_eq!(resolved.warnings, warnings);
    // An option that is misspelt is an error when the settings are read.
    let misspelt = toml("[mail]\ninstance = \"eu\"\nmax_falures = 3");
    assert_eq!(
        resolve::<Flat>(&misspelt, &[]).unwrap_err(),
        "`max_falures` of service `mail` (services.toml:3): unknown key, did you mean `max_failures`?"
    );
    let any = toml("[mail]\ninstance = 1");
    let (_, map) = resolve::<std::collections::HashMap<String, u32>>(&any, &[]).unwrap();
    assert_eq!(map["instance"], 1);
}

#[test]
fn a_required_field_behind_flatten_with_an_options_name_is_refused() {
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "never read")]
    struct Settings {
        #[serde(flatten)]
        common: Common,
        smtp: Option<Common>,
    }
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "never read")]
    struct Common {
        timeout: u64,
    }
    assert_eq!(
        toml("[mail]\ntimeout = 5").settings::<Settings>().unwrap_err(),
        "setting `timeout` of service `mail`: `timeout` is a key of `#[service]`, rename the field"
    );
    // In a table, no key is an option.
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "never read")]
    struct Nested {
        smtp: Common,
    }
    let missing = toml("[mail.smtp]").settings::<Nested>().unwrap_err();
    assert!(missing.starts_with("`smtp.timeout` of service `mail` is missing"), "{missing}");
}

#[test]
fn a_field_with_an_options_name_is_refused() {
    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "never read")]
    struct Settings {
        timeout: u32,
    }
    let message = "setting `timeout` of service `mail`: `timeout` is a key of `#[service]`, rename the field";
    assert_eq!(toml("").settings::<Settings>().unwrap_err(), message);
    let fields: fn() -> Option<&'static [&'static str]> = || crate::config::fields::fields::<Settings>();
    let error = toml("").load().resolve(Target::new("mail", descriptor(&[], Some(fields)), None), &[]).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn sections_of_unknown_services_are_reported_with_the_nearest() {
    let given = toml("[emial_sender]\nbatch_size = 1\n[cleanup]\n[zzz]").env([("SERVICES__CLAENUP__INTERVAL", "5")]);
    assert_eq!(
        given.load().unknown_sections(["email_sender", "cleanup"]),
        [
            "no service has the id `claenup` yet, so its settings (environment variable SERVICES__CLAENUP__INTERVAL) have no effect; did you mean `cleanup`?",
            "no service has the id `emial_sender` yet, so its settings (services.toml:2) have no effect; did you mean `email_sender`?",
            "no service has the id `zzz` yet, so its settings (services.toml) have no effect",
        ]
    );
}

#[test]
fn names_that_are_not_of_a_setting_are_reported() {
    let given = env([
        ("SERVICES__MAIL", "5"),
        ("SERVICES____INTERVAL", "5"),
        ("SERVICES__MAIL__SMTP", "5"),
        ("SERVICES__MAIL__SMTP__PORT", "5"),
    ])
    .set("interval", 5);
    let errors: Vec<String> = given.load().errors().iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "environment variable SERVICES__MAIL: not the name of a setting, write SERVICES__<SERVICE>__<KEY>",
            "environment variable SERVICES__MAIL__SMTP__PORT: another variable sets `smtp` as well: keep one of the two",
            "environment variable SERVICES____INTERVAL: not the name of a setting, write SERVICES__<SERVICE>__<KEY>",
            ".set(\"interval\", …): name the service and the key, as in `email_sender.batch_size`",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_its_line() {
    let cases = [
        (
            "interval = 5",
            "services.toml:1: `interval` is outside of any section: move it into [defaults] or into the section of a service",
        ),
        (
            "[[packer]]\na = 1\n[[packer]]\na = 2",
            "services.toml:1: `packer` is a list of sections: write [packer] once, with single brackets",
        ),
        ("[mail]\na = 1\na = 2", "services.toml:3: duplicate key"),
        ("[mail]\npassword = hunter2", "services.toml:2: string values must be quoted, expected literal string"),
    ];
    for (text, message) in cases {
        assert_eq!(errors(&toml(text).load()), message);
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let load = |file: Option<&str>, env: &[(&str, &str)]| {
        let environment = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let folder = Folder::with("[mail]\ninterval = 5");
        let file = file.map(PathBuf::from);
        let inputs = Inputs { file, environment, directory: Some(folder.0.clone()), ..Inputs::default() };
        errors(&Sources::load(inputs))
    };
    assert_eq!(
        load(Some("other.toml"), &[("SERVICES_CONFIG", "services.toml")]),
        "other.toml: the file does not exist; it is named by `config_file` in the builder"
    );
    assert_eq!(
        load(None, &[("SERVICES_CONFIG", "nowhere.toml")]),
        "nowhere.toml: the file does not exist; it is named by the environment variable SERVICES_CONFIG"
    );
    assert_eq!(load(Some("services.toml"), &[]), "");
    assert_eq!(load(None, &[]), "");
    let inputs = Inputs { directory: Some(PathBuf::from("/nowhere")), ..Inputs::default() };
    assert_eq!(errors(&Sources::load(inputs)), "", "without a name, no file is fine");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_an_error_where_it_is_read() {
    use std::os::unix::ffi::OsStringExt;
    let load = |name: &[u8], file: Option<&str>| {
        let folder = Folder::with("[mail]\ninterval = \"${WAIT}\"");
        let variable = (OsString::from_vec(name.to_vec()), OsString::from_vec(b"5\xff".to_vec()));
        let (file, environment) = (file.map(PathBuf::from), vec![variable]);
        Sources::load(Inputs { file, environment, directory: Some(folder.0.clone()), ..Inputs::default() })
    };
    let not_text = |name: &str| format!("environment variable {name}: it is not valid UTF-8");
    assert_eq!(errors(&load(b"SERVICES_CONFIG", None)), not_text("SERVICES_CONFIG"));
    assert_eq!(errors(&load(b"SERVICES_CONFIG", Some("services.toml"))), "");
    assert_eq!(errors(&load(b"SERVICES__MAIL__JITTER", None)), not_text("SERVICES__MAIL__JITTER"));
    assert_eq!(errors(&load(b"SERVICES__MAIL__\xff", None)), not_text("SERVICES__MAIL__\u{fffd}"));
    assert_eq!(errors(&load(b"OTHER_\xff", None)), "");
    let error = load(b"WAIT", None).resolve(Target::new("mail", undeclared(), None), &[]).unwrap_err().to_string();
    assert!(error.ends_with("`${WAIT}` cannot be read: it is not valid UTF-8"), "{error}");
}

#[test]
fn a_maximum_below_the_delay_is_a_warning() {
    let resolved = toml("[mail]\nretry_delay = \"10m\"").resolve(&[]).unwrap();
    assert_eq!(
        resolved.warnings,
        [
            "`retry_delay` of service `mail` is 10m, but `max_retry_delay` limits it to 5m: raise `max_retry_delay` as well"
        ]
    );
}
