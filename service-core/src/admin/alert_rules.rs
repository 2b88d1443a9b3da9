//! [`AlertRules`]: the alerting rules of a program, which follow from the options of its services and from its tables of work.
//!
//! The tricky part is the rule for a missing success. A process that was restarted knows no earlier success, and a
//! service that is paused or stopped is not expected to succeed. So the rule asks three questions: has the service been
//! working for all of the time, was it known at its beginning, and has Prometheus seen no success since?

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::admin::promql::{Selector, duration, quoted};
use crate::config::options::Options;
use crate::humanize;
use crate::observe::startup_table;
use crate::registry::service_registry::ServiceRegistry;
use crate::schedule::{CronSchedule, NEVER, Schedule, cron};

/// A success may be missing for at least this long: a server that scrapes once a minute sees three values in this time.
const LEAST: Duration = Duration::from_secs(180);
/// From here on a process may be replaced by one with another address before the time is over, so that the instances
/// count together.
const INSTANCES_CHANGE: Duration = Duration::from_secs(3_600);
/// Added to spans of days: clocks change, and runs take time.
const CLOCK_CHANGE: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// How many intervals may pass without a success.
const INTERVALS: u32 = 3;

/// The alerting rules of a program, for Prometheus, as [`alert_rules`] returns them. [`Display`](fmt::Display) writes
/// YAML.
#[derive(Clone, Debug)]
#[must_use = "the rules are written by `Display`"]
pub struct AlertRules {
    /// The id, the options, and the schedule as text.
    services: Vec<(String, Options, String)>,
    tables: Vec<String>,
    job: Option<String>,
}

/// Returns the alerting rules that follow from the options of the services and from the tables of work, as YAML for
/// Prometheus. Nothing has to run: a registry that was only built is enough.
///
/// | alert | fires when |
/// |---|---|
/// | `ServiceFailed` | a service has failed permanently |
/// | `ServiceGivenUp` | a run was given up after `max_failures`, and no run has succeeded since |
/// | `ServiceBackingOff` | a service has been failing and retrying for 15 min |
/// | `ServiceRestarting` | a service with `restart` was restarted three times within an hour |
/// | `ServiceOverdue` | a run is a minute late, for 2 min |
/// | `ServiceUnhealthy` | a service has been unhealthy for 10 min for another reason: a run that hangs, for example |
/// | `ServiceNoSuccess` | a service has had no success for three intervals, at least for 3 min; with `cron`, while three fires passed. Not with `delay` without `timeout`, nor with `cron` in certain months only |
/// | `ServiceAbsent` | no process shows a critical service (without one: the first service) for 5 min |
/// | `WorkRowsFailed` | a table of work has failed rows |
/// | `WorkRowsOld` | the oldest due row of a table of work has been due for 15 min |
///
/// Labels: `severity` is `critical` or `warning`. Annotations: `summary`, `description`, and `action`, which says what
/// to do.
///
/// ```standalone_crate
/// use service_core::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let services = ServiceRegistry::builder().build().await?;
/// let rules = service_core::admin::alert_rules(&services).job("station").to_string();
/// assert!(rules.contains("alert: ServiceFailed"));
/// # Ok(())
/// # }
/// ```
pub fn alert_rules(registry: &ServiceRegistry) -> AlertRules {
    let services = registry.inner.services.all();
    let services = services.iter().map(|service| {
        let options = service.inner.lock().snapshot().options;
        let schedule = startup_table::schedule(&options.schedule);
        (service.id().to_string(), (*options).clone(), schedule)
    });
    let store = registry.inner.extension.operator_store();
    let tables = store.into_iter().flat_map(|store| store.work_tables());
    AlertRules {
        services: services.collect(),
        tables: tables.map(|table| table.name().to_owned()).collect(),
        job: None,
    }
}

impl AlertRules {
    /// Restricts the rules to the series of one scrape job. Needed if Prometheus scrapes several programs which have
    /// services with the same ids.
    pub fn job(mut self, job: impl Into<String>) -> Self {
        self.job = Some(job.into());
        self
    }

