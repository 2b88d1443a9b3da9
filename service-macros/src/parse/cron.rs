//! Checks a cron expression field by field, so that a mistake is a compile error and not one at start.
//!
//! An expression has five fields (minute, hour, day of month, month, day of week), or six with seconds first. The check
//! accepts what the runtime's parser accepts: lists, ranges, steps on `*` or a range, names, `L`, `W`, `#`, `?`, and
//! nicknames such as `@daily`.

use crate::parse::dates::{Dates, Item, Joined, Nth};
use crate::spelling::nearest;

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// The number of the first of `names`.
    first: u32,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const NICKNAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];

const DAY_OF_MONTH: &str = "day of month";
const DAY_OF_WEEK: &str = "day of week";

const FIELDS: [Field; 6] = [
    Field { name: "second", min: 0, max: 59, names: &[], first: 0 },
    Field { name: "minute", min: 0, max: 59, names: &[], first: 0 },
    Field { name: "hour", min: 0, max: 23, names: &[], first: 0 },
    Field { name: DAY_OF_MONTH, min: 1, max: 31, names: &[], first: 0 },
    Field { name: "month", min: 1, max: 12, names: &MONTHS, first: 1 },
    Field { name: DAY_OF_WEEK, min: 0, max: 7, names: &DAYS, first: 0 },
];

/// Checks an expression. The error is the rest of a sentence that begins with the key's name.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let text = text.trim();
    if text.starts_with('@') {
        return match NICKNAMES.iter().find(|known| known.eq_ignore_ascii_case(text)) {
            Some(_) => Ok(()),
            None => Err(format!("is not one of {}", NICKNAMES.join(", "))),
        };
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    let fields = match parts.len() {
        0 => {
            return Err(
                "is empty: write minute, hour, day of month, month and day of week, for example \"30 2 * * *\""
                    .to_owned(),
            );
        }
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        n => {
            return Err(format!(
                "has {n} field{}: write 5 (minute, hour, day of month, month, day of week), or 6 with seconds first",
                if n == 1 { "" } else { "s" }
            ));
        }
    };
    let mut items = Vec::new();
    for (part, field) in parts.iter().zip(fields) {
        let wrong = |problem| format!("has a wrong {} field, `{part}`: {problem}", field.name);
        items.push(field.read(part).map_err(wrong)?);
    }
    check_dates(&parts, &items)
}

/// Refuses dates that do not exist, such as the 30th of February.
fn check_dates(parts: &[&str], items: &[Vec<Item>]) -> Result<(), String> {
    let ([.., day, month, weekday], [.., days, months, weekdays]) = (parts, items) else { return Ok(()) };
    let is_any = |part: &str| matches!(part, "*" | "?");
    let joined = match weekday.strip_prefix('+') {
        plus if is_any(plus.unwrap_or(weekday)) => Joined::OnlyDay,
        _ if is_any(day) => Joined::OnlyWeekday,
        Some(_) => Joined::Both,
        None => Joined::Either,
    };
    if (Dates { days, months, weekdays, joined }).exist() {
        return Ok(());
    }
    Err(match joined {
        Joined::Both => format!("never matches: no day `{day}` of month `{month}` is a day of week `{weekday}`"),
        _ => format!("never matches: no month in `{month}` has a day {day}"),
    })
}

impl Field {
    fn read(&self, part: &str) -> Result<Vec<Item>, String> {
        // `+FRI`: the day of the month has to match, too.
        let part = if self.name == DAY_OF_WEEK { part.strip_prefix('+').unwrap_or(part) } else { part };
        if self.is_any(part) {
            return Ok(vec![self.all(1)]);
        }
        let items: Vec<Item> = part.split(',').map(|item| self.item(item)).collect::<Result<_, _>>()?;
        let has = |wanted: fn(&Item) -> bool| items.iter().any(wanted);
        if has(|item| matches!(item, Item::LastDay)) && has(|item| matches!(item, Item::LastWorkday)) {
            // With both, the runtime's parser ignores `L`.
            return Err("`L` and `LW` cannot be used together: keep one of them".to_owned());
        }
        Ok(items)
    }

    fn all(&self, step: u32) -> Item {
        Item::Range { from: self.min, to: self.max, step, nth: Nth::Every }
    }

