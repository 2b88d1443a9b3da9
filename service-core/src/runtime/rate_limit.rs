//! The rate limit of one service: at most `permits` permits in any period of length `per`.

use std::collections::VecDeque;
use std::sync::OnceLock;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::schedule::RateLimit;
use crate::schedule::later;

/// The times of the latest permits, created with the first one.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// Locked while a caller waits, so that permits are granted in the order of the calls.
    given: OnceLock<Box<Mutex<VecDeque<Instant>>>>,
}

impl Rate {
    /// Waits until another permit may be granted.
    pub(crate) async fn permit(&self, limit: RateLimit) {
        let mut given = self.given.get_or_init(Box::default).lock().await;
        let now = Instant::now();
        while given.front().is_some_and(|oldest| later(*oldest, limit.per) <= now) {
            given.pop_front();
        }
        while given.len() >= limit.permits.max(1) as usize {
            if let Some(oldest) = given.front() {
                tokio::time::sleep_until(later(*oldest, limit.per)).await;
            }
            given.pop_front();
        }
        given.push_back(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_period_has_more_permits_than_the_limit() {
        let rate = Rate::default();
        let limit = RateLimit { permits: 3, per: Duration::from_secs(1) };
        let start = Instant::now();
        let mut at = Vec::new();
        for n in 0..9 {
            if n == 4 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            rate.permit(limit).await;
            at.push((Instant::now() - start).as_millis());
        }
        assert_eq!(at[..4], [0, 0, 0, 1000]);
        for window in at.windows(4) {
            assert!(window[3] - window[0] >= 1000, "{at:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_permits_of_one_period_are_kept() {
        let rate = Rate::default();
        let limit = RateLimit { permits: 1_000_000, per: Duration::from_secs(60) };
        for _ in 0..1_000 {
            rate.permit(limit).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let kept = rate.given.get().unwrap().lock().await.len();
        assert!(kept <= 60, "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_dropped_while_it_waits_takes_no_permit() {
        let rate = Rate::default();
        let limit = RateLimit { permits: 1, per: Duration::from_secs(1) };
        rate.permit(limit).await;
        let start = Instant::now();
        let given_up = tokio::time::timeout(Duration::from_millis(100), rate.permit(limit)).await;
        assert!(given_up.is_err());
        rate.permit(limit).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}