    fn groups(&self) -> [(&'static str, Vec<Rule>); 3] {
        let all = match &self.job {
            Some(job) => Selector::default().is("job", job),
            None => Selector::default(),
        };
        let mut states = vec![failed(&all), given_up(&all), backing_off(&all), restarting(&all)];
        states.extend([overdue(&all), unhealthy(&all)]);
        let critical = self.services.iter().filter(|(_, options, _)| options.critical);
        let mut watched: Vec<&str> = critical.map(|(id, ..)| id.as_str()).collect();
        if watched.is_empty() {
            watched.extend(self.services.first().map(|(id, ..)| id.as_str()));
        }
        states.extend(watched.into_iter().map(|id| absent(&all, id)));
        let successes =
            self.services.iter().filter_map(|(id, options, schedule)| no_success(&all, id, options, schedule));
        let work = self.tables.iter().flat_map(|table| [rows_failed(&all, table), rows_old(&all, table)]);
        [("service-states", states), ("service-schedules", successes.collect()), ("work-tables", work.collect())]
    }
}

impl fmt::Display for AlertRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# The alerts of a program's services, made from their options. Make them again when options change."
        )?;
        writeln!(f, "groups:")?;
        for (name, rules) in self.groups().iter().filter(|(_, rules)| !rules.is_empty()) {
            writeln!(f, "  - name: {name}\n    rules:")?;
            rules.iter().try_for_each(|rule| rule.fmt(f))?;
        }
        Ok(())
    }
}

/// One alerting rule. Its texts are templates of Prometheus.
struct Rule {
    alert: &'static str,
    /// Its lines have no control characters: the texts in it are quoted.
    expr: String,
    /// How long the expression has to be true.
    hold: Option<&'static str>,
    severity: &'static str,
    /// For rules with the same name: the label that makes the difference, and its value.
    of: Option<(&'static str, String)>,
    summary: &'static str,
    description: String,
    action: &'static str,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "      - alert: {}\n        expr: |-", self.alert)?;
        for line in self.expr.lines() {
            writeln!(f, "          {line}")?;
        }
        if let Some(hold) = self.hold {
            writeln!(f, "        for: {hold}")?;
        }
        writeln!(f, "        labels:\n          severity: {}", self.severity)?;
        if let Some((label, value)) = &self.of {
            writeln!(f, "          {label}: {}", quoted(value))?;
        }
        writeln!(f, "        annotations:")?;
        let texts = [("summary", self.summary), ("description", &self.description), ("action", self.action)];
        texts.iter().try_for_each(|(key, text)| writeln!(f, "          {key}: {}", quoted(text)))
    }
}

const CRITICAL: &str = "critical";
const WARNING: &str = "warning";

fn failed(all: &Selector) -> Rule {
    Rule {
        alert: "ServiceFailed",
        expr: format!("{} == 1", all.is("state", "failed").of("service_state")),
        hold: None,
        severity: CRITICAL,
        of: None,
        summary: "Service {{ $labels.service }} has failed permanently",
        description: "Service {{ $labels.service }} on {{ $labels.instance }} makes no more runs: its retries are used up, or its \
                      error was permanent. Its page on the dashboard shows the error."
            .to_owned(),
        action: "Remove the cause, then reset the service: on the dashboard, or with POST /services/{{ $labels.service }}/reset.",
    }
}

/// Nothing follows in a service that was stopped, and another alert reports one that has failed.
fn waits_after_giving_up(all: &Selector) -> String {
    format!(
        "{} == 1\nunless ignoring (state) {} == 1",
        all.of("service_given_up"),
        all.matches("state", "stopped|failed").of("service_state")
    )
}

fn given_up(all: &Selector) -> Rule {
    Rule {
        alert: "ServiceGivenUp",
        expr: waits_after_giving_up(all),
        hold: None,
        severity: WARNING,
        of: None,
        summary: "Service {{ $labels.service }} gave up a run",
        description: "A run of service {{ $labels.service }} on {{ $labels.instance }} was given up after its retries, and no run has \
                      succeeded since. The service waits for its next regular run."
            .to_owned(),
        action: "Remove the cause. To repeat the run now, use POST /services/{{ $labels.service }}/run.",
    }
}

fn backing_off(all: &Selector) -> Rule {
    Rule {
        alert: "ServiceBackingOff",
        expr: format!(
            "{} > 0\nand {} == 1\nunless {} == 1",
            all.of("service_consecutive_failures"),
            all.of("service_active"),
            all.of("service_given_up")
        ),
        hold: Some("15m"),
        severity: WARNING,
        of: None,
        summary: "Service {{ $labels.service }} has been failing and retrying for 15 minutes",
        description: "Service {{ $labels.service }} on {{ $labels.instance }} has failed {{ $value }} times in a row, and still retries. \
                      Its page on the dashboard shows the error and the next attempt."
            .to_owned(),
        action: "Remove the cause; then the next retry succeeds. To retry at once: POST /services/{{ $labels.service }}/run.",
    }
}

