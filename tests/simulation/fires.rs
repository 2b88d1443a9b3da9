//! When cron schedules fire, by an independent model that checks every minute of the month.
//!
//! It follows what the contract says about DST: a fixed time that is skipped fires once, at the end of the skipped
//! hour; a fixed time that is repeated fires the first time; everything else follows the wall clock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Datelike, Offset, TimeDelta, TimeZone, Timelike, Utc, Weekday};
use chrono_tz::Tz;

use crate::trace::Ms;

/// A cron expression, and the same as a rule in code.
pub(crate) struct Cron {
    pub(crate) expression: &'static str,
    /// Its hours, minutes and seconds are numbers, without "every".
    fixed: bool,
    second: u64,
    /// Whether it fires in this minute of the wall clock.
    fires: fn(&Shown) -> bool,
}

/// The wall-clock time, as if it were UTC.
type Shown = DateTime<Utc>;

const fn cron(expression: &'static str, fixed: bool, second: u64, fires: fn(&Shown) -> bool) -> Cron {
    Cron { expression, fixed, second, fires }
}

/// The expressions of the simulation, with times that DST skips or repeats in each of the zones.
pub(crate) const CRONS: [Cron; 15] = [
    cron("0 * * * *", false, 0, |at| at.minute() == 0),
    cron("*/30 * * * *", false, 0, |at| at.minute() % 30 == 0),
    cron("5-50/15 9-17 * * MON-FRI", false, 0, |at| {
        let weekend = matches!(at.weekday(), Weekday::Sat | Weekday::Sun);
        !weekend && (9..18).contains(&at.hour()) && [5, 20, 35, 50].contains(&at.minute())
    }),
    cron("20 10 */2 * * *", false, 20, |at| at.hour() % 2 == 0 && at.minute() == 10),
    cron("45 * * * SUN,MON", false, 0, |at| matches!(at.weekday(), Weekday::Sun | Weekday::Mon) && at.minute() == 45),
    cron("0 3 * * *", true, 0, |at| (at.hour(), at.minute()) == (3, 0)),
    cron("30 2 * * *", true, 0, |at| (at.hour(), at.minute()) == (2, 30)),
    cron("15 2 * * *", true, 0, |at| (at.hour(), at.minute()) == (2, 15)),
    cron("0 2 * * *", true, 0, |at| (at.hour(), at.minute()) == (2, 0)),
    cron("30 1 * * *", true, 0, |at| (at.hour(), at.minute()) == (1, 30)),
    cron("7 45 1 * * *", true, 7, |at| (at.hour(), at.minute()) == (1, 45)),
    cron("15,45 2 * * *", true, 0, |at| at.hour() == 2 && [15, 45].contains(&at.minute())),
    cron("30 1,13 * * *", true, 0, |at| [1, 13].contains(&at.hour()) && at.minute() == 30),
    cron("0,30 1-3 * * *", true, 0, |at| (1..4).contains(&at.hour()) && at.minute() % 30 == 0),
    cron("30 2 * * SUN", true, 0, |at| at.weekday() == Weekday::Sun && (at.hour(), at.minute()) == (2, 30)),
];

pub(crate) const ZONES: [Tz; 4] = [
    chrono_tz::UTC,
    chrono_tz::Europe::Berlin,
    chrono_tz::America::New_York,
    // DST of half an hour.
    chrono_tz::Australia::Lord_Howe,
];

/// Times in one simulation, in order.
#[derive(Clone, Default)]
pub(crate) struct Fires(Arc<[Ms]>);

impl Fires {
    /// Returns the first fire after this moment.
    pub(crate) fn after(&self, moment: Ms) -> Ms {
        self.0[self.0.partition_point(|fire| *fire <= moment)]
    }
}

impl fmt::Debug for Fires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of them", self.0.len())
    }
}

/// Returns all fires from `start` (seconds since 1970) on, in milliseconds after it. The result is cached, because many
/// months have the same start.
pub(crate) fn all(cron: usize, zone: Tz, start: i64, days: u64) -> Fires {
    type Known = BTreeMap<(usize, &'static str, i64, u64), Fires>;
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let key = (cron, zone.name(), start, days);
    if let Some(known) = KNOWN.lock().expect("nothing panics here").get(&key) {
        return known.clone();
    }
    let found = Fires(find(&CRONS[cron], zone, start, days).into());
    KNOWN.lock().expect("nothing panics here").insert(key, found.clone());
    found
}

fn find(cron: &Cron, zone: Tz, start: i64, days: u64) -> Vec<Ms> {
    const MINUTE: TimeDelta = TimeDelta::minutes(1);
    let start = DateTime::<Utc>::from_timestamp(start, 0).expect("it is within our time");
    let mut fires = Vec::new();
    let (mut offset, mut latest) = (TimeDelta::zero(), None);
    for minute in 0..days * 24 * 60 {
        let at = start + TimeDelta::minutes(i64::try_from(minute).expect("a few days"));
        if minute == 0 || at.minute().is_multiple_of(15) {
            // DST changes at quarters of an hour.
            offset = TimeDelta::seconds(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc().into());
        }
        let shown = at + offset;
        let begins = minute * 60_000;
        let before = latest.unwrap_or(shown - MINUTE);
        if !cron.fixed {
            if (cron.fires)(&shown) {
                fires.push(begins + cron.second * 1000);
            }
        } else if shown > before {
            // First the times that were skipped.
            let mut missed = std::iter::successors(Some(before + MINUTE), |at| Some(*at + MINUTE));
            if missed.by_ref().take_while(|at| *at < shown).any(|at| (cron.fires)(&at)) {
                fires.push(begins);
            } else if (cron.fires)(&shown) {
                fires.push(begins + cron.second * 1000);
            }
        }
        latest = Some(before.max(shown));
    }
    fires
}

#[test]
fn the_model_of_cron_follows_both_changes_of_dst() {
    let fires = |cron: &str, zone, from: &str| -> Vec<String> {
        let start = humantime::parse_rfc3339(from).expect("a time").duration_since(std::time::UNIX_EPOCH);
        let start = i64::try_from(start.expect("after 1970").as_secs()).expect("near");
        let cron = CRONS.iter().position(|known| known.expression == cron).expect("it is known");
        let shown = |ms: &Ms| DateTime::<Utc>::from_timestamp(start + (*ms / 1000) as i64, 0).expect("near");
        all(cron, zone, start, 2).0.iter().map(|ms| shown(ms).format("%d %H:%M:%S").to_string()).collect()
    };
    use chrono_tz::{America::New_York, Australia::Lord_Howe, Europe::Berlin};
    assert_eq!(fires("30 2 * * *", Berlin, "2026-03-28T12:00:00Z"), ["29 01:00:00", "30 00:30:00"]);
    assert_eq!(fires("30 2 * * *", Berlin, "2026-10-24T12:00:00Z"), ["25 00:30:00", "26 01:30:00"]);
    assert_eq!(fires("7 45 1 * * *", New_York, "2026-10-31T12:00:00Z"), ["01 05:45:07", "02 06:45:07"]);
    assert_eq!(fires("15 2 * * *", Lord_Howe, "2026-10-03T00:00:00Z"), ["03 15:30:00", "04 15:15:00"]);
    assert_eq!(fires("7 45 1 * * *", Lord_Howe, "2026-04-04T00:00:00Z"), ["04 14:45:07", "05 15:15:07"]);
    assert_eq!(
        fires("*/30 * * * *", Berlin, "2026-10-25T00:00:00Z").len(),
        96,
        "every half hour stays every half hour"
    );
}
