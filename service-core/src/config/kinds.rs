//! The kinds of keys: reading a value of any layer into a part of [`Options`], and showing it.

use std::time::Duration;

use super::coercion;
use super::options::{Options, UNLIMITED};
use super::units::{self, TIME_FORMS};
use super::values::Value;
use crate::humanize;
use crate::schedule::RateLimit;

/// The values that a key accepts, and the part of [`Options`] that it sets.
pub(crate) enum Kind {
    Time(Least, Part<Duration>),
    /// A time above zero, or `"none"`.
    Limit(Part<Option<Duration>>),
    Count(Part<u32>),
    /// A whole number from 1 to this maximum.
    CountUpTo(u32, Part<u32>),
    /// A whole number, or `"unlimited"`.
    CountOrUnlimited(Part<u32>),
    /// A number from 1.
    Factor(Part<f64>),
    Switch(Part<bool>),
    /// One of these words.
    Choice(&'static [Word], fn(&Options) -> Option<&'static str>),
    Cron(Part<String>),
    TimeZone(Part<String>),
    Services(Part<Vec<String>>),
    /// Topics or probes.
    Names(Part<Vec<String>>),
    /// A rate, or `"none"`.
    Rate(Part<Option<RateLimit>>),
    /// Only the attribute can have it.
    Attribute,
}

/// The value that removes a limit.
pub(crate) const NONE: &str = "none";

/// The value that sets no limit to a count.
const UNLIMITED_WORD: &str = "unlimited";

/// The minimum of a time.
#[derive(Clone, Copy)]
pub(crate) enum Least {
    Zero,
    AboveZero,
    OneSecond,
}

impl Least {
    fn allows(self, time: Duration) -> bool {
        match self {
            Self::Zero => true,
            Self::AboveZero => !time.is_zero(),
            Self::OneSecond => time >= Duration::from_secs(1),
        }
    }
}

/// A part of the options, to read and to set. `get` returns `None` if the part has no effect now: `delay` beside an
/// interval, `restart_delay` without a restart.
pub(crate) struct Part<T: 'static> {
    get: fn(&Options) -> Option<T>,
    set: fn(&mut Options, T),
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

/// A word, and its effect.
type Word = (&'static str, fn(&mut Options));

/// A part of the options.
pub(crate) const fn part<T>(get: fn(&Options) -> Option<T>, set: fn(&mut Options, T)) -> Part<T> {
    Part { get, set }
}

/// A value that its key accepts.
pub(crate) struct Accepted {
    /// The value as `explain` and the table at start show it, in the same form for every layer.
    pub(crate) shown: String,
    apply: Box<dyn Fn(&mut Options)>,
}

impl Accepted {
    fn new<T: Clone + 'static>(shown: String, value: T, part: Part<T>) -> Self {
        Self { shown, apply: Box::new(move |options| (part.set)(options, value.clone())) }
    }

    pub(crate) fn apply(&self, options: &mut Options) {
        (self.apply)(options);
    }
}

impl Kind {
    /// Reads a value of any layer.
    ///
    /// # Errors
    /// The values that are accepted.
    pub(crate) fn read(&self, value: &Value) -> Result<Accepted, String> {
        let accepted = match *self {
            Kind::Time(least, part) => {
                let time = coercion::duration(value).filter(|time| least.allows(*time));
                time.map(|time| Accepted::new(humanize::exact(time), time, part))
            }
            Kind::Limit(part) if is_none(value) => Some(Accepted::new(NONE.to_owned(), None, part)),
            Kind::Limit(part) => {
                let time = coercion::duration(value).filter(|time| !time.is_zero());
                time.map(|time| Accepted::new(humanize::exact(time), Some(time), part))
            }
            Kind::Count(part) => coercion::count(value).map(|count| Accepted::new(count.to_string(), count, part)),
            Kind::CountUpTo(most, part) => coercion::count(value)
                .filter(|count| (1..=most).contains(count))
                .map(|count| Accepted::new(count.to_string(), count, part)),
            Kind::CountOrUnlimited(part) if coercion::word(value) == Some(UNLIMITED_WORD) => {
                Some(Accepted::new(UNLIMITED_WORD.to_owned(), UNLIMITED, part))
            }
            Kind::CountOrUnlimited(part) => {
                coercion::count(value).map(|count| Accepted::new(show_limit(count), count, part))
            }
            Kind::Factor(part) => {
                let factor = coercion::number(value).filter(|factor| *factor >= 1.0 && factor.is_finite());
                factor.map(|factor| Accepted::new(factor.to_string(), factor, part))
            }
            Kind::Switch(part) => coercion::boolean(value).map(|flag| Accepted::new(flag.to_string(), flag, part)),
            Kind::Choice(words, _) => {
                let word = coercion::word(value).and_then(|word| words.iter().find(|(known, _)| *known == word));
                word.map(|(word, apply)| Accepted { shown: (*word).to_owned(), apply: Box::new(apply) })
            }
            Kind::Cron(part) | Kind::TimeZone(part) => {
                coercion::word(value).map(|word| Accepted::new(word.to_owned(), word.to_owned(), part))
            }
            Kind::Services(part) => coercion::words(value).map(|ids| Accepted::new(show_ids(&ids), ids, part)),
            Kind::Names(part) => {
                let names = coercion::words(value).filter(|names| names.iter().all(|name| is_name(name)));
                names.map(|names| Accepted::new(show_ids(&names), names, part))
            }
            Kind::Rate(part) if is_none(value) => Some(Accepted::new(NONE.to_owned(), None, part)),
            Kind::Rate(part) => {
                let rate = coercion::word(value).and_then(units::rate);
                rate.map(|rate| Accepted::new(units::show_rate(rate), Some(rate), part))
            }
            Kind::Attribute => None,
        };
        accepted.ok_or_else(|| self.expected())
    }

