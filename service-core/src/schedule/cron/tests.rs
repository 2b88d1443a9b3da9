use super::*;
use crate::schedule::CatchUp;

pub(super) fn schedule(expression: &str, timezone: &str) -> CronSchedule {
    CronSchedule { expression: expression.to_owned(), timezone: timezone.to_owned(), catch_up: CatchUp::None }
}

#[cfg(feature = "cron")]
pub(super) fn at(text: &str) -> SystemTime {
    humantime::parse_rfc3339_weak(text).unwrap()
}

#[cfg(not(feature = "cron"))]
#[test]
fn without_the_feature_every_schedule_is_an_error_that_names_it() {
    assert!(matches!(check(&schedule("0 3 * * *", "UTC")), Err(Mistake::NoFeature)));
}

#[cfg(feature = "cron")]
mod with_the_feature {
    use std::time::Duration;

    use super::*;

    fn shown(at: SystemTime) -> String {
        humantime::format_rfc3339_seconds(at).to_string().replace('T', " ").replace(":00Z", "")
    }

    fn fires(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = schedule(expression, zone);
        check(&schedule).unwrap();
        let fires = std::iter::successors(next(&schedule, at(after)), |fire| next(&schedule, *fire));
        fires.take(count).map(shown).collect()
    }

    #[test]
    fn fires_are_right_across_dst() {
        // (what, expression, zone, after, fires); all in UTC
        let table: &[(&str, &str, &str, &str, &[&str])] = &[
            // Berlin: 2026-03-29, 02:00 becomes 03:00 (01:00 UTC); 2026-10-25, 03:00 becomes 02:00 (01:00 UTC).
            (
                "a daily time that DST skips fires at the end of the skipped hour",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-03-27 12:00:00",
                &["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"],
            ),
            (
                "a daily time that DST repeats fires once, the first time",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-24 12:00:00",
                &["2026-10-25 00:30", "2026-10-26 01:30"],
            ),
            (
                "every half hour stays every half hour when DST begins",
                "*/30 * * * *",
                "Europe/Berlin",
                "2026-03-29 00:15:00",
                &["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30", "2026-03-29 02:00"],
            ),
            (
                "every half hour stays every half hour when DST ends",
                "*/30 * * * *",
                "Europe/Berlin",
                "2026-10-25 00:15:00",
                &["2026-10-25 00:30", "2026-10-25 01:00", "2026-10-25 01:30", "2026-10-25 02:00"],
            ),
            (
                "noon stays noon",
                "0 12 * * *",
                "Europe/Berlin",
                "2026-03-28 00:00:00",
                &["2026-03-28 11:00", "2026-03-29 10:00"],
            ),
            // New York: 2026-03-08, 02:00 becomes 03:00 (07:00 UTC); 2026-11-01, 02:00 becomes 01:00 (06:00 UTC).
            (
                "New York in spring",
                "30 2 * * *",
                "America/New_York",
                "2026-03-07 12:00:00",
                &["2026-03-08 07:00", "2026-03-09 06:30"],
            ),
            (
                "New York in autumn",
                "30 1 * * *",
                "America/New_York",
                "2026-10-31 12:00:00",
                &["2026-11-01 05:30", "2026-11-02 06:30"],
            ),
            (
                "New York, every half hour in autumn",
                "*/30 * * * *",
                "America/New_York",
                "2026-11-01 04:45:00",
                &["2026-11-01 05:00", "2026-11-01 05:30", "2026-11-01 06:00", "2026-11-01 06:30", "2026-11-01 07:00"],
            ),
            // Lord Howe shifts by half an hour: 2026-10-04, 02:00 becomes 02:30 (15:30 UTC the day before);
            // 2026-04-05, 02:00 becomes 01:30 (15:00 UTC the day before).
            (
                "Lord Howe in spring",
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-02 00:00:00",
                &["2026-10-02 15:45", "2026-10-03 15:30", "2026-10-04 15:15"],
            ),
            (
                "Lord Howe in autumn",
                "45 1 * * *",
                "Australia/Lord_Howe",
                "2026-04-03 00:00:00",
                &["2026-04-03 14:45", "2026-04-04 14:45", "2026-04-05 15:15"],
            ),
            (
                "Lord Howe, every quarter in autumn",
                "*/15 * * * *",
                "Australia/Lord_Howe",
                "2026-04-04 14:40:00",
                &["2026-04-04 14:45", "2026-04-04 15:00", "2026-04-04 15:15", "2026-04-04 15:30"],
            ),
            // Nuuk: 2026-03-28, 23:00 becomes 00:00 of Sunday (01:00 UTC).
            (
                "a time of one weekday that DST skips until midnight fires at midnight",
                "30 23 * * SAT",
                "America/Nuuk",
                "2026-03-22 12:00:00",
                &["2026-03-29 01:00", "2026-04-05 00:30"],
            ),
            (
                "a time of one date that DST skips until midnight fires at midnight",
                "30 23 28 3 *",
                "America/Nuuk",
                "2026-01-01 00:00:00",
                &["2026-03-29 01:00", "2027-03-29 00:30"],
            ),
            // Several times a day are fixed times as well.
            (
                "two times that DST skips fire once, at the end of the skipped hour",
                "15,45 2 * * *",
                "Europe/Berlin",
                "2026-03-28 12:00:00",
                &["2026-03-29 01:00", "2026-03-30 00:15", "2026-03-30 00:45"],
            ),
            (
                "of two times, the one that DST repeats fires once",
                "30 1,13 * * *",
                "America/New_York",
                "2026-10-31 20:00:00",
                &["2026-11-01 05:30", "2026-11-01 18:30", "2026-11-02 06:30"],
            ),
            (
                "every half hour of some hours is a list of fixed times, which fire once each",
                "0,30 1-3 * * *",
                "America/New_York",
                "2026-11-01 04:00:00",
                &["2026-11-01 05:00", "2026-11-01 05:30", "2026-11-01 07:00", "2026-11-01 07:30", "2026-11-01 08:00"],
            ),
        ];
        for (what, expression, zone, after, expected) in table {
            assert_eq!(fires(expression, zone, after, expected.len()), *expected, "{what}");
        }
    }

