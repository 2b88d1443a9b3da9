//! Blocking runs that timed out or were aborted: they cannot be cancelled, so they hold their instances until they
//! return. If that takes too long, the incarnation ends without them.

use super::*;

/// An instance that a blocking run still holds after the end of its incarnation.
#[derive(Default)]
pub(super) struct Stray {
    returned: Option<Ms>,
    cleaning: Option<Ms>,
    dropped: bool,
}

impl Stray {
    pub(super) fn cleanup_began(&mut self, at: Ms) -> Checked {
        must!(self.cleaning.is_none(), "`cleanup` is called twice");
        must!(self.returned == Some(at), "`cleanup` begins at {at}, but the run returned at {:?}", self.returned);
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
    /// Whether the blocking run of this instance timed out or was aborted, and still runs.
    pub(super) fn is_given_up(&self, serial: u32) -> bool {
        let current = self.life.as_ref().and_then(|life| life.instance.as_ref());
        self.strays.contains_key(&serial) || current.is_some_and(|instance| instance.away && instance.serial == serial)
    }

    /// The run will end like this. After a late panic, the instance is not used again.
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
        life.delay_from(at);
        self.api_was_back(at);
        Ok(())
    }

    /// `reset` was called in a blocking run that then timed out: a fresh instance follows when that run has returned.
    pub(super) fn renew_without(&mut self, at: Ms) -> Checked {
        let unseen = self.paused;
        let life = self.life()?;
        if !life.is_away() || !life.renew {
            return Ok(());
        }
        match life.verdict {
            Some(Verdict::Renew) => {}
            // If it backs off first, it continues at the same moment.
            None if unseen || life.stop.is_some() || !life.retrying => {}
            _ => return Ok(()),
        }
        life.discard();
        life.renew_at(at);
        self.forget_failures();
        Ok(())
    }

    /// Whether the `cleanup` that was just aborted is of a stray.
    pub(super) fn stray_is_aborted(&self, at: Ms) -> bool {
        let drain = self.part.drain;
        self.strays.values().any(|stray| stray.dropped && stray.cleaning.is_some_and(|since| since + drain == at))
    }

    /// Whether the instance that has just ended is a stray.
    pub(super) fn stray_ended(&mut self, at: Ms) -> Result<bool, String> {
        let Some((serial, _)) = self.strays.iter().find(|(_, stray)| stray.dropped) else { return Ok(false) };
        let serial = *serial;
        let since = self.strays.remove(&serial).and_then(|stray| stray.cleaning).unwrap_or_default();
        let drain = self.part.drain;
        must!(at - since <= drain, "`cleanup` took {} ms, but it may take {drain} ms", at - since);
        Ok(true)
    }
}

impl Life {
    pub(super) fn is_away(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.away)
    }

    /// A delay counts from the return of the run.
    fn delay_from(&mut self, at: Ms) {
        if let Some(timetable) = &mut self.timetable
            && timetable.returned(at)
            && self.plan.is_some_and(|plan| plan.kind == Kind::Regular)
        {
            self.plan = timetable.next(at);
        }
    }

    /// Another instance must replace the one that a blocking run still holds.
    pub(super) fn discard(&mut self) {
        if let Some(instance) = &mut self.instance {
            instance.discard |= instance.away;
        }
    }

    /// Returns since when the end of the incarnation has waited only for the blocking run.
    pub(super) fn ends_since(&self) -> Option<Ms> {
        match self.verdict {
            Some(Verdict::Fail) => Some(self.free),
            _ => self.stop.map(|stop| stop.max(self.free)),
        }
    }

    /// Checks that the incarnation ends as soon as it may.
    pub(super) fn ends(&self, at: Ms, ends: Ms, drain: Ms) -> Checked {
        must!(self.is_over(), "ended, but something is still in progress");
        if self.is_away() {
            let since = self.ends_since().unwrap_or(ends);
            let waited = at == since + drain || (self.hurried && (since..since + drain).contains(&at));
            must!(
                waited,
                "ended at {at} without its blocking run, and must wait for it from {since} on for {drain} ms"
            );
            return Ok(());
        }
        must!(self.instance.is_none(), "ended, but its instance did not");
        must!(at == ends, "ended at {at}, and must end at {ends}");
        Ok(())
    }
}