    fn item(&self, item: &str) -> Result<Item, String> {
        if item.is_empty() {
            return Err("an item between commas is empty".to_owned());
        }
        if self.is_any(item) {
            return Err(format!("`{item}` stands alone in its field: remove the other items"));
        }
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, self.step(range, step)?),
            None => (item, 1),
        };
        if range == "*" {
            return Ok(self.all(step));
        }
        if let Some(special) = self.special(range)? {
            return Ok(special);
        }
        let (range, nth) = match range.split_once('#') {
            Some((range, nth)) if self.name == DAY_OF_WEEK => (range, Self::nth(nth)?),
            _ => (range, Nth::Every),
        };
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => {
                // As the end of a range, Sunday is the last day.
                let last = self.name == DAY_OF_WEEK && to.eq_ignore_ascii_case("SUN");
                (self.number(from)?, if last { self.max } else { self.number(to)? })
            }
            None => {
                let number = self.number(range)?;
                (number, number)
            }
        };
        if from > to {
            return Err(format!(
                "the range ends before it starts; write two ranges, `{from}-{},{}-{to}`",
                self.max, self.min
            ));
        }
        Ok(Item::Range { from, to, step, nth })
    }

    fn nth(text: &str) -> Result<Nth, String> {
        match text.as_bytes() {
            [digit @ b'1'..=b'5'] => Ok(Nth::Number(u32::from(digit - b'0'))),
            b"L" | b"l" => Ok(Nth::Last),
            _ => Err(format!("`#{text}` is not one of `#1` to `#5` and `#L`")),
        }
    }

    fn step(&self, range: &str, step: &str) -> Result<u32, String> {
        if !(range == "*" || range.contains('-')) {
            return Err(format!("a step needs a range; write `*/{step}` or `{range}-{}/{step}`", self.max));
        }
        if range.contains('#') {
            return Err("`#` and a step cannot be used together: list the days".to_owned());
        }
        match step.parse::<u32>() {
            Ok(0) => Err("the smallest step is 1".to_owned()),
            Ok(step) if step > self.max => Err(format!("the largest step is {}", self.max)),
            Ok(number) if step.starts_with(|c: char| c.is_ascii_digit()) => Ok(number),
            _ => Err(format!("the step `{step}` is not a number")),
        }
    }

    /// `L`, `LW` and `15W` for days of the month, `5L` for days of the week.
    fn special(&self, item: &str) -> Result<Option<Item>, String> {
        let upper = item.to_ascii_uppercase();
        if self.name == DAY_OF_MONTH {
            return match upper.strip_suffix('W') {
                Some("L") => Ok(Some(Item::LastWorkday)),
                Some(day) => self.number(day).map(|day| Some(Item::NearestWorkday(day))),
                None => Ok((upper == "L").then_some(Item::LastDay)),
            };
        }
        if self.name == DAY_OF_WEEK
            && let Some(day) = upper.strip_suffix('L')
            && !day.ends_with('#')
        {
            return match day {
                "" => Err("`L` needs a weekday before it, for example `FRIL`".to_owned()),
                day => {
                    let day = self.number(day)?;
                    Ok(Some(Item::Range { from: day, to: day, step: 1, nth: Nth::Last }))
                }
            };
        }
        Ok(None)
    }

    fn is_any(&self, part: &str) -> bool {
        part == "*" || (part == "?" && self.is_day())
    }

    fn is_day(&self) -> bool {
        self.name == DAY_OF_MONTH || self.name == DAY_OF_WEEK
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        if let Some(at) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(self.first + u32::try_from(at).unwrap_or(0));
        }
        if text.is_empty() {
            return Err("a number is missing beside `-`".to_owned());
        }
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(match self.names {
                [] => format!("`{text}` is not a number"),
                names => format!("`{text}` is neither a number nor one of {}", names.join(", ")),
            });
        }
        match text.parse::<u32>() {
            Ok(number) if (self.min..=self.max).contains(&number) => Ok(number),
            _ => Err(format!("{text} is not between {} and {}", self.min, self.max)),
        }
    }
}

/// The names of the IANA time zones that the runtime knows, a line each.
const ZONES: &str = include_str!("zones.txt");

