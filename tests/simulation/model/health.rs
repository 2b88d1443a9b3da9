//! The health that a service must have, computed from the trace.

use std::time::{Duration, SystemTime};

use service_core::prelude::*;
use service_core::{HealthStatus, ServiceHealth};

use super::{Checked, Model, must};
use crate::trace::Ms;

impl Model {
    /// Compares a service's health with the trace. With `settled`, it also compares the status, of services that have
    /// only waited for a while.
    pub(crate) fn compare(
        &self,
        service: usize,
        now: Ms,
        health: Option<&ServiceHealth>,
        wall: SystemTime,
        settled: bool,
    ) -> Checked {
        let one = &self.services[service];
        let (true, Some(health)) = (one.registered, health) else {
            must!(one.registered == health.is_some(), "the registry has it: {}", health.is_some());
            return Ok(());
        };
        macro_rules! same {
            ($field:ident, $expected:expr) => {
                let expected = $expected;
                must!(
                    health.$field == expected,
                    concat!("`", stringify!($field), "` of the health is {:?}, and must be {:?}"),
                    health.$field,
                    expected
                );
            };
        }
        same!(state, one.state);
        same!(running, one.state.is_running());
        same!(paused, one.paused);
        // The count begins anew at the end of an outage, with the attempt to build an instance, which is not an event,
        // and at the moment when a long run is stable.
        if !one.may_be_building() && one.stable_at() != Some(now) && !one.api_came_back_at(now) {
            same!(failures, one.failures);
            same!(last_success, one.last_success.map(|at| wall + Duration::from_millis(at)));
        }
        same!(max_failures, one.part.max_failures);
        same!(last_run, one.last_run.map(|at| wall + Duration::from_millis(at)));
        same!(last_run_duration_ms, one.last_duration);
        same!(last_error, one.last_error.clone());
        same!(total_processed, one.processed);
        same!(total_failed, one.failed_items);
        same!(error_count, one.errors);
        same!(runs, one.runs);
        same!(restarts, one.restarts);
        if !settled || !one.is_settled(now) {
            return Ok(());
        }
        let well = health.status == HealthStatus::Healthy;
        let unwell = match one.state {
            // The status depends on the reason, which `behaviour/health.rs` tests.
            ServiceState::Created | ServiceState::Stopped | ServiceState::Starting => return Ok(()),
            ServiceState::Draining => false,
            ServiceState::Running => {
                one.failures > 0 || one.since_success > 1 || one.degraded || one.given_up || one.misses_api()
            }
            _ => true,
        };
        must!(
            well != unwell,
            "its status is {:?} ({:?}), but its state is {}",
            health.status,
            health.reason,
            one.state
        );
        let unhealthy = health.status == HealthStatus::Unhealthy;
        must!(
            unhealthy <= (one.given_up || matches!(one.state, ServiceState::Failed | ServiceState::BackingOff)),
            "its status must not be unhealthy: {:?}",
            health.reason
        );
        must!(
            unhealthy || !one.given_up || one.state == ServiceState::Paused,
            "its status must be unhealthy since a run was given up: {:?}",
            health.reason
        );
        if matches!(one.state, ServiceState::Running | ServiceState::BackingOff)
            && let (Some(due), Some(next)) = (one.due(), health.next_run)
            // With a cron schedule it is the next fire, even if the run of the last fire is only about to begin.
            && !(one.is_by_cron() && due.from <= now)
        {
            let next = next.duration_since(wall).unwrap_or_default().as_nanos().div_ceil(1_000_000) as Ms;
            must!((due.from..=due.to).contains(&next), "`next_run` is {next}, and must be in {due:?}");
        }
        Ok(())
    }
}
