//! [`Turn`]: the place of one service among those that may run at the same time (`max_concurrent_runs`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The turn of one service.
#[derive(Default)]
pub(crate) enum Turn {
    /// It does not run.
    #[default]
    None,
    /// It waits behind the services that asked earlier.
    Waiting(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
    /// It runs, until this is dropped.
    Taken(#[expect(dead_code, reason = "dropping it ends the turn")] OwnedSemaphorePermit),
}

impl Turn {
    /// Ends the turn, or the wait for it.
    #[inline]
    pub(crate) fn end(&mut self) {
        // Without a limit on the runs, there is none.
        if !matches!(self, Self::None) {
            *self = Self::None;
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// Waits until the service may run. The order is that of the first calls.
    pub(crate) fn poll(&mut self, turns: &Arc<Semaphore>, task: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Self::Taken(_) => return Poll::Ready(()),
                Self::None => *self = Self::Waiting(Box::pin(turns.clone().acquire_owned())),
                Self::Waiting(turn) => match turn.as_mut().poll(task) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(permit)) => *self = Self::Taken(permit),
                    Poll::Ready(Err(_)) => unreachable!("it is never closed"),
                },
            }
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Waiting(_) => "Waiting",
            Self::Taken(_) => "Taken",
        })
    }
}
