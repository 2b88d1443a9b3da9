//! The keys of `#[service(…)]` and `#[work_item(…)]`: one declaration for each key.
//!
//! Parsing, the rules about keys that depend on each other, the proposal for an unknown key and the text of every error
//! read these declarations. The table in the documentation of `#[service]` is compared with them by a test below.

use crate::spelling;

/// The keys of one attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    keys: &'static [Key],
    /// An argument that errors show where no key is known.
    pub(crate) example: &'static str,
    /// What to do with a word that is no key and looks like none.
    pub(crate) advice: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// A value that errors show.
    pub(crate) example: &'static str,
    /// What other libraries call it.
    synonyms: &'static [&'static str],
    pub(crate) rules: &'static [Rule],
    /// The macro itself uses the value; the runtime does not see the key.
    pub(crate) macro_only: bool,
}

/// The values that a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A service id.
    Id,
    /// Seconds, or a string with a unit, up to 100 years.
    Time(Least),
    /// A time above zero, or `"none"`.
    Limit,
    /// A whole number from `min` to `max`.
    Count {
        min: u32,
        max: u32,
    },
    /// A whole number, or `"unlimited"`.
    CountOrUnlimited,
    /// A number, 1.0 or more.
    Factor,
    /// `true` or `false`.
    Switch,
    /// One of these strings.
    Choice(&'static [&'static str]),
    Cron,
    TimeZone,
    /// A rate, or `"none"`.
    Rate,
    /// A list of service types, functions and ids.
    Services,
    /// A list of names of this kind.
    Names(&'static str),
    /// The name of a column.
    Column,
    /// The path of the runtime crate.
    CratePath,
}

/// The minimum of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Least {
    Zero,
    /// With what to do in place of a zero.
    AboveZero(&'static str),
    OneSecond,
}

