//! [`ServiceState`]: the states of a service and the legal transitions between them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a service.
///
/// `Created → Starting → Running ⇄ Paused`, `Running → BackingOff → Running`, any → `Draining → Stopped`, any →
/// `Failed`. A service with `scope = "cluster"` also: `Starting → Standby → Running`, and back to `Standby`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServiceState {
    /// Registered, never started.
    Created,
    /// Waits for its dependencies, or builds its first instance. With `readiness = "explicit"`, it is also in its first
    /// run, until that calls `ready`.
    Starting,
    /// In a run, or waiting for the next regular run.
    Running,
    /// Paused: no scheduled runs until `resume`. The instance is kept.
    Paused,
    /// Waits for the retry after a failure.
    BackingOff,
    /// Another replica runs the service, and this one waits for its lease (`scope = "cluster"`). Counts as up.
    Standby,
    /// A stop was requested; the current run and `cleanup` may continue within their time limits.
    Draining,
    /// Stopped. `start` starts it again.
    Stopped,
    /// Failed permanently: too many failures, or a fatal one. Only `reset` starts it again.
    Failed,
}

impl ServiceState {
    pub(crate) const ALL: [Self; 9] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::BackingOff,
        Self::Standby,
        Self::Draining,
        Self::Stopped,
        Self::Failed,
    ];

    /// Returns whether the service has a running task: from `Starting` to `Draining`.
    pub fn is_running(self) -> bool {
        !matches!(self, Self::Created | Self::Stopped | Self::Failed)
    }

    /// Returns whether the lifecycle allows the transition from this state to `next`.
    pub fn may_become(self, next: Self) -> bool {
        use ServiceState::{BackingOff, Created, Draining, Failed, Paused, Running, Standby, Starting, Stopped};
        match next {
            Created => false,
            Starting => matches!(self, Created | Stopped | Failed),
            Running => matches!(self, Starting | Paused | BackingOff | Standby),
            Paused => matches!(self, Running | BackingOff),
            BackingOff => matches!(self, Starting | Running | Paused | Standby),
            Standby => matches!(self, Starting | Running | Paused | BackingOff),
            Draining => matches!(self, Starting | Running | Paused | BackingOff | Standby),
            Stopped => self == Draining,
            Failed => matches!(self, Starting | Running | Paused | BackingOff | Standby),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::BackingOff => "backing_off",
            Self::Standby => "standby",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// The state as words of a sentence: `backing off`.
    pub(crate) fn in_words(self) -> String {
        self.as_str().replace('_', " ")
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
