//! [`WorkSamples`]: the last counts of the tables of work.
//!
//! Counting reads many rows, so no request counts: a task counts every 30 s, from the first request of them on, and
//! each count ends at 10,000. Requests wait for the first counts, until 2 s after the task has begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::rfc3339;
use crate::runtime::operator_store::{WorkCounts, WorkTable};
use crate::service::error::Error;
use crate::sync::Mutex;

/// Time between two counts.
const SAMPLE_EVERY: Duration = Duration::from_secs(30);
/// Counts that are older than this are not metrics any more: they would look like the present ones.
const OUT_OF_DATE: Duration = Duration::from_secs(90);
/// How long the count of one table may take.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(15);
/// For how long requests wait for the first counts after the task has begun.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// Where a count ends.
pub(crate) const CAP: u64 = 10_000;

/// The last counts, by table.
#[derive(Default)]
pub(crate) struct WorkSamples {
    by_table: Mutex<BTreeMap<String, Sample>>,
    /// When the task began, if it runs.
    began: Mutex<Option<Instant>>,
    /// Whether every table has been counted, or could not be counted.
    complete: watch::Sender<bool>,
}

/// The last counts of one table.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    pub(crate) counts: Option<WorkCounts>,
    /// When they were counted.
    #[serde(serialize_with = "rfc3339::optional::serialize")]
    pub(crate) sampled_at: Option<SystemTime>,
    /// Why the rows, or the failed ones, could not be counted the last time.
    pub(crate) error: Option<String>,
}

impl WorkSamples {
    /// Returns the last counts of every table.
    pub(crate) fn current(&self) -> BTreeMap<String, Sample> {
        self.by_table.lock().clone()
    }

    /// Returns the counts that are not out of date, by table.
    pub(crate) fn recent(&self, now: SystemTime) -> BTreeMap<String, WorkCounts> {
        let is_recent = |sample: &Sample| {
            sample.sampled_at.is_some_and(|at| now.duration_since(at).unwrap_or_default() <= OUT_OF_DATE)
        };
        let recent = self.current().into_iter().filter(|(_, sample)| is_recent(sample));
        recent.filter_map(|(table, sample)| Some((table, sample.counts?))).collect()
    }

    /// Starts the task that counts, on the runtime of the services, unless it runs already. Waits for the first counts.
    pub(crate) async fn keep_sampling(self: &Arc<Self>, registry: &ServiceRegistry) {
        if let Some(began) = self.start(registry) {
            self.first_counts(began).await;
        }
    }

    /// Returns when the task began; `None` if there is nothing to count, or no runtime yet.
    fn start(self: &Arc<Self>, registry: &ServiceRegistry) -> Option<Instant> {
        let tables = registry.inner.extension.operator_store()?.work_tables();
        if tables.is_empty() {
            return None;
        }
        let mut began = self.began.lock();
        if began.is_some() {
            return *began;
        }
        // Before the first start, a request must not decide where the services run.
        let runtime = registry.inner.home.current()?;
        *began = Some(Instant::now());
        let sampling = Sampling(self.clone());
        let registry: std::sync::Weak<RegistryInner> = Arc::downgrade(&registry.inner);
        let task = async move {
            while let Some(inner) = registry.upgrade() {
                let clock = &inner.services.shared.clock;
                for table in &tables {
                    sampling.0.sample(&**table, clock.wall_now()).await;
                }
                sampling.0.complete.send_replace(true);
                drop(inner);
                tokio::time::sleep(SAMPLE_EVERY).await;
            }
        };
        let since = *began;
        // If the runtime has ended, it drops the task at once, which takes this lock.
        drop(began);
        runtime.spawn(task);
        since
    }

    /// Waits until every table has been counted once, or until 2 s after the begin.
    async fn first_counts(&self, began: Instant) {
        let mut complete = self.complete.subscribe();
        // Without them, the answer says that nothing has been counted yet.
        let _ = timeout_at(began + FIRST_TIMEOUT, complete.wait_for(|complete| *complete)).await;
    }

    /// Counts the rows of one table, after a request has changed them. Waits until that is done, but not longer than
    /// for first counts.
    pub(crate) async fn sample_soon(self: &Arc<Self>, table: Arc<dyn WorkTable>, now: SystemTime) {
        let samples = self.clone();
        let sampling = tokio::spawn(async move { samples.sample(&*table, now).await });
        let _ = tokio::time::timeout(FIRST_TIMEOUT, sampling).await;
    }