fn restarting(all: &Selector) -> Rule {
    let restarts = all.of("service_restarts_total");
    Rule {
        alert: "ServiceRestarting",
        // `increase` would count more restarts than there were, if a series has few values yet.
        expr: format!("{restarts} - min_over_time({restarts}[1h]) > 2"),
        hold: None,
        severity: WARNING,
        of: None,
        summary: "Service {{ $labels.service }} is restarted again and again",
        description: "Service {{ $labels.service }} on {{ $labels.instance }} was restarted {{ $value | printf \"%.0f\" }} times within an \
                      hour: each time, its retries were used up. Its page on the dashboard shows the error."
            .to_owned(),
        action: "Remove the cause. With a smaller `max_restarts` the service fails permanently instead.",
    }
}

fn overdue(all: &Selector) -> Rule {
    let next = all.of("service_next_run_timestamp_seconds");
    Rule {
        alert: "ServiceOverdue",
        expr: format!("time() - {next} > 60\nand {} == 1", all.of("service_active")),
        hold: Some("2m"),
        severity: CRITICAL,
        of: None,
        summary: "Service {{ $labels.service }} is overdue",
        description: "The next run of service {{ $labels.service }} on {{ $labels.instance }} was due {{ $value | humanizeDuration }} \
                      ago, and has not begun. The runtime is blocked, or the limit of concurrent runs is too low."
            .to_owned(),
        action: "Look at /health/live and /services/{{ $labels.service }}. If the runtime is blocked, restart the process.",
    }
}

fn unhealthy(all: &Selector) -> Rule {
    // What other rules report.
    let known = [
        format!("ignoring (status) ({})", waits_after_giving_up(all).replace('\n', " ")),
        format!(
            "ignoring (status) ({} > 0 and {} == 1)",
            all.of("service_consecutive_failures"),
            all.of("service_active")
        ),
        format!("ignoring (status) time() - {} > 60", all.of("service_next_run_timestamp_seconds")),
        format!("ignoring (status, state) {} == 1", all.is("state", "failed").of("service_state")),
    ];
    let unhealthy = all.is("status", "unhealthy").of("service_status");
    Rule {
        alert: "ServiceUnhealthy",
        expr: known.iter().fold(format!("{unhealthy} == 1"), |expr, known| format!("{expr}\nunless {known}")),
        hold: Some("10m"),
        severity: WARNING,
        of: None,
        summary: "Service {{ $labels.service }} is unhealthy",
        description: "Service {{ $labels.service }} on {{ $labels.instance }} has not done its work for 10 minutes: its run or its start \
                      hangs, or it stopped itself after a failure. /services/{{ $labels.service }} shows the reason."
            .to_owned(),
        action: "Look at the reason. `timeout` limits a run that hangs.",
    }
}

fn absent(all: &Selector, id: &str) -> Rule {
    Rule {
        alert: "ServiceAbsent",
        expr: format!("absent({})", all.is("service", id).of("service_active")),
        hold: Some("5m"),
        severity: CRITICAL,
        of: Some(("service", id.to_owned())),
        summary: "Service {{ $labels.service }} is missing in the metrics",
        description: "Prometheus has not seen service {{ $labels.service }} for 5 minutes: its program does not run, or it is not \
                      scraped. Without its metrics, no other alert of the program can fire."
            .to_owned(),
        action: "Look at the targets of Prometheus, then at the process and its log.",
    }
}

