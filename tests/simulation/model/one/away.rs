//! Blocking runs that were given up: nobody can cut them, so their instances are out of reach until they return, and
//! where that takes too long, the life ends without them.

use super::*;

/// An instance whose life has ended without it.
#[derive(Default)]
pub(super) struct Stray {
    returned: Option<Ms>,
    cleaning: Option<Ms>,
    dropped: bool,
}

impl Stray {
    pub(super) fn cleanup_began(&mut self, at: Ms) -> Checked {
        must!(self.cleaning.is_none(), "`cleanup` is called twice");
        must!(self.returned == Some(at), "`cleanup` begins at {at}, and the run returned at {:?}", self.returned);
        self.cleaning = Some(at);
        Ok(())
    }

    pub(super) fn dropped(&mut self) -> Checked {
        must!(self.cleaning.is_some(), "dropped without `cleanup`");
        self.dropped = true;
        Ok(())
    }
}

impl One {
    /// Whether this instance's run was given up and goes on.
    pub(super) fn is_given_up(&self, serial: u32) -> bool {
        let current = self.life.as_ref().and_then(|life| life.instance.as_ref());
        self.strays.contains_key(&serial) || current.is_some_and(|instance| instance.away && instance.serial == serial)
    }

    /// The run will be left in this way; of a late panic, the instance is not used again.
    pub(super) fn ends_late(&mut self, serial: u32, how: How) -> Checked {
        if !self.strays.contains_key(&serial)
            && let Some(instance) = &mut self.life()?.instance
        {
            instance.discard |= how == How::Panics;
        }
        Ok(())
    }

    pub(super) fn returns_late(&mut self, at: Ms, serial: u32) -> Checked {
        if let Some(stray) = self.strays.get_mut(&serial) {
            must!(stray.returned.is_none(), "a run returns twice");
            stray.returned = Some(at);
            return Ok(());
        }
        let life = self.life()?;
        life.free = at;
        if let Some(instance) = &mut life.instance {
            instance.away = false;
        }
        Ok(())
    }

    /// A fresh instance was asked for in a run that was then given up: nothing is waited for but its turn.
    pub(super) fn renew_without(&mut self, at: Ms) -> Checked {
        let unseen = self.paused;
        let life = self.life()?;
        if !life.is_away() || !life.renew {
            return Ok(());
        }
        match life.verdict {
            Some(Verdict::Renew) => {}
            // Where it is told to back off first, it is told to go on in the same moment.
            None if unseen || life.stop.is_some() => {}
            _ => return Ok(()),
        }
        life.discard();
        life.renew_at(at);
        self.failures = 0;
        Ok(())
    }

    /// Whether it is a stray's `cleanup` that has just been aborted.
    pub(super) fn stray_is_aborted(&self, at: Ms) -> bool {
        let drain = self.part.drain;
        self.strays.values().any(|stray| stray.dropped && stray.cleaning.is_some_and(|since| since + drain == at))
    }

    /// Whether it is a stray that has just ended.
    pub(super) fn stray_ended(&mut self, at: Ms) -> Result<bool, String> {
        let Some((serial, _)) = self.strays.iter().find(|(_, stray)| stray.dropped) else { return Ok(false) };
        let serial = *serial;
        let since = self.strays.remove(&serial).and_then(|stray| stray.cleaning).unwrap_or_default();
        let drain = self.part.drain;
        must!(at - since <= drain, "`cleanup` took {} ms, and {drain} ms it may take", at - since);
        Ok(true)
    }
}

impl Life {
    pub(super) fn is_away(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.away)
    }

    /// Another instance is wanted in the place of the one that is out of reach.
    pub(super) fn discard(&mut self) {
        if let Some(instance) = &mut self.instance {
            instance.discard |= instance.away;
        }
    }

    /// Since when the end of the life has waited for nothing but the blocking run.
    pub(super) fn ends_since(&self) -> Option<Ms> {
        match self.verdict {
            Some(Verdict::Fail) => Some(self.free),
            _ => self.stop.map(|stop| stop.max(self.free)),
        }
    }

    /// The life ends, as soon as it may.
    pub(super) fn ends(&self, at: Ms, ends: Ms, drain: Ms) -> Checked {
        must!(self.is_over(), "ended, and something still goes on");
        if self.is_away() {
            let since = self.ends_since().unwrap_or(ends);
            let waited = at == since + drain || (self.hurried && (since..since + drain).contains(&at));
            must!(
                waited,
                "ended at {at} without its blocking run, and ought to wait for it from {since} on for {drain} ms"
            );
            return Ok(());
        }
        must!(self.instance.is_none(), "ended, and its instance did not");
        must!(at == ends, "ended at {at}, and ought to have at {ends}");
        Ok(())
    }
}
