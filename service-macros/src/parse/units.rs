//! Strings with a unit: durations (`"1h 30m"`) and rates (`"10/s"`).
//!
//! The units are those of the documentation and no others: `"5M"` and `"30sec"` are errors. Apart from that the grammar
//! is humantime's, so that a duration means the same to the runtime.

use std::time::Duration;

/// The longest time that an option takes. Timers cannot hold much more.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

const SECOND: u64 = 1_000_000_000;

/// The units and their nanoseconds.
const UNITS: [(&str, u64); 5] =
    [("ms", SECOND / 1000), ("s", SECOND), ("m", 60 * SECOND), ("h", 3600 * SECOND), ("d", 86_400 * SECOND)];

/// Reads a duration. The error is the rest of a sentence that begins with the key's name.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("is empty: write a number and a unit, for example \"5m\"".to_owned());
    }
    if rest.starts_with('-') {
        return Err("cannot be negative".to_owned());
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_where(after.trim_start(), |c| !c.is_alphabetic());
        if number.is_empty() {
            return Err(match (unit, rest.chars().next()) {
                ("", Some(other)) => format!("has `{other}`, which is neither a number nor a unit"),
                _ => format!("has no number before `{unit}`"),
            });
        }
        if unit.is_empty() {
            return Err(format!(
                "has no unit after {number}: write \"{number}s\" or \"{number}m\", or the number of seconds without quotes"
            ));
        }
        let Some((_, nanos)) = UNITS.iter().find(|(known, _)| *known == unit) else {
            return Err(format!("has the unknown unit `{unit}`: the units are ms, s, m, h and d"));
        };
        sum = sum.checked_add(multiply(number, *nanos)?).unwrap_or(Duration::MAX);
        rest = after.trim_start();
    }
    if sum > LONGEST {
        return Err("is longer than the maximum of 100 years".to_owned());
    }
    Ok(sum)
}

fn split_where(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// `number` times `nanos`, exactly. Too large a number becomes a time above [`LONGEST`].
fn multiply(number: &str, nanos: u64) -> Result<Duration, String> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !is_digits(whole) || !is_digits(fraction) {
        return Err(format!("has `{number}`, which is not a number"));
    }
    let too_fine = || format!("has `{number}`, which ends in a fraction of a nanosecond");
    let numerator = u128::from(fraction.parse::<u64>().map_err(|_| too_fine())?) * u128::from(nanos);
    let digits = u32::try_from(fraction.len()).ok();
    let denominator = digits.and_then(|digits| 10_u128.checked_pow(digits)).ok_or_else(too_fine)?;
    if numerator % denominator != 0 {
        return Err(too_fine());
    }
    let whole = u128::from(whole.parse::<u64>().unwrap_or(u64::MAX)) * u128::from(nanos);
    let total = whole + numerator / denominator;
    let seconds = u64::try_from(total / u128::from(SECOND)).unwrap_or(u64::MAX);
    let nanos = u32::try_from(total % u128::from(SECOND)).unwrap_or(0);
    Ok(Duration::new(seconds, nanos))
}

/// Checks a rate. The error is the rest of a sentence that begins with the key's name.
pub(crate) fn rate(text: &str) -> Result<(), String> {
    let wanted = "write a whole number, `/`, and s, m or h, for example \"10/s\"";
    let Some((count, unit)) = text.split_once('/') else {
        return Err(format!("is not a rate: {wanted}"));
    };
    if !matches!(unit, "s" | "m" | "h") {
        return Err(format!("has the unknown unit `{unit}`: {wanted}"));
    }
    if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("does not start with a whole number: {wanted}"));
    }
    match count.parse::<u32>() {
        Ok(0) => Err("cannot be zero: remove the key for no limit".to_owned()),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("must be at most {}", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of the list that the runtime's tests read as well: the text and what it means.
    fn shared(kind: &str) -> Vec<(String, String)> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../service-core/src/config/tests/units.txt");
        let lines = std::fs::read_to_string(file).unwrap();
        let lines = lines.lines().filter_map(|line| line.strip_prefix(kind)?.trim_start().strip_prefix('"'));
        let lines = lines.map(|line| line.split_once('"').expect("the text ends with a quote"));
        let lines: Vec<_> = lines.map(|(text, meaning)| (text.to_owned(), meaning.trim().to_owned())).collect();
        assert!(!lines.is_empty(), "no lines about a {kind}");
        lines
    }

    #[test]
    fn durations_mean_what_they_mean_to_the_runtime() {
        for (text, meaning) in shared("time") {
            let read = duration(&text).map(|time| time.as_millis().to_string());
            assert_eq!(read.unwrap_or_else(|_| "refused".to_owned()), meaning, "{text}");
        }
    }

    #[test]
    fn rates_are_those_of_the_runtime() {
        for (text, meaning) in shared("rate") {
            assert_eq!(rate(&text).is_err(), meaning == "refused", "{text}");
        }
    }

    #[test]
    fn every_other_unit_is_an_error_that_lists_the_documented_ones() {
        for unit in [
            "sec", "secs", "second", "seconds", "min", "mins", "minute", "minutes", "hr", "hrs", "hour", "hours",
            "day", "days", "msec", "millis", "ns", "us", "µs", "w", "week", "M", "month", "y", "year", "S", "H", "D",
            "MS", "parsecs",
        ] {
            let error = duration(&format!("30{unit}")).unwrap_err();
            assert_eq!(error, format!("has the unknown unit `{unit}`: the units are ms, s, m, h and d"));
        }
    }

    #[test]
    fn other_mistakes_are_explained() {
        for (text, words) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("30", "no unit after 30"),
            ("1h 30", "no unit after 30"),
            ("-5s", "cannot be negative"),
            ("+5s", "`+`, which is neither a number nor a unit"),
            ("m", "no number before `m`"),
            ("h1", "no number before `h`"),
            ("1.s", "`1.`, which is not a number"),
            (".5s", "`.5`, which is not a number"),
            ("1.2.3s", "`1.2.3`, which is not a number"),
            ("0.0000001ms", "a fraction of a nanosecond"),
            ("0.0000000000000000000000000000000000000000000s", "a fraction of a nanosecond"),
            ("5s!", "`!`, which is neither a number nor a unit"),
            ("1h, 30m", "`,`, which is neither a number nor a unit"),
            ("1e3s", "unknown unit `e`"),
            ("36501d", "100 years"),
            ("99999999999999999999999d", "100 years"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