    #[test]
    fn a_fire_is_after_the_given_time_and_at_a_whole_second() {
        let hourly = schedule("0 * * * *", "UTC");
        let nine = at("2026-01-01 09:00:00");
        assert_eq!(next(&hourly, nine), Some(at("2026-01-01 10:00:00")));
        for before in [1, 500_000_000, 999_999_999] {
            assert_eq!(next(&hourly, nine - Duration::from_nanos(before)), Some(nine), "{before} ns before");
        }
        assert_eq!(
            fires("*/20 * * * * *", "UTC", "2026-01-01 00:00:05", 2),
            ["2026-01-01 00:00:20Z", "2026-01-01 00:00:40Z"]
        );
        assert_eq!(fires("0 0 29 2 *", "UTC", "2096-03-01 00:00:00", 1), ["2104-02-29 00:00"]);
        assert_eq!(next(&hourly, SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    #[cfg(feature = "database")]
    #[test]
    fn the_missed_fires_are_those_that_would_have_fired() {
        for (expression, zone, since, until) in [
            ("15,45 2 * * *", "Europe/Berlin", "2026-03-27 12:00:00", "2026-03-31 00:00:00"),
            ("30 1,13 * * *", "America/New_York", "2026-10-30 12:00:00", "2026-11-03 00:00:00"),
            ("30 1,13 * * *", "America/New_York", "2026-10-30 12:00:00", "2026-11-01 06:10:00"),
            ("*/30 * * * *", "Australia/Lord_Howe", "2026-04-04 00:00:00", "2026-04-05 00:00:00"),
            ("30 2 * * *", "Europe/Berlin", "2026-03-27 12:00:00", "2026-03-31 00:00:00"),
            ("30 23 * * SAT", "America/Nuuk", "2026-03-20 12:00:00", "2026-04-13 00:00:00"),
        ] {
            let (schedule, since, until) = (schedule(expression, zone), at(since), at(until));
            let fires = std::iter::successors(next(&schedule, since), |fire| next(&schedule, *fire));
            let fires: Vec<_> = fires.take_while(|fire| *fire <= until).collect();
            assert!(fires.len() > 2, "{expression}");
            assert_eq!(missed(&schedule, since, until, 1000), fires, "{expression}");
            assert_eq!(missed(&schedule, since, until, 2), fires[fires.len() - 2..], "{expression}");
        }
    }

    /// Many periods around each DST change of a year.
    #[cfg(feature = "database")]
    #[test]
    fn the_missed_fires_are_those_that_would_have_fired_around_every_dst_change() {
        const HOUR: u64 = 3600;
        let expressions = [
            "30 2 * * *",
            "0 3 * * *",
            "15,45 2 * * *",
            "30 1,13 * * *",
            "*/30 * * * *",
            "*/7 1-3 * * *",
            "30 2 * * 7",
            "30 23 * * SAT",
            "30 23 28 3 *",
            "*/40 * 2 * * *",
        ];
        let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/Nuuk"];
        let days = ["2026-02-14", "2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"];
        for (zone, expression) in zones.iter().flat_map(|zone| expressions.map(|expression| (zone, expression))) {
            let schedule = schedule(expression, zone);
            for day in days {
                let from = at(&format!("{day} 00:00:00"));
                let to = from + Duration::from_secs(3 * 24 * HOUR);
                let fires = std::iter::successors(next(&schedule, from), |fire| next(&schedule, *fire));
                let fires: Vec<_> = fires.take_while(|fire| *fire <= to).collect();
                for (since, hours) in (0..48).step_by(3).flat_map(|since| [(since, 2), (since, 24)]) {
                    let since = from + Duration::from_secs(since * HOUR + HOUR / 2);
                    let until = since + Duration::from_secs(hours * HOUR);
                    let between: Vec<_> = fires.iter().copied().filter(|at| *at > since && *at <= until).collect();
                    let what = format!("{expression} in {zone}, from {} to {}", shown(since), shown(until));
                    assert_eq!(missed(&schedule, since, until, 1000), between, "{what}");
                    assert_eq!(next(&schedule, since).filter(|at| *at <= until), between.first().copied(), "{what}");
                }
            }
        }
    }

    /// The runtime accepts every expression that the attribute accepts.
    #[test]
    fn valid_expressions_are_accepted() {
        for good in [
            "30 2 * * *",
            "*/15 * * * *",
            "0 0 9-17/2 * * MON-FRI",
            "0 0 1,15 * *",
            "0 0 L * *",
            "0 0 LW * *",
            "0 0 15W * *",
            "0 0 ? * FRI#2",
            "0 0 * * 5L",
            "0 0 * * fri#L",
            "0 0 * jan-mar sat-sun",
            "0 0 1 * +MON",
            "0 0 29 2 *",
            "0 0 31 1,2 *",
            "@daily",
            "@hourly",
            "@weekly",
            "@monthly",
            "@yearly",
            "@annually",
            "  0 0 * * 7  ",
        ] {
            assert!(check(&schedule(good, "UTC")).is_ok(), "{good}: {:?}", check(&schedule(good, "UTC")));
        }
    }

    /// The runtime refuses every expression that the attribute refuses.
    #[test]
    fn invalid_expressions_are_refused() {
        for bad in [
            "",
            "* * * *",
            "1 2 3 4 5 6 7",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "* * * * FRY",
            "*/0 * * * *",
            "*/90 * * * *",
            "5/10 * * * *",
            "30-10 * * * *",
            "1,,2 * * * *",
            "* * * * MON#6",
            "* * * * L",
            "0 0 L,LW * *",
            "0 0 0 lw,1,l * *",
            "0 0 30 2 *",
            "0 0 31 4,6 *",
            "0 0 30-31 2 *",
            "0 0 30,31 FEB ?",
            "0 0 31 4-4 *",
            "0 0 31 2-12/9 *",
            "0 0 31W 2 *",
            "0 0 30W 2 +*",
            "0 0 0 31 2 +MON",
            "0 0 31 4,6 +1",
            "0 0 LW * +SAT,7",
            "0 0 1-7 * +MON#2",
            "0 0 1-20 * +MONL",
            "0 0 29 2 +FRI#4",
            "*,5 * * * *",
            "? * * * *",
            "0 0 ?,5 * *",
            "0 0 * * 1-5#2/2",
            "0 0 * * 5-0",
            "*/+5 * * * *",
            "@dayly",
            "a * * * *",
            "-5 * * * *",
        ] {
            assert!(check(&schedule(bad, "UTC")).is_err(), "{bad}");
        }
    }

    /// The parser accepts these, and reads them otherwise than they are written.
    #[test]
    fn an_expression_that_would_be_misread_is_refused_with_the_text_of_the_attribute() {
        for (bad, expected) in [
            ("*/90 * * * *", "minute field `*/90`: the largest step is 59"),
            ("0 */36 * * *", "hour field `*/36`: the largest step is 23"),
            ("*/60 * * * * *", "second field `*/60`: the largest step is 59"),
            ("0 0 1-31/32 * *", "day of month field `1-31/32`: the largest step is 31"),
            ("0 0 * */13 *", "month field `*/13`: the largest step is 12"),
            ("0 0 * * */8", "day of week field `*/8`: the largest step is 7"),
            ("0 0 * * MON,L", "day of week field `MON,L`: `L` needs a weekday before it, for example `FRIL`"),
            ("0 0 1 * l", "day of week field `l`: `L` needs a weekday before it, for example `FRIL`"),
            ("0 3 , * MON", "day of month field `,`: an item between commas is empty"),
            ("0 3 * * MON,", "day of week field `MON,`: an item between commas is empty"),
            ("1,,2 * * * *", "minute field `1,,2`: an item between commas is empty"),
            ("0 0 * * */2#2", "day of week field `*/2#2`: the step `2#2` is not a number"),
            ("0 0 * * 1-5/2#2", "day of week field `1-5/2#2`: the step `2#2` is not a number"),
            ("0 0 * * */90#1", "day of week field `*/90#1`: the step `90#1` is not a number"),
            ("0 0 ?/2 * *", "day of month field `?/2`: a step needs a range; write `*/2`"),
            ("0 0 15W3 * *", "day of month field `15W3`: `15W3` is not a number"),
            ("MON * * * *", "minute field `MON`: `MON` is not a number"),
            ("0 0 FEB 3 *", "day of month field `FEB`: `FEB` is not a number"),
            ("0 0 * TUE *", "month field `TUE`: `TUE` is neither a number nor one of JAN, "),
            ("0 0 * * SUNMON", "day of week field `SUNMON`: `SUNMON` is neither a number nor one of SUN, "),
            ("0 0 * * 5LL", "day of week field `5LL`: `5L` is neither a number nor one of SUN, "),
            ("0 0 * * 5#02", "day of week field `5#02`: `#02` is not one of `#1` to `#5` and `#L`"),
        ] {
            let mistake = check(&schedule(bad, "UTC")).unwrap_err().to_string();
            assert!(mistake.contains(expected), "{bad}: {mistake}");
        }
    }

    #[test]
    fn an_invalid_schedule_is_an_error_that_says_what_is_wrong() {
        for (expression, zone, key, expected) in [
            (
                "61 * * * *",
                "UTC",
                "cron",
                "a cron expression such as \"0 3 * * *\" (minute field `61`: number out of bounds)",
            ),
            ("* * *", "UTC", "cron", "a cron expression such as \"0 3 * * *\" ("),
            ("0 0 3 * FOO *", "UTC", "cron", "(month field `FOO`: "),
            ("0 0 L,LW * *", "UTC", "cron", "(day of month field `L,LW`: `L` and `LW` cannot be used together"),
            ("0 0 0 1 1 * 2027", "UTC", "cron", "a cron expression such as \"0 3 * * *\" ("),
            ("daily at three", "UTC", "cron", "a cron expression such as \"0 3 * * *\" ("),
            ("0 0 30 2 *", "UTC", "cron", "a cron expression that fires at some time; this one never does"),
            ("0 0 31 4,6 *", "UTC", "cron", "a cron expression that fires at some time; this one never does"),
            ("0 3 * * *", "Europe/Berlni", "timezone", "such as \"Europe/Berlin\"; did you mean \"Europe/Berlin\"?"),
            ("0 3 * * *", "Mars/Olympus_Mons_Base", "timezone", "a time zone such as \"Europe/Berlin\""),
        ] {
            let mistake = check(&schedule(expression, zone)).unwrap_err();
            assert_eq!(mistake.key(), key, "{expression} {zone}");
            assert!(mistake.to_string().contains(expected), "{expression} {zone}: {mistake}");
        }
    }
}
