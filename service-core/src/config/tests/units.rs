//! The times and rates that a text may hold: the same table as for the attribute.

use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::schedule::RateLimit;

/// Kind, text and the rest of each line.
fn table(kind: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("units.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(move |line| line.strip_prefix(kind)).map(|rest| {
        let (text, meaning) = rest.trim_start().strip_prefix('"').unwrap().split_once('"').unwrap();
        (text, meaning.trim())
    })
}

/// `mail` with one line in its section.
fn section(line: String) -> Given {
    Given { toml: Box::leak(format!("[mail]\n{line}").into_boxed_str()), ..Given::default() }
}

#[test]
fn options_take_exactly_the_documented_units() {
    for (text, meaning) in table("time") {
        let resolved = section(format!("jitter = \"{text}\"")).resolve(&[]);
        match meaning {
            "refused" => {
                let message = resolved.unwrap_err();
                assert!(message.contains("with a unit of ms, s, m, h or d"), "{text}: {message}");
            }
            millis => {
                let millis = Duration::from_millis(millis.parse().unwrap());
                assert_eq!(resolved.unwrap().options.jitter, millis, "{text}");
            }
        }
    }
}

#[test]
fn settings_of_type_duration_take_the_same() {
    #[derive(Deserialize, Debug)]
    struct Settings {
        every: Duration,
    }
    for (text, meaning) in table("time") {
        let settings = section(format!("every = \"{text}\"")).settings::<Settings>();
        match meaning {
            "refused" => {
                let message = settings.unwrap_err();
                assert!(message.contains("with a unit of ms, s, m, h or d"), "{text}: {message}");
            }
            millis => assert_eq!(settings.unwrap().every.as_millis().to_string(), millis, "{text}"),
        }
    }
}

#[test]
fn rates_take_exactly_the_documented_units() {
    for (text, meaning) in table("rate") {
        let resolved = section(format!("rate_limit = \"{text}\"")).resolve(&[]);
        match meaning.split_once(' ') {
            None => {
                let message = resolved.unwrap_err();
                assert!(message.contains("expected a rate per s, m or h"), "{text}: {message}");
            }
            Some((permits, per)) => {
                let per = Duration::from_millis(per.parse().unwrap());
                let limit = RateLimit { permits: permits.parse().unwrap(), per };
                assert_eq!(resolved.unwrap().options.rate_limit, Some(limit), "{text}");
            }
        }
    }
}

#[test]
fn what_is_shown_can_be_written() {
    for (text, meaning) in table("time").filter(|(_, meaning)| *meaning != "refused") {
        let shown = crate::humanize::exact(Duration::from_millis(meaning.parse().unwrap()));
        let options = section(format!("jitter = \"{shown}\"")).options(&[]);
        assert_eq!(options.jitter.as_millis().to_string(), meaning, "{text}, shown as {shown}");
    }
    for (text, _) in table("rate").filter(|(_, meaning)| *meaning != "refused") {
        let resolved = section(format!("rate_limit = \"{text}\"")).resolve(&[]).unwrap();
        assert_eq!(resolved.provenance[0].value, text);
    }
}
