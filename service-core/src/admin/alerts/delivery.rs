//! [`Queue`]: the alerts that wait for one receiver, and their delivery with retries.
//!
//! The tricky part is a receiver that does not answer for hours: the queue is bounded, and its oldest alert is dropped
//! for a new one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::admin::alerts::alert::ServiceAlert;
use crate::log::{info, warn};
use crate::panic::{self, Caught};
use crate::race::first;
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::{Advice, Error, Result};
use crate::sync::Mutex;

/// How many alerts wait at most.
const MOST_WAITING: usize = 256;
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// The wait before a retry during a shutdown.
const LAST_RETRY: Duration = Duration::from_millis(200);

/// Sends one alert.
pub(crate) type SendAlert = Box<dyn Fn(ServiceAlert) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// The alerts that wait for one receiver.
pub(crate) struct Queue {
    send: SendAlert,
    /// Who receives them, for logs. A URL is a secret.
    receiver: String,
    waiting: Mutex<Waiting>,
    added: Notify,
    pub(crate) delivered: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    /// The oldest is the first.
    alerts: VecDeque<ServiceAlert>,
    /// Whether the oldest one is being sent: it may arrive, so it is not dropped for a new one.
    is_sending: bool,
}

impl Queue {
    pub(crate) fn new(receiver: String, send: SendAlert) -> Self {
        let (delivered, dropped) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { send, receiver, waiting: Mutex::default(), added: Notify::new(), delivered, dropped }
    }

    /// Adds an alert. If too many wait, the oldest one is dropped.
    pub(crate) fn push(&self, alert: ServiceAlert) {
        let mut waiting = self.waiting.lock();
        let first = usize::from(waiting.is_sending);
        let oldest = if waiting.alerts.len() == MOST_WAITING { waiting.alerts.remove(first) } else { None };
        waiting.alerts.push_back(alert);
        drop(waiting);
        self.added.notify_one();
        let Some(oldest) = oldest else { return };
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        // Not a line for each: the receiver may be down for days.
        if dropped.is_power_of_two() {
            warn!(
                "{MOST_WAITING} alerts wait for {}, the oldest is dropped ({dropped} so far): {}",
                self.receiver, oldest.summary
            );
        }
    }

    /// Drops the alerts that wait, because nothing delivers them any more: after a later start, they would be old.
    /// Returns how many.
    pub(crate) fn drop_rest(&self) -> usize {
        let left = std::mem::take(&mut *self.waiting.lock()).alerts.len();
        self.dropped.fetch_add(left as u64, Ordering::Relaxed);
        left
    }

    /// Delivers the alerts, one after the other. Returns when a stop is requested and none is left.
    pub(crate) async fn deliver(&self, mut stop: watch::Receiver<bool>) {
        loop {
            // Removed after its delivery, so that an end in between counts it as not delivered.
            let next = self.waiting.lock().alerts.front().cloned();
            let Some(alert) = next else {
                if is_stopping(&stop) {
                    return;
                }
                first(self.added.notified(), async { _ = stop.changed().await }).await;
                continue;
            };
            self.deliver_one(alert, &mut stop).await;
        }
    }

    /// Begins an attempt. Returns `false` if the alert has been dropped for a new one.
    fn begin(&self, alert: &ServiceAlert) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.is_sending = waiting.alerts.front().is_some_and(|first| first.id == alert.id);
        waiting.is_sending
    }

    /// Ends an attempt, and removes the alert if no other one follows. Counts it in `result`.
    fn end(&self, alert: &ServiceAlert, result: Option<&AtomicU64>) {
        let mut waiting = self.waiting.lock();
        waiting.is_sending = false;
        if let Some(result) = result {
            waiting.alerts.retain(|waiting| waiting.id != alert.id);
            result.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn deliver_one(&self, alert: ServiceAlert, stop: &mut watch::Receiver<bool>) {
        let mut wait = FIRST_RETRY;
        let mut attempt: u32 = 1;
        while self.begin(&alert) {
            let error = match self.attempt(alert.clone()).await {
                Ok(()) => {
                    self.end(&alert, Some(&self.delivered));
                    if attempt > 1 {
                        info!("an alert was delivered to {} at attempt {attempt}: {}", self.receiver, alert.summary);
                    }
                    return;
                }
                Err(error) => error,
            };
            let is_final = matches!(error.advice(), Advice::Fatal);
            let why = error.into_text();
            if is_final {
                self.end(&alert, Some(&self.dropped));
                return warn!("an alert was dropped, because {} refused it ({why}): {}", self.receiver, alert.summary);
            }
            self.end(&alert, None);
            if attempt == 1 {
                warn!("an alert could not be sent to {}, retrying: {why}", self.receiver);
            }
            attempt = attempt.saturating_add(1);
            if is_stopping(stop) {
                tokio::time::sleep(LAST_RETRY).await;
            } else {
                first(tokio::time::sleep(wait), async { _ = stop.changed().await }).await;
            }
            wait = (wait * 2).min(MAX_RETRY);
        }
    }

    async fn attempt(&self, alert: ServiceAlert) -> Result<()> {
        match panic::catch_within(ATTEMPT_TIMEOUT, (self.send)(alert)).await {
            Some(Caught::Returned(sent)) => sent,
            Some(Caught::Panicked(message)) => Err(Error::msg(format!("it panicked: {message}"))),
            None => Err(Error::msg(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()))),
        }
    }
}

