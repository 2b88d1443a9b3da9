//! Times and rates as text: `"500ms"`, `"1h 30m"`, `"10/s"`. The attribute accepts the same; both are tested with one
//! table.

use std::time::Duration;

use crate::schedule::RateLimit;

/// The longest time. The clock of tokio cannot represent the longest [`Duration`].
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The forms of a time, for errors.
pub(crate) const TIME_FORMS: &str = "seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\")";

const UNITS: [&str; 5] = ["ms", "s", "m", "h", "d"];

/// Parses a time with units: `1h 30m`. Numbers can have a fraction.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    // humantime joins the parts of a number that a blank divides.
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.windows(2).any(|pair| pair[0].ends_with(is_number) && pair[1].starts_with(is_number)) {
        return None;
    }
    // It accepts more units, and `0` without one.
    let mut units = text.split(|c: char| !c.is_alphabetic()).filter(|unit| !unit.is_empty()).peekable();
    units.peek()?;
    let known = units.all(|unit| UNITS.contains(&unit));
    let time = humantime::parse_duration(text.trim()).ok().filter(|_| known)?;
    (time <= LONGEST).then_some(time)
}

/// Parses a rate: `10/s`, `600/m`, `1000/h`.
pub(crate) fn rate(text: &str) -> Option<RateLimit> {
    let (permits, unit) = text.split_once('/')?;
    let is_number = !permits.is_empty() && permits.bytes().all(|digit| digit.is_ascii_digit());
    let permits = permits.parse().ok().filter(|permits| is_number && *permits > 0)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    Some(RateLimit { permits, per: Duration::from_secs(seconds) })
}

/// Shows a rate as it is written.
pub(crate) fn show_rate(RateLimit { permits, per }: RateLimit) -> String {
    let unit = match per.as_secs() {
        3_600 => "h",
        60 => "m",
        _ => "s",
    };
    format!("{permits}/{unit}")
}
