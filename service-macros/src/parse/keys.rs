//! The keys of `#[service(…)]`: what each takes, and what people write instead.

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A service id.
    Name,
    /// Seconds, or a string with a unit; zero where it means something.
    Time {
        zero: bool,
    },
    /// A whole number that fits `u32`.
    Count,
    /// A number from 1.0.
    Factor,
    /// `true` or `false`.
    Switch,
    /// One of these strings.
    Choice(&'static [&'static str]),
    Cron,
    Zone,
    Rate,
    /// A list of types and ids.
    Services,
    /// The path of the runtime crate.
    CratePath,
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// A value to show when there is none or a wrong one.
    pub(crate) example: &'static str,
}

const fn key(name: &'static str, kind: Kind, example: &'static str) -> Key {
    Key { name, kind, example }
}

pub(crate) static KEYS: &[Key] = &[
    key("name", Kind::Name, "\"email_sender\""),
    key("interval", Kind::Time { zero: false }, "30"),
    key("delay", Kind::Time { zero: false }, "30"),
    key("cron", Kind::Cron, "\"30 2 * * *\""),
    key("timezone", Kind::Zone, "\"Europe/Vienna\""),
    key("catch_up", Kind::Choice(&["none", "latest", "all"]), "\"latest\""),
    key("initial_delay", Kind::Time { zero: true }, "10"),
    key("jitter", Kind::Time { zero: true }, "5"),
    key("max_failures", Kind::Count, "3"),
    key("retry_delay", Kind::Time { zero: true }, "5"),
    key("retry_backoff", Kind::Factor, "2.0"),
    key("max_retry_delay", Kind::Time { zero: true }, "300"),
    key("timeout", Kind::Time { zero: false }, "60"),
    key("drain_timeout", Kind::Time { zero: true }, "30"),
    key("restart", Kind::Choice(&["never", "on_failure"]), "\"on_failure\""),
    key("restart_delay", Kind::Time { zero: true }, "60"),
    key("max_restarts", Kind::Count, "5"),
    key("restart_window", Kind::Time { zero: false }, "600"),
    key("critical", Kind::Switch, "true"),
    key("depends_on", Kind::Services, "[OtherService]"),
    key("rate_limit", Kind::Rate, "\"10/s\""),
    key("enabled", Kind::Switch, "false"),
    key("discover", Kind::Switch, "false"),
    key("scope", Kind::Choice(&["process", "cluster"]), "\"process\""),
    key("crate", Kind::CratePath, "::service_core"),
];

/// Words from elsewhere for what a key here means.
static SYNONYMS: &[(&str, &str)] = &[
    ("id", "name"),
    ("service_id", "name"),
    ("every", "interval"),
    ("period", "interval"),
    ("seconds", "interval"),
    ("wait", "delay"),
    ("pause", "delay"),
    ("schedule", "cron"),
    ("tz", "timezone"),
    ("zone", "timezone"),
    ("misfire", "catch_up"),
    ("start_delay", "initial_delay"),
    ("retries", "max_failures"),
    ("retry", "max_failures"),
    ("max_retries", "max_failures"),
    ("max_attempts", "max_failures"),
    ("backoff", "retry_backoff"),
    ("max_delay", "max_retry_delay"),
    ("max_backoff", "max_retry_delay"),
    ("shutdown_timeout", "drain_timeout"),
    ("grace_period", "drain_timeout"),
    ("depends", "depends_on"),
    ("requires", "depends_on"),
    ("after", "depends_on"),
    ("dependencies", "depends_on"),
    ("limit", "rate_limit"),
    ("rate", "rate_limit"),
    ("disabled", "enabled"),
    ("register", "discover"),
    ("leader", "scope"),
    ("krate", "crate"),
];

pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that a wrong one is taken for.
pub(crate) fn meant(name: &str) -> Option<&'static Key> {
    let lower = name.to_lowercase();
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == lower).map(|(_, key)| *key);
    synonym.or_else(|| crate::spelling::nearest(name, KEYS.iter().map(|key| key.name))).and_then(find)
}

impl Kind {
    /// What to write, as the rest of "`key` takes …".
    pub(crate) fn takes(self) -> String {
        match self {
            Kind::Name => "a string".to_owned(),
            Kind::Time { .. } => {
                "a time: seconds (`30`, `0.5`) or a string with a unit (`\"500ms\"`, `\"1h 30m\"`)".to_owned()
            }
            Kind::Count => "a whole number".to_owned(),
            Kind::Factor => "a number from 1.0".to_owned(),
            Kind::Switch => "`true` or `false`".to_owned(),
            Kind::Choice(words) => alternatives(words),
            Kind::Cron => "a cron expression".to_owned(),
            Kind::Zone => "the name of a time zone".to_owned(),
            Kind::Rate => "a rate".to_owned(),
            Kind::Services => "a list of service types and ids".to_owned(),
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