/// Checks the name of an IANA time zone. Of the names without an area, only `UTC` and `GMT` are accepted: others, such as
/// `CET`, are old.
pub(crate) fn check_zone(text: &str) -> Result<(), String> {
    let wanted = "write the full name, for example \"Europe/Vienna\", or \"UTC\"";
    if text.is_empty() {
        return Err(format!("is empty: {wanted}"));
    }
    if matches!(text, "UTC" | "GMT") {
        return Ok(());
    }
    let part_ok = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_uppercase())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))
    };
    let parts: Vec<&str> = text.split('/').collect();
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(|part| part_ok(part)) {
        return Err(format!("is not of the form `Area/City`: {wanted}"));
    }
    if ZONES.lines().any(|zone| zone == text) {
        return Ok(());
    }
    Err(match nearest(text, ZONES.lines()) {
        Some(near) => format!("is not a known time zone, did you mean `{near}`?"),
        None => format!("is not a known time zone: {wanted}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_EXPECT=1` writes the list.
    #[test]
    fn the_time_zones_are_those_of_the_runtime() {
        let known: Vec<&str> = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
        expect_test::expect_file!["./zones.txt"].assert_eq(&known.join("\n"));
    }

    #[test]
    fn good_expressions_pass() {
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
            "0 0 31 */2 *",
            "0 0 31 2 MON",
            "0 0 30,1 2 *",
            "0 0 29W 2 *",
            "0 0 1,L 2 *",
            "0 0 29 2 +FRI#5",
            "0 0 31 1-4 +MON",
            "0 0 LW * +FRI",
            "0 0 ? * SAT-SUN",
            "0 0 * * */2",
            "@daily",
            "  0 0 * * 7  ",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn bad_expressions_are_explained() {
        for (bad, word) in [
            ("", "is empty"),
            ("* * * *", "has 4 fields"),
            ("1 2 3 4 5 6 7", "has 7 fields"),
            ("60 * * * *", "has a wrong minute field, `60`: 60 is not between 0 and 59"),
            ("* 24 * * *", "hour field, `24`"),
            ("* * 0 * *", "between 1 and 31"),
            ("* * * 13 *", "between 1 and 12"),
            ("* * * * 8", "between 0 and 7"),
            ("* * * * FRY", "neither a number nor one of SUN"),
            ("*/0 * * * *", "the smallest step is 1"),
            ("*/90 * * * *", "the largest step is 59"),
            ("5/10 * * * *", "`*/10`"),
            ("30-10 * * * *", "`30-59,0-10`"),
            ("1,,2 * * * *", "between commas is empty"),
            ("* * * * MON#6", "`#1` to `#5`"),
            ("* * * * L", "for example `FRIL`"),
            ("0 0 L,LW * *", "day of month field, `L,LW`: `L` and `LW` cannot be used together"),
            ("0 0 0 lw,1,l * *", "`L` and `LW` cannot be used together"),
            ("0 0 30 2 *", "never matches"),
            ("0 0 31 4,6 *", "never matches: no month in `4,6` has a day 31"),
            ("0 0 30-31 2 *", "never matches: no month in `2` has a day 30-31"),
            ("0 0 30,31 FEB ?", "never matches"),
            ("0 0 31 4-4 *", "never matches"),
            ("0 0 31 2-12/9 *", "never matches"),
            ("0 0 31W 2 *", "never matches"),
            ("0 0 30W 2 +*", "never matches"),
            ("0 0 0 31 2 +MON", "never matches: no day `31` of month `2` is a day of week `+MON`"),
            ("0 0 31 4,6 +1", "never matches"),
            ("0 0 LW * +SAT,7", "never matches"),
            ("0 0 1-7 * +MON#2", "never matches"),
            ("0 0 1-20 * +MONL", "never matches"),
            ("0 0 29 2 +FRI#4", "never matches"),
            ("*,5 * * * *", "`*` stands alone"),
            ("? * * * *", "`?` is not a number"),
            ("0 0 ?,5 * *", "`?` stands alone"),
            ("0 0 * * 1-5#2/2", "`#` and a step"),
            ("0 0 * * 5-0", "`5-7,0-0`"),
            ("*/+5 * * * *", "the step `+5` is not a number"),
            ("@dayly", "is not one of"),
            ("a * * * *", "`a` is not a number"),
            ("-5 * * * *", "a number is missing"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn time_zones_are_known_by_their_full_names() {
        for good in ["UTC", "Europe/Vienna", "America/Argentina/Buenos_Aires", "Etc/GMT+5"] {
            assert_eq!(check_zone(good), Ok(()), "{good}");
        }
        for bad in ["", "CET", "Europe", "europe/vienna", "Europe/", "+02:00", "Europe Vienna"] {
            assert!(check_zone(bad).is_err(), "{bad}");
        }
        assert_eq!(
            check_zone("Europe/Viena"),
            Err("is not a known time zone, did you mean `Europe/Vienna`?".to_owned())
        );
        assert!(check_zone("Middle/Earth").unwrap_err().starts_with("is not a known time zone: write the full name"));
        // These are in the IANA list.
        for old in ["CET", "EST5EDT", "Japan"] {
            assert!(check_zone(old).unwrap_err().starts_with("is not of the form `Area/City`"), "{old}");
        }
    }
}
