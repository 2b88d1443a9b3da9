//! Strings with a unit: durations (`"1h 30m"`) and rates (`"10/s"`).
//!
//! The grammar is that of humantime, less the units that are no part of a schedule: `M` is a month there, and somebody
//! who writes `"5M"` means minutes.

use std::time::Duration;

/// Longer times are slips: clocks and timers stop adding up.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Reads a duration. The error is what is wrong, as the rest of a sentence about the string.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("is empty: write a number and a unit, as in \"5m\"".to_owned());
    }
    if rest.starts_with('-') {
        return Err("is negative: times count forward".to_owned());
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let after = after.trim_start();
        let unit_end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if number.is_empty() {
            return Err(match unit {
                "" => format!("has `{}`, which is neither a number nor a unit", first_char(rest)),
                unit => format!("has no number before `{unit}`"),
            });
        }
        if unit.is_empty() {
            return Err(format!(
                "has no unit after {number}: write \"{number}s\" or \"{number}m\", or the number of seconds without quotes"
            ));
        }
        let scale = seconds_in(unit)?;
        let part = part(number, scale).ok_or_else(|| format!("has `{number}`, which is no number of its unit"))?;
        sum = sum.checked_add(part).unwrap_or(Duration::MAX);
        rest = after.trim_start();
    }
    if sum > LONGEST {
        return Err("is more than 100 years".to_owned());
    }
    Ok(sum)
}

fn first_char(text: &str) -> char {
    text.chars().next().unwrap_or(' ')
}

/// Nanoseconds in a unit.
fn seconds_in(unit: &str) -> Result<u64, String> {
    const SECOND: u64 = 1_000_000_000;
    Ok(match unit {
        "ms" | "msec" | "millis" => SECOND / 1000,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => 60 * SECOND,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600 * SECOND,
        "d" | "day" | "days" => 86_400 * SECOND,
        "M" => return Err("has the unit `M`: minutes are `m`".to_owned()),
        _ => return Err(format!("has the unknown unit `{unit}`: units are ms, s, m, h and d")),
    })
}

/// `number` times `nanos`, exactly; `None` where humantime would not take it either.
fn part(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    if whole.is_empty() {
        return None;
    }
    let mut total = u128::from(whole.parse::<u64>().unwrap_or(u64::MAX)) * u128::from(nanos);
    if let Some(fraction) = fraction {
        if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let numerator = u128::from(fraction.parse::<u64>().ok()?) * u128::from(nanos);
        let denominator = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        if numerator % denominator != 0 {
            return None;
        }
        total += numerator / denominator;
    }
    let seconds = u64::try_from(total / 1_000_000_000).unwrap_or(u64::MAX);
    let nanos = u32::try_from(total % 1_000_000_000).unwrap_or(0);
    Some(Duration::new(seconds, nanos))
}

/// Checks a rate. The error is what is wrong, as the rest of a sentence about the string.
pub(crate) fn rate(text: &str) -> Result<(), String> {
    let wanted = "write a whole number, `/`, and s, m or h, as in \"10/s\"";
    let Some((count, unit)) = text.split_once('/') else {
        return Err(format!("is not a rate: {wanted}"));
    };
    if !matches!(unit, "s" | "m" | "h") {
        return Err(format!("is per `{unit}`: rates are per s, m or h, as in \"10/s\""));
    }
    if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("does not start with a whole number: {wanted}"));
    }
    match count.parse::<u32>() {
        Ok(0) => Err("lets nothing through: leave the key out for no limit".to_owned()),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("is more than {} of its unit", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_means_what_humantime_says() {
        for text in
            ["500ms", "5m", "1h 30m", "1h30m", " 2 days ", "1.5s", "0s", "0.25h", "10min 3 sec", "1d 1h 1m 1s 1ms"]
        {
            assert_eq!(duration(text).ok(), humantime::parse_duration(text).ok(), "{text}");
        }
    }

    #[test]
    fn what_is_refused_is_explained() {
        for (text, word) in [
            ("", "empty"),
            ("30", "no unit"),
            ("-5s", "negative"),
            ("5M", "minutes are `m`"),
            ("5 parsecs", "unknown unit"),
            ("m", "no number"),
            ("1.s", "no number of its unit"),
            ("1.2.3s", "no number of its unit"),
            ("5s!", "neither a number nor a unit"),
            ("99999999999999999999999d", "100 years"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn rates_are_checked() {
        for good in ["10/s", "600/m", "1000/h"] {
            assert_eq!(rate(good), Ok(()));
        }
        for bad in ["", "10", "10/d", "/s", "0/s", "-1/s", "10 / s", "99999999999/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
