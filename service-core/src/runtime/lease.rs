//! [`Lease`]: whether this replica may run a service with `scope = "cluster"`, and what it knows about the replica that may.
//!
//! What coordinates the replicas (`Leases`) grants and renews it; the loop of the service reads it. The tricky part is
//! time. The holder trusts its lease by its own clock, from the moment when the request of the last renewal began. A
//! lease whose time is over never comes back, even if the answer to a renewal arrives late.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::humanize;
use crate::sync::Mutex;

/// A holder stays known for at least this long, whatever the length of its lease: replicas look for it about once a
/// second.
const SHORTEST_KNOWN: Duration = Duration::from_secs(3);

/// A clock that also counts while the machine is suspended.
pub(crate) trait LeaseClock: fmt::Debug + Send + Sync {
    /// Returns the time since some fixed moment.
    fn now(&self) -> Duration;
}

/// The lease of one service.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: Arc<dyn LeaseClock>,
    /// How long it lasts without a renewal.
    pub(crate) length: Duration,
    state: Mutex<State>,
    /// Blocking code of a `cleanup`, and what waits for a blocking run that does not return, has a copy.
    left: Arc<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The loop waits for the lease.
    is_wanted: bool,
    /// Granted, and not taken over by the loop yet.
    grant: Option<Grant>,
    held: Option<Held>,
    holder: Option<Holder>,
    /// Since when this replica leaves a lease that is free to others.
    free_since: Option<Instant>,
    /// Why the holder cannot be determined, since the last answer of the database.
    problem: Option<String>,
    /// When a replica handed the service over to another one, as far as this replica knows: the age of that at a
    /// moment.
    moved: Option<(Instant, Duration)>,
    /// The replica to which the service is to be handed over as soon as it is idle.
    moves_to: Option<String>,
    /// Why a single run was refused, or could not end.
    refusal: Option<String>,
    /// It is known whether another replica holds the lease, or that this cannot be determined.
    is_decided: bool,
}

impl State {
    fn may_move(&self, rest: Duration) -> bool {
        let moved = self.moved.map(|(at, age)| at.elapsed() + age);
        self.held.is_some() && moved.is_none_or(|age| age >= rest)
    }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: u64,
    /// This replica trusts its lease until then.
    until: Duration,
}

/// What this replica gets with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The number of this takeover. Later takeovers have greater numbers.
    pub(crate) epoch: u64,
    /// When the lease was taken.
    pub(crate) at: Instant,
    /// How long before `at` the first replica took the lease.
    pub(crate) first: Duration,
    /// How long before `at` the schedule's last point was: of an interval the last point that a run has served, of a
    /// delay the end of the last run. `None`: no run has begun yet.
    pub(crate) last: Option<Duration>,
    /// How long before `at` a replica handed the service over to another one.
    pub(crate) moved: Option<Duration>,
}

impl Grant {
    /// Returns how long ago the first replica took the lease, and how long ago the schedule's last point was.
    pub(crate) fn ages(&self, now: Instant) -> (Duration, Option<Duration>) {
        let since = now.saturating_duration_since(self.at);
        (self.first + since, self.last.map(|last| last + since))
    }
}

/// The replica that holds a lease, as it was seen last.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// Its host and process: `web-2 (pid 71)`.
    pub(crate) label: String,
    pub(crate) epoch: u64,
    /// When it renewed its lease last.
    pub(crate) renewed: Instant,
    /// When the lease expires, if the clock by which it does was set back since the last renewal.
    pub(crate) ends_late: Option<Instant>,
    /// When this was seen.
    pub(crate) seen: Instant,
    /// It has handed the service over to another replica, which has not taken it yet.
    pub(crate) has_handed_over: bool,
}

impl Lease {
    pub(crate) fn new(length: Duration, clock: Arc<dyn LeaseClock>) -> Self {
        Self { clock, length, state: Mutex::default(), left: Arc::default() }
    }

    // ── what the loop and the service's code read ───────────────────────────────────────────────────────────────────

    /// Whether this replica trusts its lease now.
    pub(crate) fn is_held(&self) -> bool {
        self.epoch().is_some()
    }

