//! Text for humans: durations in the units of the configuration (`1h 30m`) and in sentences (`1 h 30 min`), and lists.

use std::time::{Duration, SystemTime};

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// A duration in the units of the configuration, exactly: `1h 30m`, `2d 250ms`, `0s`.
pub(crate) fn exact(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut parts = Vec::new();
    for (unit, size) in UNITS {
        if seconds >= size {
            parts.push(format!("{}{unit}", seconds / size));
            seconds %= size;
        }
    }
    let nanos = duration.subsec_nanos();
    if nanos > 0 {
        let millis = format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
        parts.push(format!("{}ms", millis.trim_end_matches('0').trim_end_matches('.')));
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// A duration for logs, rounded to milliseconds, and from 10 s on to seconds: `1h 30m`, `250ms`.
pub(crate) fn short(duration: Duration) -> String {
    exact(if duration >= Duration::from_secs(10) {
        Duration::from_secs(duration.as_secs_f64().round() as u64)
    } else {
        Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    })
}

/// A number of consecutive failures, with the most that are retried (`u32::MAX`: any number): `failure 2 of 3`.
pub(crate) fn failures(count: u32, max: u32) -> String {
    if max == u32::MAX { format!("failure {count}") } else { format!("failure {count} of {max}") }
}

/// A duration for a sentence, rounded to two units: `42 s`, `250 ms`, `3.5 s`, `5 min 20 s`, `1 h 30 min`.
pub(crate) fn long(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.000_5 {
        return if duration.is_zero() { "0 s" } else { "under 1 ms" }.to_owned();
    }
    if seconds < 0.999_5 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 9.95 {
        let tenths = format!("{seconds:.1}");
        return format!("{} s", tenths.strip_suffix(".0").unwrap_or(&tenths));
    }
    // From here on whole units. The smaller of the two is left out if it is 0.
    let whole = seconds.round() as u64;
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    match whole {
        0..120 => format!("{whole} s"),
        120..3_600 => two(whole / 60, "min", whole % 60, "s"),
        3_600..86_400 => two(whole / 3_600, "h", whole % 3_600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3_600, "h"),
    }
}

/// A time as its distance from `now`, in whole seconds: `in 5 min`, `42 s ago`, `now`.
pub(crate) fn relative(at: SystemTime, now: SystemTime) -> String {
    match now.duration_since(at).map(whole) {
        Ok(Duration::ZERO) => "now".to_owned(),
        Ok(ago) => format!("{} ago", long(ago)),
        Err(later) => match whole(later.duration()) {
            Duration::ZERO => "now".to_owned(),
            ahead => format!("in {}", long(ahead)),
        },
    }
}

/// A duration in whole seconds, where tenths of a second are noise.
pub(crate) fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

/// A number of services: `1 service`, `3 services`.
pub(crate) fn services(count: usize) -> String {
    if count == 1 { "1 service".to_owned() } else { format!("{count} services") }
}

/// A list of alternatives: `"a", "b" or "c"`.
pub(crate) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((one, [])) => one.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_and_short_use_the_units_of_the_configuration() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "0.000001ms"),
            (1_500_000, "1.5ms"),
            (250_000_000, "250ms"),
            (90_500_000_000, "1m 30s 500ms"),
            (187_200_000_000_000, "2d 4h"),
        ] {
            assert_eq!(exact(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(short(Duration::from_micros(1_234_567)), "1s 234ms");
        assert_eq!(short(Duration::from_millis(90_600)), "1m 31s");
    }

    #[test]
    fn a_time_is_its_distance_from_now_in_whole_seconds() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        for (millis, words) in [
            (998_900, "1 s ago"),
            (999_100, "now"),
            (1_000_000, "now"),
            (1_000_900, "now"),
            (1_001_900, "in 1 s"),
            (1_320_000, "in 5 min 20 s"),
        ] {
            assert_eq!(relative(at(millis), now), words, "{millis}");
        }
    }

    #[test]
    fn long_is_for_sentences() {
        for (millis, words) in [
            (0, "0 s"),
            (250, "250 ms"),
            (1_000, "1 s"),
            (3_040, "3 s"),
            (3_460, "3.5 s"),
            (9_990, "10 s"),
            (42_000, "42 s"),
            (72_400, "72 s"),
            (120_000, "2 min"),
            (320_000, "5 min 20 s"),
            (5_400_000, "1 h 30 min"),
            (86_400_000, "1 d"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(long(Duration::from_millis(millis)), words);
        }
        assert_eq!(long(Duration::from_micros(30)), "under 1 ms");
    }
}
