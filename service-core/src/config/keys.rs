//! The attribute's keys: how a value of any layer is read for each, and where it goes in [`Options`].
//!
//! Every reader answers with what it expected; who calls it knows the place. Keys that make one option together
//! (schedules, restarts) are put together in `resolve.rs`.

use std::time::Duration;

use super::units;
use super::values::Value;
use crate::config::options::Options;
use crate::humanize;
use crate::schedule::{CatchUp, RateLimit, Schedule};

/// What a key's value was read as.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed {
    Time(Duration),
    MaybeTime(Option<Duration>),
    Count(u32),
    Factor(f64),
    Flag(bool),
    Text(String),
    Ids(Vec<String>),
    Rate(Option<RateLimit>),
    Restart(bool),
    CatchUp(CatchUp),
}

type Read = fn(&Value) -> Result<Parsed, &'static str>;

/// Keys that every layer may set.
const OPTIONS: &[(&str, Read)] = &[
    ("interval", some_time),
    ("delay", some_time),
    ("cron", cron),
    ("timezone", timezone),
    ("catch_up", catch_up),
    ("initial_delay", time),
    ("jitter", time),
    ("max_failures", count),
    ("retry_delay", time),
    ("retry_backoff", factor),
    ("max_retry_delay", time),
    ("timeout", maybe_time),
    ("drain_timeout", time),
    ("restart", restart),
    ("restart_delay", time),
    ("max_restarts", count),
    ("restart_window", some_time),
    ("critical", flag),
    ("depends_on", ids),
    ("rate_limit", rate),
    ("enabled", flag),
];

/// Keys of the attribute that make sense nowhere else.
const ATTRIBUTE_ONLY: &[&str] = &["name", "discover", "scope", "crate"];

/// Whether it is a key of the attribute, one that only the attribute may have included.
pub(crate) fn is_attribute(key: &str) -> bool {
    is_attribute_only(key) || option_names().any(|name| name == key)
}

/// Whether only the attribute may have it.
pub(crate) fn is_attribute_only(key: &str) -> bool {
    ATTRIBUTE_ONLY.contains(&key)
}

/// Keys that every layer may set.
pub(crate) fn option_names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// Reads a value for a key; an error says what is expected. `None`: no key that every layer may set.
pub(crate) fn read(key: &str, value: &Value) -> Option<(&'static str, Result<Parsed, &'static str>)> {
    let (name, read) = OPTIONS.iter().find(|(name, _)| *name == key)?;
    Some((name, read(value)))
}

/// Puts what was read where it belongs. Schedules and restarts are not among them.
pub(crate) fn put(options: &mut Options, key: &str, parsed: Parsed) {
    match (key, parsed) {
        ("initial_delay", Parsed::Time(time)) => options.initial_delay = time,
        ("jitter", Parsed::Time(time)) => options.jitter = time,
        ("max_failures", Parsed::Count(count)) => options.max_failures = count,
        ("retry_delay", Parsed::Time(time)) => options.retry_delay = time,
        ("retry_backoff", Parsed::Factor(factor)) => options.retry_backoff = factor,
        ("max_retry_delay", Parsed::Time(time)) => options.max_retry_delay = time,
        ("timeout", Parsed::MaybeTime(time)) => options.timeout = time,
        ("drain_timeout", Parsed::Time(time)) => options.drain_timeout = time,
        ("critical", Parsed::Flag(flag)) => options.critical = flag,
        ("depends_on", Parsed::Ids(ids)) => options.depends_on = ids,
        ("rate_limit", Parsed::Rate(rate)) => options.rate_limit = rate,
        ("enabled", Parsed::Flag(flag)) => options.enabled = flag,
        _ => {}
    }
}