    /// Returns the number of the takeover by which this replica holds the lease, as long as it trusts it.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.state.lock().held.filter(|held| self.clock.now() < held.until).map(|held| held.epoch)
    }

    /// Returns the holder, if another replica was seen as such within the time of a lease.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let known_for = self.length.max(SHORTEST_KNOWN);
        self.state.lock().holder.clone().filter(|holder| holder.seen.elapsed() < known_for)
    }

    /// Describes the holder, or returns as an error why none is known.
    pub(crate) fn describe_holder(&self) -> Result<String, String> {
        let now = Instant::now();
        let ago = |at: Instant| humanize::long(now.saturating_duration_since(at));
        if let Some(Holder { label, epoch, renewed, ends_late, has_handed_over, .. }) = self.holder() {
            if has_handed_over {
                return Ok(format!("handed over by {label} to another replica, epoch {epoch}"));
            }
            if let Some(end) = ends_late {
                let left = humanize::long(end.saturating_duration_since(now));
                return Ok(format!(
                    "held by {label}, epoch {epoch}; the clock of the database was set back since the last renewal, so the lease is \
                     valid for {left}"
                ));
            }
            return Ok(format!("held by {label}, epoch {epoch}, renewed {} ago", ago(renewed)));
        }
        if self.is_held() {
            return Ok("held by this replica, which hands it over".to_owned());
        }
        let state = self.state.lock();
        let last = state.holder.as_ref().map(|holder| (&holder.label, ago(holder.seen)));
        Err(match (&state.problem, last) {
            (Some(problem), Some((label, ago))) => {
                format!("no holder of the lease is known: {problem}; {label} held it {ago} ago")
            }
            (Some(problem), None) => format!("no holder of the lease is known: {problem}"),
            (None, Some((label, ago))) => format!("no holder of the lease is known; {label} held it {ago} ago"),
            (None, None) => "no replica has taken the lease yet".to_owned(),
        })
    }

    // ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The loop waits for the lease from now on, or no longer does.
    pub(crate) fn set_wanted(&self, is_wanted: bool) {
        let mut state = self.state.lock();
        (state.is_wanted, state.is_decided) = (is_wanted, false);
        (state.free_since, state.refusal) = (None, None);
    }

    /// Whether it is known that this replica does not get the lease now.
    pub(crate) fn is_decided(&self) -> bool {
        self.state.lock().is_decided
    }

    /// A single run does not wait for the lease.
    pub(crate) fn refuse(&self) {
        let refusal = self.describe_holder().map_or_else(|why| why, |holder| format!("its lease is {holder}"));
        self.state.lock().refusal = Some(format!("cannot run here: {refusal}"));
    }

    /// The lease was lost in a single run. What follows it must not be a second one.
    pub(crate) fn end_single_run(&self) {
        self.state.lock().refusal = Some("lost its lease before its single run had ended".to_owned());
    }

    /// Returns why a single run was refused or could not end, if so.
    pub(crate) fn take_refusal(&self) -> Option<String> {
        self.state.lock().refusal.take()
    }

    /// Takes over a lease that was granted.
    pub(crate) fn take_grant(&self) -> Option<Grant> {
        self.state.lock().grant.take()
    }

    /// Ends the lease here. Returns its epoch, if this replica had it.
    pub(crate) fn end(&self) -> Option<u64> {
        let mut state = self.state.lock();
        (state.is_wanted, state.grant, state.moves_to) = (false, None, None);
        state.held.take().map(|held| held.epoch)
    }

    /// Ends the lease here, because the service is handed over to another replica. `label` is that of this one.
    pub(crate) fn hand_over(&self, label: String) {
        let (epoch, now) = (self.end().unwrap_or_default(), Instant::now());
        let holder = Holder { label, epoch, renewed: now, ends_late: None, seen: now, has_handed_over: true };
        self.state.lock().holder = Some(holder);
    }

    /// Counts code that the loop may have to leave behind, until the result is dropped.
    pub(crate) fn count_code(&self) -> Arc<()> {
        self.left.clone()
    }

    /// Whether code that the loop has left behind still runs. The lease is not released then, but expires.
    pub(crate) fn has_left_code(&self) -> bool {
        Arc::strong_count(&self.left) > 1
    }

    /// Returns the replica to which the service is to be handed over now.
    pub(crate) fn moves_to(&self) -> Option<String> {
        self.state.lock().moves_to.clone()
    }

    // ── what coordinates the replicas ───────────────────────────────────────────────────────────────────────────────

    pub(crate) fn is_wanted(&self) -> bool {
        self.state.lock().is_wanted
    }

    /// The service is to be handed over to this replica as soon as it is idle, or no longer is. Returns whether the
    /// loop has to be notified.
    pub(crate) fn set_target(&self, target: Option<&str>) -> bool {
        let mut state = self.state.lock();
        let target = target.filter(|_| state.held.is_some()).map(str::to_owned);
        let is_news = target.is_some() && target != state.moves_to;
        state.moves_to = target;
        is_news
    }

    /// Whether this replica holds the lease, and may hand it over.
    pub(crate) fn may_move(&self, rest: Duration) -> bool {
        self.state.lock().may_move(rest)
    }

    /// Returns the epoch of the lease, and for how long this replica still trusts it.
    pub(crate) fn held(&self) -> Option<(u64, Duration)> {
        self.state.lock().held.map(|held| (held.epoch, held.until.saturating_sub(self.clock.now())))
    }

    /// Grants the lease, trusted until this time of the clock. Returns `false` if the loop no longer waits for it, or
    /// if that time is over.
    pub(crate) fn grant(&self, grant: Grant, until: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.is_wanted || self.clock.now() >= until {
            return false;
        }
        (state.is_wanted, state.grant, state.holder, state.problem) = (false, Some(grant), None, None);
        (state.moved, state.moves_to) = (grant.moved.map(|age| (grant.at, age)), None);
        state.free_since = None;
        state.held = Some(Held { epoch: grant.epoch, until });
        true
    }

    /// The lease is free, and is left to other replicas. Returns for how long so far.
    pub(crate) fn free_for(&self) -> Duration {
        self.state.lock().free_since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Extends the lease of this epoch. A lease whose time is over stays lost.
    pub(crate) fn renew(&self, epoch: u64, until: Duration) {
        let now = self.clock.now();
        if let Some(held) = self.state.lock().held.as_mut().filter(|held| held.epoch == epoch && now < held.until) {
            held.until = held.until.max(until);
        }
    }

    /// The lease of this epoch is lost: another replica has it, or the database has refused a write. Returns whether
    /// this is news.
    pub(crate) fn lose(&self, epoch: u64) -> bool {
        let mut state = self.state.lock();
        match &mut state.held {
            Some(held) if held.epoch == epoch => !std::mem::take(&mut held.until).is_zero(),
            _ => false,
        }
    }

    /// Another replica holds the lease. Returns whether the loop has to be notified.
    pub(crate) fn set_holder(&self, holder: Holder) -> bool {
        let mut state = self.state.lock();
        // If no other replica takes what was handed over, this one does.
        let is_decided = !holder.has_handed_over;
        (state.holder, state.problem, state.free_since) = (Some(holder), None, None);
        is_decided && state.is_wanted && !std::mem::replace(&mut state.is_decided, true)
    }

    /// It cannot be determined which replica holds the lease. Returns whether the loop has to be notified.
    pub(crate) fn set_problem(&self, problem: String) -> bool {
        let mut state = self.state.lock();
        state.problem = Some(problem);
        state.is_wanted && !std::mem::replace(&mut state.is_decided, true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Seconds(AtomicU64);

    impl LeaseClock for Seconds {
        fn now(&self) -> Duration {
            secs(self.0.load(Ordering::SeqCst))
        }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn grant(epoch: u64) -> Grant {
        Grant { epoch, at: Instant::now(), first: Duration::ZERO, last: None, moved: None }
    }

    fn lease() -> (Lease, Arc<Seconds>) {
        let clock = Arc::new(Seconds::default());
        (Lease::new(secs(30), clock.clone()), clock)
    }

    #[test]
    fn a_lease_is_trusted_until_its_time_is_over() {
        let (lease, clock) = lease();
        assert!(!lease.grant(grant(1), secs(27)), "the loop does not wait for it");
        lease.set_wanted(true);
        assert!(lease.grant(grant(1), secs(27)));
        assert!(lease.is_held() && !lease.is_wanted());
        clock.0.store(26, Ordering::SeqCst);
        assert_eq!(lease.epoch(), Some(1));
        clock.0.store(27, Ordering::SeqCst);
        assert_eq!(lease.epoch(), None);
    }

    #[test]
    fn the_late_answer_to_a_renewal_does_not_bring_a_lease_back() {
        let (lease, clock) = lease();
        lease.set_wanted(true);
        assert!(lease.grant(grant(1), secs(27)));
        lease.renew(1, secs(37));
        clock.0.store(36, Ordering::SeqCst);
        assert!(lease.is_held());
        clock.0.store(38, Ordering::SeqCst);
        lease.renew(1, secs(60));
        assert!(!lease.is_held(), "its time was over");
    }

    #[test]
    fn a_renewal_of_an_earlier_epoch_changes_nothing() {
        let (lease, clock) = lease();
        lease.set_wanted(true);
        assert!(lease.grant(grant(1), secs(10)));
        assert_eq!(lease.end(), Some(1));
        lease.set_wanted(true);
        assert!(lease.grant(grant(2), secs(10)));
        lease.renew(1, secs(60));
        assert!(!lease.lose(1));
        clock.0.store(11, Ordering::SeqCst);
        assert!(!lease.is_held());
    }

    #[test]
    fn a_grant_that_arrives_too_late_is_refused() {
        let (lease, clock) = lease();
        lease.set_wanted(true);
        clock.0.store(30, Ordering::SeqCst);
        assert!(!lease.grant(grant(1), secs(30)));
        assert!(!lease.is_held() && lease.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_with_a_short_lease_is_known_until_the_polls_that_follow() {
        let lease = Lease::new(secs(1), Arc::<Seconds>::default());
        lease.set_wanted(true);
        let now = Instant::now();
        let (label, has_handed_over) = ("web-2 (pid 71)".to_owned(), false);
        lease.set_holder(Holder { label, epoch: 1, renewed: now, ends_late: None, seen: now, has_handed_over });
        tokio::time::advance(secs(2)).await;
        assert!(lease.describe_holder().is_ok());
        tokio::time::advance(secs(1)).await;
        assert!(lease.describe_holder().is_err());
    }

    #[test]
    fn a_lease_that_was_lost_stays_lost() {
        let (lease, _clock) = lease();
        lease.set_wanted(true);
        assert!(lease.grant(grant(4), secs(27)));
        assert!(lease.lose(4));
        assert!(!lease.lose(4), "it was known");
        lease.renew(4, secs(60));
        assert!(!lease.is_held());
    }
}