    /// Counts the rows of one table.
    async fn sample(&self, table: &dyn WorkTable, now: SystemTime) {
        let counted = match tokio::time::timeout(SAMPLE_TIMEOUT, table.count(CAP)).await {
            Ok(counted) => counted,
            Err(_) => Err(Error::msg("the count took too long")),
        };
        let failed = match counted {
            Ok(_) => table.count_failed(CAP).await,
            Err(_) => Ok(0),
        };
        let mut by_table = self.by_table.lock();
        let sample = by_table.entry(table.name().to_owned()).or_default();
        match counted {
            Ok(counts) => {
                let error = failed.as_ref().err().map(|error| format!("{error:#}"));
                // The last count stays: without it, an alert about failed rows would end.
                let failed = failed.ok().or(sample.counts.and_then(|last| last.failed));
                let counts = WorkCounts { failed, ..counts };
                *sample = Sample { counts: Some(counts), sampled_at: Some(now), error };
            }
            // The last counts stay, with their time.
            Err(error) => sample.error = Some(format!("{error:#}")),
        }
    }
}

/// Held by the task. If its runtime ends, the next request starts a new task.
struct Sampling(Arc<WorkSamples>);

impl Drop for Sampling {
    fn drop(&mut self) {
        *self.0.began.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::lifecycle::BoxFuture;
    use crate::runtime::operator_store::{FailedRow, Retried};
    use crate::service::error::Result;

    #[test]
    fn counts_are_no_metrics_any_more_when_they_are_older_than_ninety_seconds() {
        let (samples, counted) = (WorkSamples::default(), SystemTime::UNIX_EPOCH);
        let counts = WorkCounts { pending: 3, due: 1, in_flight: 0, failed: None, oldest_due_seconds: None };
        let sample = Sample { counts: Some(counts), sampled_at: Some(counted), error: Some("no answer".to_owned()) };
        samples.by_table.lock().insert("parcel".to_owned(), sample);
        let is_shown = |after: u64| samples.recent(counted + Duration::from_secs(after)).contains_key("parcel");
        assert_eq!((is_shown(0), is_shown(90), is_shown(91)), (true, true, false));
        assert!(samples.current().contains_key("parcel"), "the pages show it, with its time");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_first_counts_until_two_seconds_after_the_begin() {
        let samples = Arc::new(WorkSamples::default());
        let began = Instant::now();
        samples.first_counts(began).await;
        assert_eq!(began.elapsed(), FIRST_TIMEOUT);
        samples.first_counts(began).await;
        assert_eq!(began.elapsed(), FIRST_TIMEOUT, "a later request does not wait again");
        let (later, waiting) = (Instant::now(), samples.clone());
        let waiting = tokio::spawn(async move { waiting.first_counts(later).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        samples.complete.send_replace(true);
        waiting.await.unwrap();
        assert_eq!(later.elapsed(), Duration::from_millis(100));
        samples.first_counts(Instant::now()).await;
        assert_eq!(later.elapsed(), Duration::from_millis(100));
    }

    /// Counts of failed rows, which are taken one after the other.
    #[derive(Debug)]
    struct Counted(Mutex<Vec<Result<u64>>>);

    impl WorkTable for Counted {
        fn name(&self) -> &str {
            "parcel"
        }

        fn count(&self, _cap: u64) -> BoxFuture<'_, Result<WorkCounts>> {
            Box::pin(async { Ok(WorkCounts { pending: 3, ..WorkCounts::default() }) })
        }

        fn count_failed(&self, _cap: u64) -> BoxFuture<'_, Result<u64>> {
            Box::pin(async { self.0.lock().remove(0) })
        }

        fn failed(&self, _offset: u64, _limit: u64) -> BoxFuture<'_, Result<Vec<FailedRow>>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn key_columns(&self) -> usize {
            1
        }

        fn retry<'a>(&'a self, _keys: Option<&'a [Vec<String>]>) -> BoxFuture<'a, Retried> {
            Box::pin(async { Retried { rows: 0, result: Ok(()) } })
        }
    }

    #[tokio::test]
    async fn the_last_count_of_failed_rows_stays_if_a_count_fails() {
        let samples = WorkSamples::default();
        let slow = || Err(Error::msg("it took too long"));
        let table = Counted(Mutex::new(vec![slow(), Ok(7), slow(), slow(), Ok(0)]));
        for (failed, fails) in [(None, true), (Some(7), false), (Some(7), true), (Some(7), true), (Some(0), false)] {
            samples.sample(&table, SystemTime::UNIX_EPOCH).await;
            let sample = samples.current().remove("parcel").unwrap();
            let counts = sample.counts.unwrap();
            assert_eq!((counts.pending, counts.failed, sample.error.is_some()), (3, failed, fails));
        }
    }
}