fn no_success(all: &Selector, id: &str, options: &Options, schedule: &str) -> Option<Rule> {
    let limit = success_limit(options)?;
    let (window, seconds) = (duration(limit), limit.as_secs());
    let of = |metric: &str| all.is("service", id).of(metric);
    let (active, success) = (of("service_active"), of("service_last_success_timestamp_seconds"));
    // Over a long time, instances are replaced by others, and replicas take over from each other.
    let is_joint = limit > INSTANCES_CHANGE || options.lease.is_some();
    let of_all = |expr: String| if is_joint { format!("max without (instance, pod) ({expr})") } else { expr };
    let always_active = match is_joint {
        true => format!("min_over_time(({})[{window}:{}])", of_all(active.clone()), duration(resolution(limit))),
        false => format!("min_over_time({active}[{window}])"),
    };
    let mut expr = format!(
        "{} == 1\nand {always_active} == 1\nand {} == 1\nunless {} >= time() - {seconds}",
        of_all(active.clone()),
        of_all(format!("{active} offset {window}")),
        of_all(format!("max_over_time({success}[{window}])")),
    );
    if let Schedule::Interval(time) | Schedule::Delay(time) = &options.schedule {
        // An operator, or the service itself, may have made it longer for a while.
        let longest = of_all(format!("max_over_time({}[{window}])", of("service_interval_seconds")));
        expr = format!("{expr}\nunless {longest} > {}", time.as_secs_f64());
    }
    let what = match options.schedule {
        Schedule::Cron(_) => "the time of three fires",
        _ => "three intervals",
    };
    Some(Rule {
        alert: "ServiceNoSuccess",
        expr,
        hold: None,
        severity: if options.critical { CRITICAL } else { WARNING },
        of: Some(("service", id.to_owned())),
        summary: "Service {{ $labels.service }} has had no success for three intervals",
        description: format!(
            "Service {{{{ $labels.service }}}} ({schedule}) has had no success for {}, which is at least {what}. In this time it was \
             running and not paused.",
            humanize::long(limit)
        ),
        action: "Look at /services/{{ $labels.service }} and its last runs: they fail, hang, or do not begin.",
    })
}

/// How often Prometheus reads a window of this length: at most 1,000 times.
fn resolution(window: Duration) -> Duration {
    let minutes = window.as_secs().div_ceil(60_000).max(1);
    Duration::from_secs(minutes * 60)
}

fn rows_failed(all: &Selector, table: &str) -> Rule {
    let rows = all.is("table", table).is("state", "failed").of("service_work_rows");
    Rule {
        alert: "WorkRowsFailed",
        expr: format!("max without (instance, pod) ({rows}) > 0"),
        hold: None,
        severity: WARNING,
        of: Some(("table", table.to_owned())),
        summary: "Failed rows in {{ $labels.table }}: {{ $value }}",
        description: "The table of work {{ $labels.table }} has {{ $value }} failed rows (counted up to 10,000), which are not tried \
                      again. The page of the tables of work shows their errors."
            .to_owned(),
        action: "Remove the cause, then retry the rows: on the dashboard, or with POST /work/{{ $labels.table }}/retry.",
    }
}

fn rows_old(all: &Selector, table: &str) -> Rule {
    let oldest = all.is("table", table).of("service_work_oldest_due_seconds");
    Rule {
        alert: "WorkRowsOld",
        expr: format!("max without (instance, pod) ({oldest}) > 900"),
        hold: None,
        severity: WARNING,
        of: Some(("table", table.to_owned())),
        summary: "A row of {{ $labels.table }} has been due for {{ $value | humanizeDuration }}",
        description: "The oldest due row of the table of work {{ $labels.table }} has been due for {{ $value | humanizeDuration }}: the \
                      service that works on it does not run, or is too slow."
            .to_owned(),
        action: "Look at the service that works on the table. More instances of it, or a higher concurrency, make it faster.",
    }
}

/// Returns how long a success may be missing; `None` if no schedule says when to expect one.
fn success_limit(options: &Options) -> Option<Duration> {
    let run = options.timeout.unwrap_or_default();
    let more = options.jitter.saturating_add(run);
    let limit = match &options.schedule {
        Schedule::Interval(every) => every.saturating_mul(INTERVALS).saturating_add(more),
        // Without a timeout, a run may take any time.
        Schedule::Delay(_) if options.timeout.is_none() => return None,
        Schedule::Delay(wait) => wait.saturating_add(more).saturating_mul(INTERVALS),
        Schedule::Cron(cron) => cron_span(cron)?.saturating_add(more),
        Schedule::OnDemand | Schedule::LongRun(_) => return None,
    };
    let limit = limit.saturating_add(options.initial_delay).clamp(LEAST, NEVER);
    let limit = if limit >= DAY { limit + CLOCK_CHANGE } else { limit };
    // Whole seconds are enough.
    Some(Duration::from_secs(limit.as_secs_f64().ceil() as u64))
}