/// Whether the end is requested, or the registry was dropped.
pub(crate) fn is_stopping(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::admin::alerts::alert::AlertKind;

    fn alert(id: usize) -> ServiceAlert {
        ServiceAlert {
            id: id.to_string(),
            event: AlertKind::Failed,
            service_id: None,
            resource: None,
            at: SystemTime::UNIX_EPOCH,
            summary: "a test".to_owned(),
            requester_id: "tests".to_owned(),
            health: None,
        }
    }

    /// A queue whose receiver answers this, by the id of the alert and the number of the attempt, and what it got.
    fn queue(
        answer: impl Fn(&str, usize) -> Result<()> + Send + Sync + 'static,
    ) -> (Arc<Queue>, Arc<Mutex<Vec<String>>>) {
        let got: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = got.clone();
        let send = move |alert: ServiceAlert| -> BoxFuture<'static, Result<()>> {
            let mut log = log.lock();
            log.push(alert.id.clone());
            let attempt = log.iter().filter(|id| **id == alert.id).count();
            Box::pin(std::future::ready(answer(&alert.id, attempt)))
        };
        (Arc::new(Queue::new("a test".to_owned(), Box::new(send))), got)
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_alert_is_dropped_if_too_many_wait() {
        let (queue, got) = queue(|_, _| Ok(()));
        (0..MOST_WAITING + 44).for_each(|id| queue.push(alert(id)));
        assert_eq!((queue.waiting.lock().alerts.len(), queue.dropped.load(Ordering::Relaxed)), (MOST_WAITING, 44));
        let (_stop, stopping) = watch::channel(true);
        queue.deliver(stopping).await;
        assert_eq!(got.lock().first().map(String::as_str), Some("44"));
        assert_eq!(
            (queue.waiting.lock().alerts.len(), queue.delivered.load(Ordering::Relaxed)),
            (0, MOST_WAITING as u64)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_alert_is_sent_again_with_growing_waits_until_it_is_delivered_or_refused() {
        let (queue, got) = queue(|id, attempt| match (id, attempt) {
            ("1", ..9) => Err(Error::msg("not yet")),
            ("2", _) => Err(Error::fatal("never")),
            _ => Ok(()),
        });
        (1..=3).for_each(|id| queue.push(alert(id)));
        let (stop, stopping) = watch::channel(false);
        let delivering = queue.clone();
        let task = tokio::spawn(async move { delivering.deliver(stopping).await });
        // Eight waits: 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60.
        tokio::time::sleep(Duration::from_millis(182_900)).await;
        assert_eq!(got.lock().len(), 8);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(got.lock().join(" "), "1 1 1 1 1 1 1 1 1 2 3");
        assert_eq!((queue.delivered.load(Ordering::Relaxed), queue.dropped.load(Ordering::Relaxed)), (2, 1));
        drop(stop);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_alert_that_is_being_sent_is_not_dropped_for_a_new_one() {
        let send: SendAlert = Box::new(|_| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            })
        });
        let queue = Arc::new(Queue::new("a test".to_owned(), send));
        let (stop, stopping) = watch::channel(false);
        (0..MOST_WAITING).for_each(|id| queue.push(alert(id)));
        let delivering = queue.clone();
        let task = tokio::spawn(async move { delivering.deliver(stopping).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The first one is being sent; the second one is dropped.
        queue.push(alert(MOST_WAITING));
        let ids: Vec<String> = queue.waiting.lock().alerts.iter().take(2).map(|alert| alert.id.clone()).collect();
        assert_eq!(ids, ["0", "2"]);
        drop(stop);
        task.await.unwrap();
        let counts = (queue.delivered.load(Ordering::Relaxed), queue.dropped.load(Ordering::Relaxed));
        assert_eq!(counts, (MOST_WAITING as u64, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_does_not_answer_is_tried_again() {
        let send: SendAlert = Box::new(|_| Box::pin(std::future::pending()));
        let queue = Arc::new(Queue::new("a test".to_owned(), send));
        queue.push(alert(1));
        let (_stop, stopping) = watch::channel(true);
        let limited = tokio::time::timeout(Duration::from_secs(60), queue.deliver(stopping));
        assert!(limited.await.is_err());
        assert_eq!(queue.drop_rest(), 1);
        assert_eq!((queue.drop_rest(), queue.dropped.load(Ordering::Relaxed)), (0, 1));
    }
}
