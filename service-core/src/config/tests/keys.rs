//! The table of keys, compared with every other place that lists keys.

use std::collections::BTreeSet;

use super::*;
use crate::config::POSSIBLE;
use crate::config::keys::{self, KEYS, Key};
use crate::config::kinds::Kind;
use crate::config::options::{DEFAULT_LEASE, Options};
use crate::config::values::Value;
use crate::schedule::{CatchUp, CronSchedule, LongRun, Schedule};

/// Everything is on that a key may need, and has its default.
fn with_all() -> [Options; 3] {
    let (timezone, catch_up) = ("UTC".to_owned(), CatchUp::None);
    let cron = CronSchedule { expression: "0 3 * * *".to_owned(), timezone, catch_up };
    let (restart, lease) = (Some(Default::default()), Some(DEFAULT_LEASE));
    let on = Options { restart, lease, schedule: Schedule::Cron(cron), ..Options::default() };
    let long = Options { schedule: Schedule::LongRun(LongRun::default()), ..Options::default() };
    [Options::default(), on, long]
}

#[test]
fn the_default_of_each_key_is_that_of_the_options() {
    for key in keys::options() {
        let mut seen = false;
        for options in with_all()
            .iter()
            .filter(|options| !matches!(key.name, "restart" | "exhausted" | "scope") || options.restart.is_none())
        {
            // `on_demand = false` is no schedule.
            if key.default == keys::NOT_SET || key.name == "on_demand" {
                assert_eq!(key.kind.show(&Options::default()), None, "{}", key.name);
                seen = true;
                continue;
            }
            let Some(shown) = key.kind.show(options) else { continue };
            let value = toml::parse_value(key.default).unwrap_or_else(|| Value::Str(key.default.to_owned()));
            let Ok(accepted) = key.kind.read(&value) else { panic!("{} does not take its default", key.name) };
            assert_eq!(accepted.shown, shown, "{}", key.name);
            let mut changed = options.clone();
            accepted.apply(&mut changed);
            // The default of `exhausted` follows the schedule.
            assert!(&changed == options || key.name == "exhausted", "{}", key.name);
            seen = true;
        }
        assert!(seen, "{} has no default", key.name);
    }
}

#[test]
fn every_field_of_the_options_has_a_key() {
    let text = format!("{:#?}", Options::default());
    let fields = text.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": "));
    for (field, _) in fields.filter(|(field, _)| !field.starts_with(' ')) {
        // Three keys are the schedule.
        assert!(field == "schedule" || keys::find(field).is_some(), "{field}");
    }
}

#[test]
fn synonyms_are_words_of_their_own() {
    let mut words = BTreeSet::new();
    for word in KEYS.iter().flat_map(|key| key.synonyms) {
        assert!(keys::find(word).is_none() && words.insert(*word), "{word}");
    }
    assert_eq!(keys::suggest("max_retries"), Some("max_failures"));
    assert_eq!(keys::suggest("max_fails"), Some("max_failures"));
    assert_eq!(keys::suggest("colour"), None);
}

#[test]
fn a_service_that_passes_its_context_on_may_have_settings_that_look_like_no_option() {
    let possible: &ServiceDescriptor =
        Box::leak(Box::new(ServiceDescriptor { settings: Some(POSSIBLE), ..new_descriptor(&[], None) }));
    let resolve = |text: &'static str, undeclared| {
        let target = Target { undeclared, ..Target::new("mail", possible, None) };
        toml(text).load().resolve(target, &[]).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(resolve("[mail]\nbatch_size = 10\nverbose.level = 1", false), Ok(()));
    // Short words are near to short options.
    for word in ["from", "filter", "store", "score", "scale", "seed", "feed", "feeds", "base", "relay", "delta"] {
        let text: &'static str = Box::leak(format!("[mail]\n{word} = \"x\"").into());
        assert_eq!(resolve(text, false), Ok(()), "{word}");
    }
    for (text, key, near) in [
        ("[mail]\nretries = 5", "retries", "max_failures"),
        ("[mail]\nmax_fails = 3", "max_fails", "max_failures"),
        ("[mail]\nschedule = \"x\"", "schedule", "cron"),
        ("[mail]\nitnerval = 5", "itnerval", "interval"),
    ] {
        let message = format!(
            "`{key}` of service `mail` (services.toml:2): unknown key, did you mean `{near}`? To have a setting `{key}`, add a \
             parameter to `configure`: `fn configure(cx: &Context, settings: Settings)`"
        );
        assert_eq!(resolve(text, false), Err(message));
    }
    // A closure that builds the instance may read any setting.
    assert_eq!(resolve("[mail]\nretries = 5", true), Ok(()));
}

