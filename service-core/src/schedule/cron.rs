//! Cron schedules: whether they are valid, and when they fire.
//!
//! The tricky part is DST.
//! - In spring, fixed times in the hour that is skipped fire once, at its end.
//! - In autumn, fixed times in the hour that repeats fire once, the first time.
//! - Schedules with "every" (`*`, `*/15`) fire at every time that the wall clock shows.

#[cfg(feature = "cron")]
mod grammar;
mod timer;

use std::fmt;
use std::time::SystemTime;

use crate::schedule::CronSchedule;

/// A mistake in a cron schedule.
#[derive(Debug)]
#[allow(dead_code, reason = "NoFeature exists without the feature only, the others with it only")]
pub(crate) enum Mistake {
    /// The program was built without the feature `cron`.
    NoFeature,
    /// The expression is invalid: the parser's message.
    Expression(String),
    /// The expression never fires.
    Never,
    /// The time zone is unknown: the nearest known one.
    Zone(Option<&'static str>),
}

impl Mistake {
    /// Returns the key of the schedule that is wrong.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Zone(_) => "timezone",
            _ => "cron",
        }
    }

    pub(crate) fn expected(&self) -> &'static str {
        match self {
            Self::NoFeature | Self::Expression(_) => "a cron expression such as \"0 3 * * *\"",
            Self::Never => "a cron expression that fires at some time",
            Self::Zone(_) => "a time zone such as \"Europe/Berlin\"",
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected())?;
        match self {
            Self::Expression(why) => write!(f, " ({why})"),
            Self::Never => f.write_str("; this one never does"),
            Self::Zone(Some(near)) => write!(f, "; did you mean \"{near}\"?"),
            Self::NoFeature | Self::Zone(None) => Ok(()),
        }
    }
}

/// Whether cron schedules work in this program.
pub(crate) const IS_ENABLED: bool = cfg!(feature = "cron");

#[cfg(not(feature = "cron"))]
mod fires {
    use super::{CronSchedule, Mistake, SystemTime};

    pub(crate) fn check(_schedule: &CronSchedule) -> Result<(), Mistake> {
        Err(Mistake::NoFeature)
    }

    pub(crate) fn next(_schedule: &CronSchedule, _after: SystemTime) -> Option<SystemTime> {
        None
    }

    pub(crate) fn local_time(_at: SystemTime, _timezone: &str) -> Option<String> {
        None
    }

    pub(crate) fn missed(_: &CronSchedule, _: SystemTime, _: SystemTime, _: usize) -> Vec<SystemTime> {
        Vec::new()
    }
}

#[cfg(feature = "cron")]
mod fires {
    use chrono::TimeDelta;
    use chrono::{DateTime, SecondsFormat, TimeZone, Utc};
    use chrono_tz::Tz;
    use croner::Cron;
    use croner::errors::CronError;
    use croner::parser::{CronParser, Year};

    use super::grammar::{misread, names};
    use super::{CronSchedule, Mistake, SystemTime};

    /// Checks that the expression and the time zone are valid, and that the schedule fires at some time.
    pub(crate) fn check(schedule: &CronSchedule) -> Result<(), Mistake> {
        let (cron, zone) = parse(schedule)?;
        if let Some(why) = misread(&schedule.expression) {
            return Err(Mistake::Expression(why));
        }
        // There is no year field, and the calendar repeats after 400 years: a schedule that fires at all fires again.
        match cron.find_next_occurrence(&DateTime::UNIX_EPOCH.with_timezone(&zone), true) {
            Ok(_) => Ok(()),
            Err(_) => Err(Mistake::Never),
        }
    }

    /// Returns the first fire after `after`, or `None` if there is none.
    pub(crate) fn next(schedule: &CronSchedule, after: SystemTime) -> Option<SystemTime> {
        let (cron, zone) = parse(schedule).ok()?;
        // Whole seconds are enough: fires are at whole seconds, and `after` itself does not count.
        let seconds = after.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let after = DateTime::<Utc>::from_timestamp(i64::try_from(seconds).ok()?, 0)?.with_timezone(&zone);
        if !has_fixed_times(&schedule.expression) {
            return cron.find_next_occurrence(&after, false).ok().map(SystemTime::from);
        }
        let first = cron.find_next_occurrence(&after.naive_local().and_utc(), true).ok();
        let mut shown = std::iter::successors(first, |shown| cron.find_next_occurrence(shown, false).ok());
        shown.find_map(|shown| resolve(zone, shown).filter(|fire| *fire > after)).map(SystemTime::from)
    }