/// What has to be true of the other keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// Only one key of the attribute may have this rule: a service has one schedule. `false` is none.
    Schedule,
    /// The key has an effect only together with another key, or with one value of it.
    Needs { key: &'static str, value: Option<&'static str> },
    /// The key is for services with `update`.
    Update,
    /// The key is for services with `run`.
    Run,
    /// The key is for functions.
    Function,
    /// The time is at least that of another key.
    AtLeast(&'static str),
    /// The key needs a feature of service-core.
    Feature { name: &'static str, enabled: bool },
}

const NOT_ZERO: Least = Least::AboveZero("use a longer time");
const NO_BUSY_LOOP: Least =
    Least::AboveZero("to run again at once while there is work, return `Outcome::processed(n).again()`");
const FOR_CRON: &[Rule] = &[Rule::Update, Rule::Needs { key: "cron", value: None }];
const FOR_CLUSTER: &[Rule] = &[Rule::Needs { key: "scope", value: Some("cluster") }];
const FOR_RESTART: &[Rule] = &[Rule::Needs { key: "restart", value: Some("on_failure") }];

pub(crate) static SERVICE: Table = Table {
    keys: &[
        key("name", Kind::Id, "\"email_sender\"").synonyms(&["id", "service_id"]).macro_only(),
        key("interval", Kind::Time(NO_BUSY_LOOP), "30")
            .synonyms(&["every", "period", "seconds"])
            .rules(&[Rule::Schedule]),
        key("delay", Kind::Time(NO_BUSY_LOOP), "30").synonyms(&["wait", "pause"]).rules(&[Rule::Schedule]),
        key("cron", Kind::Cron, "\"30 2 * * *\"").synonyms(&["schedule"]).rules(&[
            Rule::Schedule,
            // The crate's own tests cover the other rules of `cron` without the feature.
            Rule::Feature { name: "cron", enabled: cfg!(any(test, feature = "cron")) },
        ]),
        key("timezone", Kind::TimeZone, "\"Europe/Vienna\"").synonyms(&["tz", "zone"]).rules(FOR_CRON),
        key("catch_up", Kind::Choice(&["none", "latest", "all"]), "\"latest\"").synonyms(&["misfire"]).rules(FOR_CRON),
        key("on_demand", Kind::Switch, "true").synonyms(&["manual", "trigger"]).rules(&[Rule::Schedule]),
        key("wake_on", Kind::Names("topic"), "[\"orders\"]").synonyms(&["topics", "listen"]).rules(&[Rule::Update]),
        key("instances", Kind::Count { min: 1, max: 10_000 }, "4").synonyms(&["count", "replicas", "workers"]),
        key("initial_delay", Kind::Time(Least::Zero), "10").synonyms(&["start_delay"]).rules(&[Rule::Update]),
        key("jitter", Kind::Time(Least::Zero), "5").rules(&[Rule::Update]),
        key("max_failures", Kind::CountOrUnlimited, "3").synonyms(&["retries", "retry", "max_retries", "max_attempts"]),
        key("exhausted", Kind::Choice(&["fail", "next_run"]), "\"next_run\"").rules(&[Rule::Update]),
        key("retry_delay", Kind::Time(Least::Zero), "5"),
        key("retry_backoff", Kind::Factor, "2.0").synonyms(&["backoff"]),
        key("max_retry_delay", Kind::Time(Least::Zero), "300")
            .synonyms(&["max_delay", "max_backoff"])
            .rules(&[Rule::AtLeast("retry_delay")]),
        key("timeout", Kind::Limit, "60").rules(&[Rule::Update]),
        key("drain_timeout", Kind::Time(Least::Zero), "30").synonyms(&["shutdown_timeout", "grace_period"]),
        key("restart", Kind::Choice(&["never", "on_failure"]), "\"on_failure\""),
        key("restart_delay", Kind::Time(Least::Zero), "60").rules(FOR_RESTART),
        key("max_restarts", Kind::Count { min: 0, max: u32::MAX }, "5").rules(FOR_RESTART),
        key("restart_window", Kind::Time(NOT_ZERO), "600").rules(FOR_RESTART),
        key("critical", Kind::Switch, "true"),
        key("depends_on", Kind::Services, "[OtherService]").synonyms(&["depends", "requires", "after", "dependencies"]),
        key("stop_last", Kind::Switch, "true"),
        key("needs", Kind::Names("probe"), "[\"api\"]").synonyms(&["probes", "resources"]),
        key("idle_timeout", Kind::Limit, "\"2m\"").rules(&[Rule::Run]),
        key("on_end", Kind::Choice(&["stop", "again", "shutdown"]), "\"again\"").rules(&[Rule::Run]),
        key("stable_after", Kind::Time(Least::Zero), "60").rules(&[Rule::Run]),
        key("readiness", Kind::Choice(&["built", "explicit"]), "\"explicit\"").rules(&[Rule::Run]),
        key("long_running", Kind::Switch, "true")
            .synonyms(&["forever", "endless"])
            .rules(&[Rule::Function])
            .macro_only(),
        key("rate_limit", Kind::Rate, "\"10/s\"").synonyms(&["limit", "rate"]),
        key("enabled", Kind::Switch, "false").synonyms(&["disabled"]),
        key("discover", Kind::Switch, "false").synonyms(&["register"]).macro_only(),
        key("scope", Kind::Choice(&["process", "cluster"]), "\"process\"").synonyms(&["leader"]),
        key("lease", Kind::Time(Least::OneSecond), "30").synonyms(&["ttl", "lease_duration"]).rules(FOR_CLUSTER),
        key("crate", Kind::CratePath, "::service_core").synonyms(&["krate"]).macro_only(),
    ],
    example: "interval = 30",
    advice: "put the service's own settings into `services.toml`",
};

pub(crate) static WORK_ITEM: Table = Table {
    keys: &[
        key("status", Kind::Column, "\"status\"").synonyms(&["state"]),
        key("error", Kind::Column, "\"error_message\""),
        key("attempts", Kind::Column, "\"attempts\"").synonyms(&["tries"]),
        key("max_attempts", Kind::Count { min: 1, max: u32::MAX }, "5")
            .synonyms(&["retries", "max_failures"])
            .rules(&[Rule::Needs { key: "attempts", value: None }]),
        key("available_at", Kind::Column, "\"due\"").synonyms(&["due", "run_at"]),
        key("updated_at", Kind::Column, "\"updated_at\""),
        key("retain_completed", Kind::Time(NOT_ZERO), "\"30d\"")
            .synonyms(&["retain", "retention", "keep"])
            .rules(&[Rule::Needs { key: "updated_at", value: None }]),
        key("crate", Kind::CratePath, "::service_core").synonyms(&["krate"]),
    ],
    example: "status = \"status\"",
    advice: "the other columns need no key",
};

const fn key(name: &'static str, kind: Kind, example: &'static str) -> Key {
    Key { name, kind, example, synonyms: &[], rules: &[], macro_only: false }
}

impl Key {
    const fn synonyms(mut self, synonyms: &'static [&'static str]) -> Self {
        self.synonyms = synonyms;
        self
    }

    const fn rules(mut self, rules: &'static [Rule]) -> Self {
        self.rules = rules;
        self
    }

    const fn macro_only(mut self) -> Self {
        self.macro_only = true;
        self
    }

    /// `key = value`, as errors show it.
    pub(crate) fn assignment(&self) -> String {
        format!("{} = {}", self.name, self.example)
    }
}

impl Table {
    pub(crate) fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.keys.iter().copied()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }

    /// What to write for an unknown key, if one of these was probably meant.
    pub(crate) fn proposal(&self, unknown: &str) -> Option<String> {
        let lower = unknown.to_lowercase();
        // Another word may want another value: the opposite of `disabled = true` is `enabled = false`.
        let synonym = self.keys.iter().find(|key| key.synonyms.contains(&&*lower)).map(Key::assignment);
        synonym.or_else(|| spelling::nearest(unknown, self.names()).map(str::to_owned))
    }
}

