//! The three date fields of a cron expression, and whether they match any date.

/// Day of month, month and day of week.
pub(crate) struct Dates<'a> {
    pub(crate) days: &'a [Item],
    pub(crate) months: &'a [Item],
    pub(crate) weekdays: &'a [Item],
    pub(crate) joined: Joined,
}

/// How the day of the month and the day of the week are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// One of them is `*`: the other one decides.
    OnlyDay,
    OnlyWeekday,
    Either,
    /// The weekday begins with `+`.
    Both,
}

/// An item of a field's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// One number is a range, too.
    Range { from: u32, to: u32, step: u32, nth: Nth },
    /// `L`
    LastDay,
    /// `LW`
    LastWorkday,
    /// `15W`: the workday of the month that is nearest to this day.
    NearestWorkday(u32),
}

/// Which of the days in a month that have the same weekday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nth {
    Every,
    Number(u32),
    Last,
}

/// A month of some year.
#[derive(Clone, Copy)]
struct Month {
    length: u32,
    /// The weekday of the first; Sunday is 0.
    first: u32,
}

const SUNDAY: u32 = 0;
const SATURDAY: u32 = 6;

impl Dates<'_> {
    /// Whether there is a date that matches. Each month begins with every weekday in some year, and so does each of the
    /// two Februaries.
    pub(crate) fn exist(&self) -> bool {
        let months = (1..=12).filter(|month| self.months.iter().any(|item| item.has(*month)));
        let lengths = months.flat_map(|month| match month {
            2 => 28..=29,
            4 | 6 | 9 | 11 => 30..=30,
            _ => 31..=31,
        });
        let mut months = lengths.flat_map(|length| (0..7).map(move |first| Month { length, first }));
        months.any(|month| (1..=month.length).any(|day| self.matches(month, day)))
    }

    fn matches(&self, month: Month, day: u32) -> bool {
        let by_day = || self.days.iter().any(|item| item.is_day(month, day));
        let by_weekday = || self.weekdays.iter().any(|item| item.is_weekday(month, day));
        match self.joined {
            Joined::OnlyDay => by_day(),
            Joined::OnlyWeekday => by_weekday(),
            Joined::Either => by_day() || by_weekday(),
            Joined::Both => by_day() && by_weekday(),
        }
    }
}

impl Month {
    fn weekday(self, day: u32) -> u32 {
        (self.first + day - 1) % 7
    }
}

impl Item {
    fn has(self, number: u32) -> bool {
        matches!(self, Self::Range { from, to, step, .. } if (from..=to).contains(&number) && (number - from).is_multiple_of(step))
    }

    fn is_day(self, month: Month, day: u32) -> bool {
        match self {
            Self::Range { .. } => self.has(day),
            Self::LastDay => day == month.length,
            Self::LastWorkday => match month.weekday(month.length) {
                SATURDAY => day == month.length - 1,
                SUNDAY => day == month.length - 2,
                _ => day == month.length,
            },
            Self::NearestWorkday(wanted) if wanted > month.length => false,
            Self::NearestWorkday(wanted) => match month.weekday(wanted) {
                SATURDAY if wanted == 1 => day == 3,
                SATURDAY => day == wanted - 1,
                SUNDAY if wanted == month.length => day == wanted - 2,
                SUNDAY => day == wanted + 1,
                _ => day == wanted,
            },
        }
    }

    fn is_weekday(self, month: Month, day: u32) -> bool {
        let Self::Range { nth, .. } = self else { return false };
        let weekday = month.weekday(day);
        // Sunday is 7 as well.
        let has = self.has(weekday) || (weekday == SUNDAY && self.has(7));
        has && match nth {
            Nth::Every => true,
            Nth::Number(nth) => (day - 1) / 7 + 1 == nth,
            Nth::Last => day + 7 > month.length,
        }
    }
}