    /// Formats a time in this time zone. `None` if the zone is unknown or UTC.
    pub(crate) fn local_time(at: SystemTime, timezone: &str) -> Option<String> {
        let zone: Tz = timezone.parse().ok().filter(|zone| *zone != Tz::UTC)?;
        Some(DateTime::<Utc>::from(at).with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, true))
    }

    /// Whether the expression has fixed times. The library treats several of them like "every hour": it skips those in
    /// an hour that DST skips, and repeats those in an hour that DST repeats. A single one is lost if the skipped hour
    /// ends on a day on which the schedule does not fire.
    fn has_fixed_times(expression: &str) -> bool {
        let fields: Vec<&str> = expression.split_whitespace().collect();
        let is_fixed = |field: &&str| !field.contains(['*', '?', '/']);
        // The fields before the three of the date.
        let times = fields.len().checked_sub(3).and_then(|times| fields.get(..times)).unwrap_or_default();
        times.len() >= 2 && times.iter().all(is_fixed)
    }

    /// Returns the moment at which the wall clock shows this time: the first of two, or, where DST skips the time, the
    /// moment at which the clock continues.
    fn resolve(zone: Tz, shown: DateTime<Utc>) -> Option<DateTime<Tz>> {
        const TWO_DAYS: i64 = 2 * 24 * 60;
        let shown = shown.naive_utc();
        let at = zone.from_local_datetime(&shown).earliest();
        at.or_else(|| {
            let minute = shown.and_utc().timestamp().div_euclid(60);
            let ahead =
                (minute + 1..minute + TWO_DAYS).filter_map(|minute| DateTime::<Utc>::from_timestamp(minute * 60, 0));
            ahead.into_iter().find_map(|at| zone.from_local_datetime(&at.naive_utc()).earliest())
        })
    }

    /// Returns the fires after `since`, up to `until`: the latest `most` of them, oldest first.
    pub(crate) fn missed(
        schedule: &CronSchedule,
        since: SystemTime,
        until: SystemTime,
        most: usize,
    ) -> Vec<SystemTime> {
        let Ok((cron, zone)) = parse(schedule) else { return Vec::new() };
        // Backwards, so that years of missed fires cost no more than `most`.
        let until = DateTime::<Utc>::from(until).with_timezone(&zone);
        let since = DateTime::<Utc>::from(since).with_timezone(&zone);
        let mut missed: Vec<_> = if has_fixed_times(&schedule.expression) {
            // Starts after an hour that may repeat. Times that DST skips resolve to the same moment, which counts once.
            let shown = (until.naive_local() + TimeDelta::hours(3)).and_utc();
            let first = cron.find_previous_occurrence(&shown, true).ok();
            let before = std::iter::successors(first, |shown| cron.find_previous_occurrence(shown, false).ok());
            let mut last = None;
            let fires = before.filter_map(|shown| resolve(zone, shown)).filter(|fire| *fire <= until);
            let fires = fires.filter(|fire| last.replace(*fire) != Some(*fire));
            fires.take_while(|fire| *fire > since).take(most).map(SystemTime::from).collect()
        } else {
            let first = cron.find_previous_occurrence(&until, true).ok();
            let before = std::iter::successors(first, |fire| cron.find_previous_occurrence(fire, false).ok());
            before.take_while(|fire| *fire > since).take(most).map(SystemTime::from).collect()
        };
        missed.reverse();
        missed
    }

    fn parse(schedule: &CronSchedule) -> Result<(Cron, Tz), Mistake> {
        // Five fields, or six with seconds first.
        let parser = CronParser::builder().year(Year::Disallowed).build();
        let cron = parser.parse(&schedule.expression).map_err(|error| {
            Mistake::Expression(wrong_field(&parser, &schedule.expression).unwrap_or_else(|| plain(error)))
        })?;
        let zone = schedule.timezone.parse().map_err(|_| {
            let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            Mistake::Zone(crate::suggest::nearest(&schedule.timezone, known))
        })?;
        Ok((cron, zone))
    }

    /// Returns the field that is wrong by itself, with the parser's message, which does not name the field.
    fn wrong_field(parser: &CronParser, expression: &str) -> Option<String> {
        let parts: Vec<&str> = expression.split_whitespace().collect();
        parts.iter().zip(names(parts.len())?).enumerate().find_map(|(place, (part, name))| {
            let mut alone = vec!["*"; parts.len()];
            alone[place] = part;
            let error = parser.parse(&alone.join(" ")).err()?;
            Some(format!("{name} field `{part}`: {}", plain(error)))
        })
    }

    fn plain(error: CronError) -> String {
        let text = match error {
            CronError::InvalidPattern(why) | CronError::IllegalCharacters(why) | CronError::ComponentError(why) => why,
            other => other.to_string(),
        };
        text.trim_end_matches('.').to_lowercase()
    }
}

pub(crate) use fires::{check, local_time, missed, next};
pub(crate) use timer::{CronTimer, MOST_MISSED, PlannedFire, Unrecorded};

#[cfg(test)]
mod tests;