impl Kind {
    /// The accepted values, as the rest of "`key` takes …".
    pub(crate) fn takes(self) -> String {
        match self {
            Kind::Id => "a service id in quotes".to_owned(),
            Kind::Time(_) | Kind::Limit => {
                "a time in seconds (`30`, `0.5`) or with a unit (`\"500ms\"`, `\"1h 30m\"`)".to_owned()
            }
            Kind::Count { .. } => "a whole number".to_owned(),
            Kind::CountOrUnlimited => "a whole number or `\"unlimited\"`".to_owned(),
            Kind::Factor => "a number, 1.0 or more".to_owned(),
            Kind::Switch => "`true` or `false`".to_owned(),
            Kind::Choice(words) => alternatives(words),
            Kind::Cron => "a cron expression in quotes".to_owned(),
            Kind::TimeZone => "the name of a time zone in quotes".to_owned(),
            Kind::Rate => "a rate in quotes".to_owned(),
            Kind::Services => "a list of service types, functions and ids".to_owned(),
            Kind::Names(kind) => format!("a list of {kind}s in quotes"),
            Kind::Column => "the name of a column in quotes".to_owned(),
            Kind::CratePath => "a path without quotes".to_owned(),
        }
    }
}

/// `"a"`, `"b"` or `"c"`.
pub(crate) fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the table of keys in the documentation of `#[service]`: the keys, and the rest of the row.
    fn documented() -> Vec<(Vec<String>, String)> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../service-core/src/service/attribute.md");
        let text = std::fs::read_to_string(file).unwrap();
        let table = text.split("# Keys\n").nth(1).expect("the documentation has a section `Keys`");
        let table = table.split("\n# ").next().unwrap_or_default();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| {
            let (keys, rest) = row.split_once(" | ").expect("a row has several columns");
            (keys.split(", ").map(|key| key.trim_matches('`').to_owned()).collect(), rest.to_owned())
        });
        rows.collect()
    }

    #[test]
    fn every_key_is_documented_and_nothing_else() {
        let documented: Vec<String> = documented().into_iter().flat_map(|(keys, _)| keys).collect();
        assert_eq!(documented, SERVICE.names().collect::<Vec<_>>());
    }

    #[test]
    fn the_words_that_a_key_takes_are_documented() {
        for (keys, text) in documented() {
            for key in keys.iter().filter_map(|key| SERVICE.find(key)) {
                if let Kind::Choice(words) = key.kind {
                    for word in words {
                        assert!(
                            text.contains(&format!("`{word}`")) || text.contains(&format!("`\"{word}\"`")),
                            "`{word}` of `{}`",
                            key.name
                        );
                    }
                }
            }
        }
    }

    /// What the runtime declares for a key that takes these values.
    fn in_runtime(key: &Key) -> String {
        match key.kind {
            _ if key.macro_only => "Kind::Attribute".to_owned(),
            Kind::Time(Least::Zero) => "Kind::Time(Least::Zero,".to_owned(),
            Kind::Time(Least::AboveZero(_)) => "Kind::Time(Least::AboveZero,".to_owned(),
            Kind::Time(Least::OneSecond) => "Kind::Time(Least::OneSecond,".to_owned(),
            Kind::Count { min: 0, max: u32::MAX } => "Kind::Count(".to_owned(),
            Kind::Count { min: 1, max: 10_000 } => "Kind::CountUpTo(MOST_INSTANCES,".to_owned(),
            Kind::Names(_) => "Kind::Names(".to_owned(),
            Kind::Choice(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("(\"{word}\",")).collect();
                format!("Kind::Choice(&[{}", words.join("…"))
            }
            other => format!("Kind::{other:?}("),
        }
    }

    #[test]
    fn the_runtime_takes_the_same_values() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../service-core/src/config/keys.rs");
        let source: String = std::fs::read_to_string(file).unwrap().split_whitespace().collect();
        assert!(source.contains("constMOST_INSTANCES:u32=10_000;"));
        let (_, table) = source.split_once("staticKEYS").expect("the runtime has a table of keys");
        let keys: Vec<&str> = table.split("key(\"").skip(1).collect();
        for key in SERVICE.keys() {
            let name = format!("{}\"", key.name);
            let declared = keys.iter().find_map(|text| text.strip_prefix(&*name)).expect("the runtime has the key");
            let mut rest = declared;
            for part in in_runtime(&key).split('…') {
                let found = rest.split_once(part);
                rest = found.unwrap_or_else(|| panic!("`{}` is not `{part}`: {declared}", key.name)).1;
            }
            if let Kind::Choice(words) = key.kind {
                assert_eq!(declared.matches("(\"").count(), words.len(), "`{}`: {declared}", key.name);
            }
        }
    }

    #[test]
    fn rules_and_synonyms_name_real_keys_and_new_words() {
        for table in [SERVICE, WORK_ITEM] {
            let mut synonyms = Vec::new();
            for key in table.keys {
                for rule in key.rules {
                    if let Rule::Needs { key: other, .. } | Rule::AtLeast(other) = rule {
                        assert!(table.find(other).is_some(), "`{}` has a rule about `{other}`", key.name);
                    }
                }
                for synonym in key.synonyms {
                    assert!(table.find(synonym).is_none(), "`{synonym}` is a key");
                    assert!(!synonyms.contains(synonym), "`{synonym}` stands for two keys");
                    synonyms.push(*synonym);
                }
            }
        }
    }
}
