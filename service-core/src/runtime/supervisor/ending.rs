//! How an instance and a life end: cleaned up exactly once, waited for by nobody in vain.

use std::pin::pin;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Ending, Supervisor};
use crate::runtime::invoker::{Driven, Limit, clean_up_late};
use crate::schedule::later;
use crate::service::state::ServiceState;

impl Supervisor {
    pub(super) async fn end(&mut self, ending: Ending) {
        let entry = self.cx.entry.clone();
        {
            let mut control = entry.lock();
            control.ending = true;
            control.plan(None);
            if matches!(ending, Ending::Stopped) {
                entry.enter(&mut control, ServiceState::Draining);
            } else {
                // Tasks of the instance's own wait for its end.
                control.tell_changed_state();
            }
        }
        self.end_instance().await;
        #[cfg(feature = "database")]
        if self.has_fire_to_remember() {
            self.remember_fire().await;
        }
        let mut control = entry.lock();
        // Whoever still waits for a run is told by the dropped sender.
        control.forget_waiters();
        control.run_wanted = false;
        control.paused = false;
        control.let_go();
        control.settled = true;
        let last = if control.state() == ServiceState::Draining { ServiceState::Stopped } else { ServiceState::Failed };
        self.ended = true;
        control.deafen();
        entry.enter(&mut control, last);
        drop(control);
        if last == ServiceState::Stopped {
            info!(service.id = %entry.id, "stopped");
        } else if self.desk.options.critical {
            self.cx.registry.critical_failure(&entry.id);
        }
    }

    /// Ends the instance because another is to follow; one on the blocking pool when it comes back, as runs never overlap.
    pub(super) async fn replace_instance(&mut self) {
        if let Some(seldom) = self.seldom.as_mut().filter(|seldom| seldom.away.is_some()) {
            seldom.discard = true;
        } else {
            self.end_instance().await;
        }
    }

    /// Cleans up the instance, exactly once, and lets go of it. Waits for one that is still on the blocking pool.
    pub(super) async fn end_instance(&mut self) {
        if let Some(instance) = self.instance.take() {
            return self.desk.clean_up(&self.cx, instance, Limit::Cleanup).await;
        }
        let Some(mut run) = self.seldom.as_mut().and_then(|seldom| seldom.away.take()) else { return };
        let limit = Limit::Cleanup(later(Instant::now(), self.desk.options.drain_timeout));
        match self.desk.drive(&self.cx.entry, pin!(&mut run), limit).await {
            Driven::Done(Ok((instance, _))) => self.desk.clean_up(&self.cx, instance, Limit::Cleanup).await,
            Driven::Done(Err(_)) | Driven::Panicked(_) => {}
            Driven::TimedOut | Driven::Aborted => {
                let id = &self.cx.entry.id;
                warn!(service.id = %id, "a blocking run does not return: its instance is cleaned up when it does");
                tokio::spawn(clean_up_late(run, self.cx.clone()));
            }
        }
    }
}

/// Where the supervisor itself is dropped half-way (its runtime is shut down, or it has a bug), nobody waits for ever.
impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let entry = &self.cx.entry;
        let mut control = entry.lock();
        control.ending = true;
        control.forget_waiters();
        control.settled = true;
        control.deafen();
        let last = if control.state() == ServiceState::Draining { ServiceState::Stopped } else { ServiceState::Failed };
        entry.enter(&mut control, last);
        if crate::runtime::driver::has_panicked() {
            error!(service.id = %entry.id, "its supervisor panicked; please report this as a bug of service-core");
        }
    }
}
