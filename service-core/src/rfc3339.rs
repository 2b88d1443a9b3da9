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