/// Returns the longest time from a fire to the third one after it. It depends on the schedule only, not on the day.
/// `None` if the schedule has certain months only: outside of them, no success is expected.
fn cron_span(schedule: &CronSchedule) -> Option<Duration> {
    /// A Monday, the first day of a year: 2024-01-01.
    const FROM: Duration = Duration::from_secs(1_704_067_200);
    const DAYS: u32 = 40;
    /// Months and years differ in their last days.
    const DAYS_OF_MONTH: u32 = 4 * 366;
    const MOST_FIRES: usize = 10_000;
    // Fires within a minute count as one, so that a week of them can be looked at.
    const TOGETHER: Duration = Duration::from_secs(59);
    // The last field but one. A name, such as `@daily`, has every month or is once a year.
    let every = |field: &str| matches!(field, "*" | "?");
    let mut fields = schedule.expression.split_whitespace().rev().skip(1);
    if fields.next().is_some_and(|months| !every(months)) {
        return None;
    }
    let days = if fields.next().is_some_and(|days| !every(days)) { DAYS_OF_MONTH } else { DAYS };
    let from = SystemTime::UNIX_EPOCH + FROM;
    let until = from + DAY * days;
    let mut fires = Vec::new();
    let mut after = from;
    while let Some(fire) = cron::next(schedule, after) {
        fires.push(fire);
        after = fire + TOGETHER;
        let has_enough = fires.len() > INTERVALS as usize && fire > until;
        if has_enough || fires.len() == MOST_FIRES {
            break;
        }
    }
    let spans = fires.windows(INTERVALS as usize + 1).filter_map(|span| span.last()?.duration_since(span[0]).ok());
    spans.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_of(change: impl FnOnce(&mut Options)) -> Option<u64> {
        let mut options = Options::default();
        change(&mut options);
        success_limit(&options).map(|limit| limit.as_secs())
    }

    #[test]
    fn the_limit_for_a_success_follows_from_the_schedule() {
        let seconds = Duration::from_secs;
        assert_eq!(limit_of(|_| ()), Some(180));
        // A server that scrapes once a minute has to see several values.
        assert_eq!(limit_of(|options| options.schedule = Schedule::Interval(Duration::from_millis(100))), Some(180));
        let slow = |options: &mut Options| {
            options.schedule = Schedule::Interval(seconds(600));
            (options.jitter, options.timeout) = (seconds(30), Some(seconds(120)));
            options.initial_delay = seconds(60);
        };
        assert_eq!(limit_of(slow), Some(1_800 + 30 + 120 + 60));
        let delayed = |options: &mut Options| {
            options.schedule = Schedule::Delay(seconds(600));
            options.timeout = Some(seconds(10));
        };
        assert_eq!(limit_of(delayed), Some(1_830));
        // A run may take any time.
        assert_eq!(limit_of(|options| options.schedule = Schedule::Delay(seconds(600))), None);
        assert_eq!(limit_of(|options| options.schedule = Schedule::OnDemand), None);
        assert_eq!(limit_of(|options| options.schedule = Schedule::LongRun(Default::default())), None);
    }

    #[cfg(feature = "cron")]
    #[test]
    fn the_limit_of_a_cron_schedule_is_its_longest_time_of_three_fires() {
        const HOUR: u64 = 3_600;
        let cron = |expression: &str| {
            let (expression, timezone) = (expression.into(), "UTC".into());
            Schedule::Cron(CronSchedule { expression, timezone, catch_up: Default::default() })
        };
        for (expression, limit) in [
            ("*/5 * * * *", 900),
            ("* * * * * *", 180),
            ("0 3 * * *", 73 * HOUR),
            // Thursday, Friday, Monday, Tuesday.
            ("0 3 * * 1-5", (5 * 24 + 1) * HOUR),
            // From 17:40 to 9:40 of the next day.
            ("*/20 9-17 * * *", 16 * HOUR),
            // July, August and September.
            ("0 0 1 * *", (92 * 24 + 1) * HOUR),
            // From 31 January to 29, 30 and 31 March.
            ("0 3 29-31 * *", (59 * 24 + 1) * HOUR),
        ] {
            assert_eq!(limit_of(|options| options.schedule = cron(expression)), Some(limit), "{expression}");
        }
        // Outside of the season, no success is expected.
        for expression in ["0 3 * 3 *", "0 6 * 6-8 *", "0 3 * 1-6 *", "* * * 6-8 *", "0 0 3 1 */3 ?", "0 3 * jan 1"] {
            assert_eq!(limit_of(|options| options.schedule = cron(expression)), None, "{expression}");
        }
    }
}
