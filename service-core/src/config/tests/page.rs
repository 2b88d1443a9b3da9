//! What the documentation shows is what works.

use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::Secret;
use crate::schedule::Schedule;

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// The first block of a language.
fn block(language: &str) -> &'static str {
    let start = format!("```{language}\n");
    let (_, rest) = PAGE.split_once(start.as_str()).unwrap();
    rest.split_once("```").unwrap().0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    batch_size: u32,
    recipients: Vec<String>,
    api_key: Secret<String>,
    smtp: Smtp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Smtp {
    host: String,
    port: u16,
}

#[test]
#[cfg_attr(not(feature = "cron"), ignore = "needs the feature cron")]
fn the_pages_examples_say_what_the_page_says() {
    let environment: Vec<_> = block("sh").lines().map(|line| line.split_once('=').unwrap()).collect();
    let read = |environment: &[(&'static str, &'static str)]| {
        let mut env = environment.to_vec();
        env.push(("EXTERNAL_API_KEY", "k"));
        let sources = Given { toml: block("toml"), env, ..Given::default() }.load();
        assert_eq!(sources.errors(), []);
        assert!(sources.unknown_sections(["email_sender", "cleanup"]).is_empty());
        let resolve = |id| {
            let fields: fn() -> Option<&'static [&'static str]> = crate::config::fields::fields::<Settings>;
            sources.resolve(Target::new(id, descriptor(&[], Some(fields)), None), &[]).unwrap()
        };
        (resolve("email_sender"), resolve("cleanup"))
    };

    let (sender, cleanup) = read(&[]);
    assert_eq!(sender.options.schedule, Schedule::Interval(Duration::from_secs(60)));
    assert_eq!((sender.options.max_failures, sender.options.retry_delay), (5, Duration::from_millis(2500)));
    assert!(matches!(&cleanup.options.schedule, Schedule::Cron(cron) if cron.timezone == "Europe/Berlin"));
    let settings: Settings = sender.settings.get("email_sender").unwrap();
    assert_eq!((settings.batch_size, settings.recipients.len(), settings.smtp.port), (100, 1, 587));
    assert_eq!((settings.api_key.expose().as_str(), settings.smtp.host.as_str()), ("k", "smtp.example.org"));

    let (sender, _) = read(&environment);
    assert_eq!(sender.options.schedule, Schedule::Interval(Duration::from_secs(30)));
    assert_eq!(sender.options.max_failures, 10);
    let settings: Settings = sender.settings.get("email_sender").unwrap();
    assert_eq!((settings.batch_size, settings.recipients.len(), settings.smtp.port), (10, 2, 25));
}