    /// Shows the value in these options; `None` if the key has no effect in them.
    pub(crate) fn show(&self, options: &Options) -> Option<String> {
        match self {
            Kind::Time(_, part) => (part.get)(options).map(humanize::exact),
            Kind::Limit(part) => (part.get)(options).map(|time| time.map_or(NONE.to_owned(), humanize::exact)),
            Kind::Count(part) | Kind::CountUpTo(_, part) => (part.get)(options).map(|count| count.to_string()),
            Kind::CountOrUnlimited(part) => (part.get)(options).map(show_limit),
            Kind::Factor(part) => (part.get)(options).map(|factor| factor.to_string()),
            Kind::Switch(part) => (part.get)(options).map(|flag| flag.to_string()),
            Kind::Choice(_, get) => get(options).map(str::to_owned),
            Kind::Cron(part) | Kind::TimeZone(part) => (part.get)(options),
            Kind::Services(part) | Kind::Names(part) => (part.get)(options).map(|ids| show_ids(&ids)),
            Kind::Rate(part) => (part.get)(options).map(|rate| rate.map_or(NONE.to_owned(), units::show_rate)),
            Kind::Attribute => None,
        }
    }

    /// The values that are accepted, for errors.
    fn expected(&self) -> String {
        let above_zero = format!("a time above zero, in {TIME_FORMS}, up to 100 years");
        match self {
            Self::Time(Least::Zero, _) => format!("a time in {TIME_FORMS}, up to 100 years"),
            Self::Time(Least::AboveZero, _) => above_zero,
            Self::Time(Least::OneSecond, _) => {
                format!("a time of at least one second, in {TIME_FORMS}, up to 100 years")
            }
            Self::Limit(_) => format!("{above_zero}, or \"none\""),
            Self::Count(_) => format!("a whole number from 0 to {}", u32::MAX),
            Self::CountUpTo(most, _) => format!("a whole number from 1 to {most}"),
            Self::CountOrUnlimited(_) => format!("a whole number from 0 to {}, or \"{UNLIMITED_WORD}\"", u32::MAX),
            Self::Factor(_) => "a number of at least 1, such as 2 or 1.5".to_owned(),
            Self::Switch(_) => "true or false".to_owned(),
            Self::Choice(words, _) => humanize::one_of(words.iter().map(|(word, _)| *word)),
            Self::Cron(_) => "a cron expression such as \"0 3 * * *\"".to_owned(),
            Self::TimeZone(_) => "a time zone such as \"Europe/Berlin\"".to_owned(),
            Self::Services(_) => "a list of service ids such as [\"importer\", \"cleanup\"]".to_owned(),
            Self::Names(_) => {
                "a list of names such as [\"orders\"]: 1 to 100 letters, digits and `_`, `-`, `.`, `:`, `/`".to_owned()
            }
            Self::Rate(_) => "a rate per s, m or h (\"10/s\", \"600/m\"), or \"none\"".to_owned(),
            Self::Attribute => "no value".to_owned(),
        }
    }
}

/// Whether a topic or a probe may have this name.
pub(crate) fn is_name(topic: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    (1..=100).contains(&topic.len()) && topic.chars().all(allowed)
}

/// Whether the value removes the limit of a lower layer.
fn is_none(value: &Value) -> bool {
    matches!(value, Value::Null) || coercion::word(value) == Some(NONE)
}

fn show_limit(count: u32) -> String {
    if count == UNLIMITED { UNLIMITED_WORD.to_owned() } else { count.to_string() }
}

fn show_ids(ids: &[String]) -> String {
    if ids.is_empty() { NONE.to_owned() } else { ids.join(", ") }
}
