//! The states of a service and the steps between them that are legal.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a service is in its life.
///
/// `Created → Starting → Running ⇄ Paused`, `Running → BackingOff → Running`, any → `Draining → Stopped`, any →
/// `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServiceState {
    /// Registered, never started.
    Created,
    /// Waits for its dependencies, or its first instance is being built.
    Starting,
    /// Runs, or waits for its next regular run.
    Running,
    /// Waits to be resumed; the instance is kept.
    Paused,
    /// Waits to try again after a failure.
    BackingOff,
    /// Told to stop; the run in flight and `cleanup` may still go on.
    Draining,
    /// Ended, and may be started again.
    Stopped,
    /// Ended after too many failures, or a fatal one. Only `reset` starts it again.
    Failed,
}

impl ServiceState {
    /// Whether a task stands behind the service: from `Starting` to `Draining`.
    pub fn is_running(self) -> bool {
        !matches!(self, Self::Created | Self::Stopped | Self::Failed)
    }

    /// Whether the step from this state to `next` is one that the lifecycle has.
    pub fn may_become(self, next: Self) -> bool {
        use ServiceState::{BackingOff, Created, Draining, Failed, Paused, Running, Starting, Stopped};
        match next {
            Created => false,
            Starting => matches!(self, Created | Stopped | Failed),
            Running => matches!(self, Starting | Paused | BackingOff),
            Paused => matches!(self, Running | BackingOff),
            BackingOff => matches!(self, Starting | Running | Paused),
            Draining => matches!(self, Starting | Running | Paused | BackingOff),
            Stopped => self == Draining,
            Failed => matches!(self, Starting | Running | Paused | BackingOff),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::BackingOff => "backing_off",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