/// The value that an option has, by its key; `None` where the key has no part in what is in effect (`delay` beside an
/// interval, `restart_delay` without a restart).
pub(crate) fn get(options: &Options, key: &str) -> Option<Parsed> {
    let cron = match &options.schedule {
        Schedule::Cron(cron) => Some(cron),
        _ => None,
    };
    Some(match key {
        "interval" => match options.schedule {
            Schedule::Interval(time) => Parsed::Time(time),
            _ => return None,
        },
        "delay" => match options.schedule {
            Schedule::Delay(time) => Parsed::Time(time),
            _ => return None,
        },
        "cron" => Parsed::Text(cron?.expression.clone()),
        "timezone" => Parsed::Text(cron?.timezone.clone()),
        "catch_up" => Parsed::CatchUp(cron?.catch_up),
        "initial_delay" => Parsed::Time(options.initial_delay),
        "jitter" => Parsed::Time(options.jitter),
        "max_failures" => Parsed::Count(options.max_failures),
        "retry_delay" => Parsed::Time(options.retry_delay),
        "retry_backoff" => Parsed::Factor(options.retry_backoff),
        "max_retry_delay" => Parsed::Time(options.max_retry_delay),
        "timeout" => Parsed::MaybeTime(options.timeout),
        "drain_timeout" => Parsed::Time(options.drain_timeout),
        "restart" => Parsed::Restart(options.restart.is_some()),
        "restart_delay" => Parsed::Time(options.restart?.delay),
        "max_restarts" => Parsed::Count(options.restart?.max),
        "restart_window" => Parsed::Time(options.restart?.window),
        "critical" => Parsed::Flag(options.critical),
        "depends_on" => Parsed::Ids(options.depends_on.clone()),
        "rate_limit" => Parsed::Rate(options.rate_limit),
        "enabled" => Parsed::Flag(options.enabled),
        _ => return None,
    })
}

impl Parsed {
    /// As `explain` and the table at start show it: the same words whichever layer it came from.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Time(time) | Self::MaybeTime(Some(time)) => humanize::exact(*time),
            Self::MaybeTime(None) | Self::Rate(None) => "none".to_owned(),
            Self::Count(count) => count.to_string(),
            Self::Factor(factor) => factor.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => text.clone(),
            Self::Ids(ids) if ids.is_empty() => "none".to_owned(),
            Self::Ids(ids) => ids.join(", "),
            Self::Rate(Some(rate)) => units::show_rate(*rate),
            Self::Restart(true) => "on_failure".to_owned(),
            Self::Restart(false) => "never".to_owned(),
            Self::CatchUp(CatchUp::None) => "none".to_owned(),
            Self::CatchUp(CatchUp::Latest) => "latest".to_owned(),
            Self::CatchUp(CatchUp::All) => "all".to_owned(),
        }
    }
}

const TIME: &str =
    "a time, in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\"), up to 100 years";
const SOME_TIME: &str = "a time above zero, in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\"), up to 100 years";
const MAYBE_TIME: &str = "a time above zero, in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\"), up to 100 years, or \"none\"";

fn time(value: &Value) -> Result<Parsed, &'static str> {
    duration(value).map(Parsed::Time).ok_or(TIME)
}

fn some_time(value: &Value) -> Result<Parsed, &'static str> {
    duration(value).filter(|time| !time.is_zero()).map(Parsed::Time).ok_or(SOME_TIME)
}

fn maybe_time(value: &Value) -> Result<Parsed, &'static str> {
    if is_none(value) {
        return Ok(Parsed::MaybeTime(None));
    }
    let time = duration(value).filter(|time| !time.is_zero());
    time.map(|time| Parsed::MaybeTime(Some(time))).ok_or(MAYBE_TIME)
}

/// A time by the house rules: a number is seconds, a string has a unit.
pub(crate) fn duration(value: &Value) -> Option<Duration> {
    let time = match value {
        Value::Int(seconds) => Duration::from_secs(u64::try_from(*seconds).ok()?),
        Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok()?,
        Value::Time(time) => *time,
        Value::Str(text) => units::duration(text)?,
        Value::Text { text, .. } => match text.trim().parse() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
            Err(_) => units::duration(text)?,
        },
        _ => return None,
    };
    (time <= units::LONGEST).then_some(time)
}

