//! Times as RFC 3339 in UTC, with milliseconds, for serde: `#[serde(with = "rfc3339")]`.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*at))
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
