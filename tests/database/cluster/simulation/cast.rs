//! The services of the simulation.

/// When a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Seconds.
    Interval(u64),
    /// Seconds.
    Delay(u64),
    /// Every so many minutes.
    Cron(u64),
    /// Its `run` continues until a stop.
    Long,
}

/// One service.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) id: &'static str,
    pub(super) schedule: Schedule,
    /// Seconds.
    pub(super) lease: u64,
    /// A run takes up to this long, in seconds. It is shorter than the interval.
    pub(super) works: u64,
    /// So many runs of a hundred fail.
    pub(super) fails: u64,
    /// Marks its fires as served in its own transaction.
    pub(super) marks: bool,
    /// All missed fires are made up, and not only the latest.
    pub(super) makes_up_all: bool,
}

const PLAIN: Part =
    Part { id: "", schedule: Schedule::Long, lease: 30, works: 0, fails: 0, marks: false, makes_up_all: false };

/// Each simulation has some of them.
pub(super) const CAST: [Part; 7] = [
    Part { id: "quick", schedule: Schedule::Interval(100), lease: 60, works: 5, ..PLAIN },
    Part { id: "slow", schedule: Schedule::Interval(300), lease: 150, works: 250, ..PLAIN },
    Part { id: "failing", schedule: Schedule::Interval(225), lease: 100, works: 25, fails: 40, ..PLAIN },
    Part { id: "after", schedule: Schedule::Delay(150), lease: 75, works: 50, fails: 10, ..PLAIN },
    Part { id: "marked", schedule: Schedule::Cron(10), lease: 100, works: 100, fails: 10, marks: true, ..PLAIN },
    Part { id: "fires", schedule: Schedule::Cron(7), lease: 125, works: 100, fails: 10, makes_up_all: true, ..PLAIN },
    Part { id: "stream", schedule: Schedule::Long, lease: 200, works: 3_000, fails: 10, ..PLAIN },
];

impl Part {
    /// The options, with their keys.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let (key, value) = match self.schedule {
            Schedule::Interval(seconds) => ("interval", format!("{seconds}s")),
            Schedule::Delay(seconds) => ("delay", format!("{seconds}s")),
            Schedule::Cron(minutes) => ("cron", format!("*/{minutes} * * * *")),
            Schedule::Long => ("retry_delay", "10s".to_owned()),
        };
        let mut settings = vec![(key, value), ("lease", format!("{}s", self.lease))];
        if self.makes_up_all {
            settings.push(("catch_up", "all".to_owned()));
        }
        settings.into_iter().map(|(key, value)| (format!("{}.{key}", self.id), value)).collect()
    }
}
