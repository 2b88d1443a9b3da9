//! The trace: everything that happened in one simulated registry, line by line.
//!
//! The tricky part is order. The registry's events wait in a channel, while the services' own reports are written at
//! once. So every report first fetches the waiting events, and each line is in its right place.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use service_core::prelude::*;
use service_core::{FailureKind, ServiceEventKind};

/// Milliseconds of virtual time since the start.
pub(crate) type Ms = u64;

pub(crate) fn millis(duration: Duration) -> Ms {
    u64::try_from(duration.as_millis()).expect("a simulation is shorter than that")
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Decision {
    Retry,
    RetryAfter(Ms),
    Rebuild,
    Ignore,
    Stop,
    Fail,
}

impl From<Recovery> for Decision {
    fn from(recovery: Recovery) -> Self {
        match recovery {
            Recovery::Retry => Self::Retry,
            Recovery::RetryAfter(wait) => Self::RetryAfter(millis(wait)),
            Recovery::Rebuild => Self::Rebuild,
            Recovery::Ignore => Self::Ignore,
            Recovery::Stop => Self::Stop,
            Recovery::Fail => Self::Fail,
            other => unreachable!("{other:?} is not known to the model"),
        }
    }
}

/// What an error says about retrying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Advice {
    None,
    Fatal,
    RetryAfter(Ms),
}

/// How simulated code ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum How {
    Well { processed: u64, failed: u64, again: bool },
    Badly(Advice),
    Panics,
}

/// A request to a service or to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    Start,
    Stop,
    Pause,
    Resume,
    RunNow,
    Reset,
    Unregister,
    Register,
    SetInterval(Ms),
    SetRetryDelay(Ms),
    Wake,
    StartAll,
    StopAll,
    PauseAll,
    ResumeAll,
    Shutdown,
    /// Notifies a topic.
    Notify(usize),
}

impl Ask {
    /// Whether it may start a service.
    pub(crate) fn starts(self) -> bool {
        matches!(self, Self::Start | Self::Reset | Self::StartAll)
    }

    /// Whether it concerns the whole registry.
    pub(crate) fn is_for_all(self) -> bool {
        matches!(
            self,
            Self::StartAll | Self::StopAll | Self::PauseAll | Self::ResumeAll | Self::Shutdown | Self::Notify(_)
        )
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Done,
    Refused(String),
    /// The report of `run_now`.
    Ran {
        error: Option<String>,
        processed: u64,
        failed: u64,
        again: bool,
        took: Ms,
    },
}

/// The content of a line.
#[derive(Clone, Debug, Hash)]
pub(crate) enum What {
    // The registry's events.
    Registered,
    Unregistered,
    State {
        from: ServiceState,
        to: ServiceState,
    },
    Built,
    Ended,
    RunStarted {
        run: u64,
    },
    RunFinished {
        run: u64,
        took: Ms,
        processed: u64,
        failed: u64,
        again: bool,
    },
    RunFailed {
        run: u64,
        kind: FailureKind,
        count: u32,
        decided: Decision,
        error: String,
    },
    RunGivenUp {
        run: u64,
        failures: u32,
    },
    Aborted,
    Restart {
        after: Ms,
    },
    OptionChanged {
        key: &'static str,
    },
    // The services' own reports.
    ConfigureBegan,
    ConfigureEnds(How),
    Made {
        instance: u32,
    },
    Began {
        instance: u32,
        run: u64,
    },
    Ends {
        instance: u32,
        how: How,
    },
    Left {
        instance: u32,
    },
    OnFailure {
        kind: FailureKind,
        count: u32,
        wait: Ms,
        default: Decision,
        answer: Option<Decision>,
    },
    CleanupBegan {
        instance: u32,
    },
    Dropped {
        instance: u32,
    },
    Permit,
    Degraded,
    Ready,
    Reports {
        processed: u64,
        failed: u64,
    },
    // Requests and their answers.
    Ask {
        n: u32,
        ask: Ask,
        within: bool,
    },
    Answer {
        n: u32,
        answer: Answer,
    },
    GaveUp {
        n: u32,
    },
    /// The result of the probe has changed.
    Probe {
        down: bool,
    },
}

impl What {
    pub(crate) fn of(kind: ServiceEventKind) -> Self {
        match kind {
            ServiceEventKind::Registered => Self::Registered,
            ServiceEventKind::Unregistered => Self::Unregistered,
            ServiceEventKind::StateChanged { from, to } => Self::State { from, to },
            ServiceEventKind::InstanceBuilt => Self::Built,
            ServiceEventKind::InstanceEnded => Self::Ended,
            ServiceEventKind::RunStarted { run } => Self::RunStarted { run },
            ServiceEventKind::RunFinished { run, duration, processed, failed, again } => {
                Self::RunFinished { run, took: millis(duration), processed, failed, again }
            }
            ServiceEventKind::RunFailed { run, failure, error, count, recovery } => {
                Self::RunFailed { run, kind: failure, count, decided: recovery.into(), error }
            }
            ServiceEventKind::RunGivenUp { run, failures } => Self::RunGivenUp { run, failures },
            ServiceEventKind::Aborted => Self::Aborted,
            ServiceEventKind::RestartScheduled { after } => Self::Restart { after: millis(after) },
            ServiceEventKind::OptionChanged { key, .. } => Self::OptionChanged { key },
            other => panic!("the simulation does not know {other:?}"),
        }
    }
}

impl What {
    /// Whether a service's health may change with this line. A request takes effect only after its line, and the
    /// registry learns of the services' own reports only later.
    pub(crate) fn shows_in_health(&self) -> bool {
        matches!(
            self,
            Self::Registered
                | Self::Unregistered
                | Self::State { .. }
                | Self::Built
                | Self::Ended
                | Self::RunStarted { .. }
                | Self::RunFinished { .. }
                | Self::RunFailed { .. }
                | Self::RunGivenUp { .. }
                | Self::Restart { .. }
                | Self::Answer { .. }
        )
    }
}

/// One line.
#[derive(Clone, Hash)]
pub(crate) struct Line {
    pub(crate) at: Ms,
    pub(crate) service: usize,
    pub(crate) what: What,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.at / 1000, self.at % 1000);
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        let (hours, minutes, seconds) = (hours % 24, minutes % 60, seconds % 60);
        write!(f, "{days:2}d {hours:02}:{minutes:02}:{seconds:02}.{ms:03}  s{:02}  {:?}", self.service, self.what)
    }
}

/// The end of the trace, and a hash of all of it.
#[derive(Default)]
pub(crate) struct Trace {
    last: VecDeque<Line>,
    hasher: DefaultHasher,
    pub(crate) lines: u64,
}

impl Trace {
    /// How many lines are kept.
    const KEPT: usize = 4_000;

    pub(crate) fn push(&mut self, line: Line) {
        line.hash(&mut self.hasher);
        self.lines += 1;
        if self.last.len() == Self::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// Returns the last `count` lines of these services.
    pub(crate) fn tail(&self, count: usize, of: impl Fn(&Line) -> bool) -> Vec<String> {
        let mut lines: Vec<_> =
            self.last.iter().rev().filter(|line| of(line)).take(count).map(Line::to_string).collect();
        lines.reverse();
        lines
    }
}
