//! Times as RFC 3339 in UTC, with milliseconds, for serde: `#[serde(with = "rfc3339")]`.

use std::time::{Duration, SystemTime};

use humantime::Rfc3339Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Returns a time as text, with seconds.
pub(crate) fn seconds(at: SystemTime) -> Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(clamped(at))
}

/// Returns a time as text, with milliseconds.
pub(crate) fn millis(at: SystemTime) -> Rfc3339Timestamp {
    humantime::format_rfc3339_millis(clamped(at))
}

/// Returns the nearest time that has a text: from 1970 to 9999. Others come from a clock that is wrong.
fn clamped(at: SystemTime) -> SystemTime {
    /// 9999-12-31T23:59:59Z
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    SystemTime::UNIX_EPOCH + at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST)
}

/// Parses a time, with `Z` or an offset such as `+01:00`.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    if let Ok(at) = humantime::parse_rfc3339(text) {
        return Some(at);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (sign, time) = offset.split_at_checked(1)?;
    let (hours, minutes) = time.split_once(':')?;
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<u8>().ok()).flatten();
    let (hours, minutes) =
        (number(hours).filter(|hours| *hours < 24)?, number(minutes).filter(|minutes| *minutes < 60)?);
    let offset = Duration::from_secs((u64::from(hours) * 60 + u64::from(minutes)) * 60);
    match sign {
        "+" => local.checked_sub(offset),
        "-" => local.checked_add(offset),
        _ => None,
    }
}

pub(crate) fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&millis(*at))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
}

/// An element of an `Option` or a list.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Time(#[serde(with = "self")] SystemTime);

/// `Option<SystemTime>`.
pub(crate) mod optional {
    use super::{Deserialize, Deserializer, Serialize, Serializer, SystemTime, Time};

    pub(crate) fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(Time).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Time>::deserialize(deserializer)?.map(|Time(at)| at))
    }
}

/// `Vec<SystemTime>`.
pub(crate) mod list {
    use super::{Deserialize, Deserializer, Serializer, SystemTime, Time};

    pub(crate) fn serialize<S: Serializer>(all: &[SystemTime], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(all.iter().map(|at| Time(*at)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SystemTime>, D::Error> {
        let all = Vec::<Time>::deserialize(deserializer)?;
        Ok(all.into_iter().map(|Time(at)| at).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_read() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800);
        for text in ["2026-01-01T12:00:00Z", "2026-01-01T13:30:00+01:30", "2025-12-31T23:00:00.000-13:00"] {
            assert_eq!(parse(text), Some(noon), "{text}");
        }
        for text in [
            "",
            "+01:00",
            "2026-01-01T12:00:00+1:00",
            "2026-01-01T12:00:00+24:00",
            "2026-01-01T12:00:00 01:00",
            "ä01:00",
            "noon",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_time_has_a_text() {
        let day = Duration::from_secs(24 * 3_600);
        for (at, text) in [
            (SystemTime::UNIX_EPOCH - day, "1970-01-01T00:00:00.000Z"),
            (SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_120), "2026-01-01T00:00:00.120Z"),
            (SystemTime::UNIX_EPOCH + day * 3_000_000, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(millis(at).to_string(), text);
            assert_eq!(seconds(at).to_string(), format!("{}Z", &text[..19]));
            assert_eq!(serde_json::to_value(Time(at)).unwrap(), text);
        }
    }
}