fn count(value: &Value) -> Result<Parsed, &'static str> {
    let count = match value {
        Value::Int(count) => u32::try_from(*count).ok(),
        Value::Text { text, .. } => text.trim().parse().ok(),
        _ => None,
    };
    count.map(Parsed::Count).ok_or("a whole number from 0 to 4294967295")
}

fn factor(value: &Value) -> Result<Parsed, &'static str> {
    let factor = match value {
        Value::Int(factor) => Some(*factor as f64),
        Value::Float(factor) => Some(*factor),
        Value::Text { text, .. } => text.trim().parse().ok(),
        _ => None,
    };
    let fits = factor.filter(|factor| *factor >= 1.0 && factor.is_finite());
    fits.map(Parsed::Factor).ok_or("a factor from 1 on, such as 2 or 1.5")
}

fn flag(value: &Value) -> Result<Parsed, &'static str> {
    let flag = match value {
        Value::Bool(flag) => Some(*flag),
        Value::Text { text, .. } => boolean(text),
        _ => None,
    };
    flag.map(Parsed::Flag).ok_or("true or false")
}

/// What people write into environment variables for yes and no.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Str(text) | Value::Text { text, .. } => Some(text.trim()).filter(|text| !text.is_empty()),
        _ => None,
    }
}

/// An option that was given below is taken back.
fn is_none(value: &Value) -> bool {
    matches!(value, Value::Null) || text(value) == Some("none")
}

fn cron(value: &Value) -> Result<Parsed, &'static str> {
    text(value).map(|text| Parsed::Text(text.to_owned())).ok_or("a cron expression such as \"0 3 * * *\"")
}

fn timezone(value: &Value) -> Result<Parsed, &'static str> {
    text(value).map(|text| Parsed::Text(text.to_owned())).ok_or("a time zone such as \"Europe/Berlin\"")
}

fn catch_up(value: &Value) -> Result<Parsed, &'static str> {
    match text(value) {
        Some("none") => Ok(Parsed::CatchUp(CatchUp::None)),
        Some("latest") => Ok(Parsed::CatchUp(CatchUp::Latest)),
        Some("all") => Ok(Parsed::CatchUp(CatchUp::All)),
        _ => Err("\"none\", \"latest\" or \"all\""),
    }
}

fn restart(value: &Value) -> Result<Parsed, &'static str> {
    match text(value) {
        Some("never") => Ok(Parsed::Restart(false)),
        Some("on_failure") => Ok(Parsed::Restart(true)),
        _ => Err("\"never\" or \"on_failure\""),
    }
}

const IDS: &str = "a list of service ids such as [\"importer\", \"cleanup\"]";

fn ids(value: &Value) -> Result<Parsed, &'static str> {
    let items = match value {
        Value::List(items) => items.iter().map(|item| text(&item.value).map(str::to_owned)).collect(),
        Value::Text { text, .. } => {
            list_of(text).ok_or(IDS)?.iter().map(|item| self::text(item).map(str::to_owned)).collect()
        }
        _ => None,
    };
    items.map(Parsed::Ids).ok_or(IDS)
}

/// A list as it is written into an environment variable: a TOML array, or items with commas between them.
pub(crate) fn list_of(text: &str) -> Option<Vec<Value>> {
    let text = text.trim();
    if text.starts_with('[') {
        return match super::toml::parse_value(text)? {
            Value::List(items) => Some(items.into_iter().map(|item| item.value).collect()),
            _ => None,
        };
    }
    if text.is_empty() {
        return Some(Vec::new());
    }
    Some(text.split(',').map(|item| Value::Text { text: item.trim().to_owned(), secret: false }).collect())
}

fn rate(value: &Value) -> Result<Parsed, &'static str> {
    if is_none(value) {
        return Ok(Parsed::Rate(None));
    }
    let rate = text(value).and_then(units::rate);
    rate.map(|rate| Parsed::Rate(Some(rate))).ok_or("a rate per s, m or h (\"10/s\", \"600/m\"), or \"none\"")
}
