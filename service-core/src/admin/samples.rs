//! [`WorkSamples`]: the last counts of the tables of work.
//!
//! Counting reads many rows, so no request counts: a task counts every 30 s, from the first request of them on, and each count ends at
//! 10,000.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::rfc3339;
use crate::runtime::operator_store::{WorkCounts, WorkTable};
use crate::service::error::Error;

/// Time between two counts.
const SAMPLE_EVERY: Duration = Duration::from_secs(30);
/// How long the count of one table may take.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Where a count ends.
pub(crate) const CAP: u64 = 10_000;

/// The last counts, by table.
#[derive(Default)]
pub(crate) struct WorkSamples {
    by_table: Mutex<BTreeMap<String, Sample>>,
    sampling: AtomicBool,
}

/// The last counts of one table.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    pub(crate) counts: Option<WorkCounts>,
    /// When they were counted.
    #[serde(serialize_with = "rfc3339::optional::serialize")]
    pub(crate) sampled_at: Option<SystemTime>,
    /// Why the rows could not be counted the last time.
    pub(crate) error: Option<String>,
}

impl WorkSamples {
    /// Returns the last counts of every table.
    pub(crate) fn current(&self) -> BTreeMap<String, Sample> {
        self.lock().clone()
    }

    /// Starts the task that counts, on the runtime of the services, unless it runs already.
    pub(crate) fn keep_sampling(self: &Arc<Self>, registry: &ServiceRegistry) {
        let Some(store) = registry.inner.extension.operator_store() else { return };
        let tables = store.work_tables();
        if tables.is_empty() || self.sampling.load(Ordering::SeqCst) {
            return;
        }
        // Before the first start, a request must not decide where the services run.
        let Some(runtime) = registry.inner.home.current() else { return };
        if self.sampling.swap(true, Ordering::SeqCst) {
            return;
        }
        let sampling = Sampling(self.clone());
        let registry: std::sync::Weak<RegistryInner> = Arc::downgrade(&registry.inner);
        runtime.spawn(async move {
            while let Some(inner) = registry.upgrade() {
                let clock = &inner.services.shared.clock;
                for table in &tables {
                    sampling.0.sample(&**table, clock.wall_now()).await;
                }
                drop(inner);
                tokio::time::sleep(SAMPLE_EVERY).await;
            }
        });
    }

    /// Counts the rows of one table.
    pub(crate) async fn sample(&self, table: &dyn WorkTable, now: SystemTime) {
        let counted = match tokio::time::timeout(SAMPLE_TIMEOUT, table.count(CAP)).await {
            Ok(counted) => counted,
            Err(_) => Err(Error::msg("the count took too long")),
        };
        let mut by_table = self.lock();
        let sample = by_table.entry(table.name().to_owned()).or_default();
        match counted {
            Ok(counts) => *sample = Sample { counts: Some(counts), sampled_at: Some(now), error: None },
            // The last counts stay, with their time.
            Err(error) => sample.error = Some(format!("{error:#}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sample>> {
        self.by_table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by the task. If its runtime ends, the next request starts a new task.
struct Sampling(Arc<WorkSamples>);

impl Drop for Sampling {
    fn drop(&mut self) {
        self.0.sampling.store(false, Ordering::SeqCst);
    }
}
