//! [`Factory`]: the source of a service's instances.

use std::sync::Arc;

use crate::runtime::context::Context;
use crate::runtime::lifecycle::{BoxFuture, Build, Lifecycle};
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// A future that builds an instance.
pub(super) type Building = BoxFuture<'static, Result<Box<dyn Lifecycle>>>;

/// The source of a service's instances.
pub(crate) enum Factory {
    /// One ready-made instance.
    ReadyMade(Mutex<Option<Box<dyn Lifecycle>>>),
    Closure(Arc<dyn Fn(Context) -> Building + Send + Sync>),
    /// `configure` or `Default`.
    Build(Build),
    /// A test holds the instance, and makes single runs.
    #[allow(dead_code, reason = "for tests")]
    Borrowed,
}

impl Factory {
    /// Whether another instance can be built.
    pub(crate) fn has_next(&self) -> bool {
        match self {
            Self::ReadyMade(slot) => slot.lock().is_some(),
            Self::Closure(_) | Self::Build(_) => true,
            Self::Borrowed => false,
        }
    }

    pub(crate) fn is_ready_made(&self) -> bool {
        matches!(self, Self::ReadyMade(_) | Self::Borrowed)
    }

    /// Returns a source of the same instances for another service; `None`: there is only one instance.
    pub(super) fn share(&self) -> Option<Self> {
        match self {
            Self::ReadyMade(_) | Self::Borrowed => None,
            Self::Closure(build) => Some(Self::Closure(build.clone())),
            Self::Build(build) => Some(Self::Build(*build)),
        }
    }

    /// Builds the next instance.
    pub(crate) fn build(&self, cx: Context) -> Building {
        match self {
            Self::Build(build) => build(cx),
            Self::Closure(build) => build(cx),
            Self::ReadyMade(slot) => {
                let instance = slot.lock().take();
                Box::pin(std::future::ready(instance.ok_or_else(|| ready_made_has_ended(cx.service_id()))))
            }
            Self::Borrowed => Box::pin(std::future::ready(Err(ready_made_has_ended(cx.service_id())))),
        }
    }
}

/// Why a service that has failed cannot be started again, if its instance was ready-made.
pub(crate) const READY_MADE_HAS_FAILED: &str = "it has failed, and `reset` has no fresh instance, because it was registered as a ready-made one; \
     register it with `service_fn` (or `register_fn`)";

/// The error that a ready-made instance has ended, and no other can be built.
pub(crate) fn ready_made_has_ended(service: &str) -> Error {
    Error::fatal(format!(
        "service `{service}` was registered as a ready-made instance, which has ended; \
         register it with `service_fn` (or `register_fn`) so that a fresh one can be built"
    ))
}
