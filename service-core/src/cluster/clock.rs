//! The clocks of leases.
//!
//! The holder measures its lease by a clock that also counts while the machine is suspended: `CLOCK_BOOTTIME`. Rust's
//! `Instant` stands still then, and would show a lease as valid that other replicas have seen expire. The wall clock
//! can be set.

use std::sync::Arc;
use std::time::Duration;

use crate::runtime::clock::Clock;
use crate::runtime::lease::LeaseClock;

/// Returns the clock for the leases of a registry with this clock.
pub(super) fn lease_clock(clock: &Clock) -> Arc<dyn LeaseClock> {
    match clock.virtual_monotonic() {
        Some(_) => Arc::new(VirtualClock(clock.clone())),
        None => Arc::new(BootClock),
    }
}

/// Returns what identifies this start of the machine. Times of [`BootClock`] from different starts cannot be compared.
pub(super) fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Whether all processes of the machine have the same [`BootClock`].
pub(super) const IS_SHARED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The time since the machine was started; on other systems than Linux, the time since some moment of the process.
#[derive(Debug)]
struct BootClock;

impl LeaseClock for BootClock {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn now(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
    }

    /// Here, a suspended machine may trust its lease for too long; fenced commits are refused anyway.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn now(&self) -> Duration {
        use std::sync::LazyLock;
        use std::time::Instant;

        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// The time of the test bed, which no test sets.
#[derive(Debug)]
struct VirtualClock(Clock);

impl LeaseClock for VirtualClock {
    fn now(&self) -> Duration {
        self.0.virtual_monotonic().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_moves() {
        let before = BootClock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(BootClock.now() >= before + Duration::from_millis(2));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_machine_says_when_it_was_started() {
        assert_eq!(boot_id().len(), 36);
    }
}