#[test]
fn on_demand_that_is_false_does_not_hide_the_interval() {
    let resolved = toml("").resolve(&[("on_demand", Literal::Bool(false))]).unwrap();
    let explained = resolved.explain(&resolved.options);
    assert_eq!((explained[0].key, &*explained[0].place), ("interval", "default"));
}

/// The rows of the table of keys in a text: name, default and meaning of each key.
fn documented(text: &str) -> Vec<(String, String, String)> {
    let table = text.split("| key | default | meaning |").nth(1).unwrap();
    let rows = table.lines().map(|line| line.trim_start_matches("/// ")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').splitn(3, " | ").map(str::trim).collect();
        let (names, defaults) = (cells[0].split(", "), cells[1].split(", "));
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        names
            .zip(defaults)
            .map(|(name, default)| (plain(name), plain(default), cells[2].to_owned()))
            .collect::<Vec<_>>()
    })
    .collect()
}

fn declared(key: &Key) -> (String, String) {
    (key.name.to_owned(), key.default.to_owned())
}

/// Each page with the table of keys, and the keys whose meaning it says in other words.
const PAGES: [(&str, &str, &[&str]); 3] = [
    ("docs/configuration.md", include_str!("../../../../docs/configuration.md"), &[]),
    ("README.md", include_str!("../../../../README.md"), &["name", "interval", "cron", "timezone", "rate_limit"]),
    (
        "attribute.md",
        include_str!("../../service/attribute.md"),
        &["cron", "timezone", "depends_on", "rate_limit", "discover"],
    ),
];

#[test]
fn the_documentation_has_every_key_with_its_default() {
    let declared: Vec<_> = KEYS.iter().map(declared).collect();
    for (page, text, _) in PAGES {
        let documented: Vec<_> = documented(text).into_iter().map(|(name, default, _)| (name, default)).collect();
        assert_eq!(documented, declared, "{page}");
    }
}

#[test]
fn the_documentation_says_what_each_key_means() {
    for (page, text, in_other_words) in PAGES {
        for ((name, _, meaning), key) in documented(text).iter().zip(KEYS) {
            let is_same = (name.as_str(), meaning.as_str()) == (key.name, key.meaning);
            assert_eq!(is_same, !in_other_words.contains(&key.name), "{page}: `{name}`: {meaning}");
        }
    }
}

/// What stands between each `start` and the quote after it.
fn quoted_after<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(|rest| rest.split('"').next())
}

#[test]
fn the_macro_takes_the_same_keys() {
    let source = include_str!("../../../../service-macros/src/parse/keys.rs");
    let service = source.split("WORK_ITEM").next().unwrap();
    let accepted: Vec<&str> = quoted_after(service, " key(\"").collect();
    assert_eq!(accepted, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
}

#[test]
fn code_can_set_every_option() {
    let set: BTreeSet<&str> = quoted_after(include_str!("../options.rs"), "self.with(\"").collect();
    assert_eq!(set, keys::options().map(|key| key.name).collect());
}

#[test]
fn only_the_attribute_has_the_keys_of_the_macro() {
    let only: Vec<&str> = KEYS.iter().filter(|key| matches!(key.kind, Kind::Attribute)).map(|key| key.name).collect();
    assert_eq!(only, ["name", "long_running", "discover", "crate"]);
}
