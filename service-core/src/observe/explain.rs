//! [`Explanation`]: the options of a service with the layer that set each, its next runs, and why it does not run now.
//!
//! The tricky part is that the supervisor cannot be asked, because it may be the part that hangs. Everything is read
//! from one copy of the state that handles and supervisor share; the next runs are computed from the schedule.

mod replicas;

pub use replicas::{ExplainedLease, ExplainedReplica};

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::{Layer, Provenance};
use crate::humanize;
use crate::observe::health::{self, HealthStatus};
use crate::observe::startup_table;
use crate::rfc3339;
use crate::runtime::clock::Clock;
use crate::runtime::extension::Extension;
use crate::runtime::labels;
use crate::runtime::registration::RegisteredService;
use crate::runtime::runtime_state::Snapshot;
use crate::runtime::services::Services;
use crate::runtime::status::{Status, WaitReason};
use crate::schedule::{Schedule, cron, later};
use crate::service::state::ServiceState;

/// How many next runs are listed.
const RUNS: usize = 5;

/// Explains one service: its options with the layer that set each, its next runs, and why it does not run now.
///
/// [`Display`](fmt::Display) writes text for a terminal; JSON is for programs. It has the keys of the service's own
/// settings and never their values.
///
/// ```no_run
/// # async fn example() -> service_core::Result<()> {
/// let services = service_core::ServiceRegistry::start_all().await?;
/// if let Some(service) = services.get("email_sender") {
///     println!("{}", service.explain());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The id of the service.
    pub service_id: String,
    /// The labels that the service was registered with.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether the service was registered as optional: its failures do not lower the status of the registry.
    #[serde(default)]
    pub optional: bool,
    /// The id of the service whose instance this one belongs to.
    #[serde(default)]
    pub parent: Option<String>,
    /// The full name of its type.
    pub type_name: String,
    /// Where it was registered: file and line of the attribute, or of the call.
    pub place: String,
    /// The requester id of the service.
    pub requester_id: String,
    /// When this explanation was made.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// The state of the service.
    pub state: ServiceState,
    /// The health status of the service.
    pub status: HealthStatus,
    /// Why the service is not healthy, or not running; as in its health.
    pub reason: Option<String>,
    /// What the service does now, or why it does not run now and what it waits for, as a sentence.
    pub now: String,
    /// The schedule as text: `every 30s`.
    pub schedule: String,
    /// The next five runs that are known now: the retry, if the service backs off, and the following runs by the
    /// schedule, without jitter. With `delay` they are estimates, from the mean duration of a run. Empty if no run is
    /// scheduled: paused, stopped, failed, disabled or starting; and for a service with `run`.
    #[serde(with = "rfc3339::list")]
    pub next_runs: Vec<SystemTime>,
    /// Every option in effect, in the order of the table of keys, with the place of its value.
    pub options: Vec<ExplainedOption>,
    /// The service's own settings that some layer has set, sorted by key.
    pub settings: Vec<ExplainedSetting>,
    /// Rows of the configuration tables that were rejected because their values are wrong, with the reason.
    pub rejected: Vec<String>,
    /// Which replica holds the lease. `None` without `scope = "cluster"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<ExplainedLease>,
    /// The replicas that have the service. Empty without `scope = "cluster"`. Each replica reads the others every 5 s;
    /// before it has read them once, only the replica that answers is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ExplainedReplica>,
}

/// An option in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExplainedOption {
    /// The key: `interval`, `max_failures` …
    pub key: String,
    /// The value. A value from a secret environment variable is `•••`.
    pub value: String,
    /// The layer that set the value.
    pub layer: Layer,
    /// The place of the value, as text: `services.toml:12`.
    pub place: String,
    /// The values of lower layers that this one overrides, highest layer first. A schedule also overrides those of the
    /// other schedule keys.
    pub hides: Vec<ExplainedOption>,
}

/// One of the service's own settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExplainedSetting {
    /// The key; nested keys are separated by dots. The value is not shown, because only the service's type declares
    /// which values are secret.
    pub key: String,
    /// The place of the value, as text: `services.toml:12`.
    pub place: String,
}

pub(crate) fn of(service: &RegisteredService, services: &Services, extension: &dyn Extension) -> Explanation {
    let inner = &service.inner;
    let (now, clock) = (Instant::now(), &inner.shared.clock);
    let snapshot = inner.lock().snapshot();
    let missing: Vec<String> = match snapshot.status.wait_reason.as_deref() {
        Some(WaitReason::Dependencies(ids)) => ids.iter().map(|id| dependency(id, services)).collect(),
        _ => Vec::new(),
    };
    let (status, reason) = health::assess(inner, &snapshot, services, extension, now);
    let resolved = &snapshot.resolved;
    let options: Vec<ExplainedOption> =
        resolved.explain(&snapshot.options).into_iter().map(ExplainedOption::from).collect();
    let setting = |(key, place)| ExplainedSetting { key, place };
    let (lease, replicas) = replicas::of(inner, extension, snapshot.state, status).unzip();
    Explanation {
        service_id: inner.id.to_string(),
        labels: inner.labels.by_key(),
        optional: inner.optional,
        parent: service.parent().map(|parent| parent.id().to_string()),
        type_name: service.descriptor.type_name().to_owned(),
        place: service.place.to_string(),
        requester_id: inner.requester_id().to_owned(),
        at: clock.wall(now),
        state: snapshot.state,
        status,
        now: doing(&snapshot, &options, &missing, reason.as_deref(), now),
        reason,
        schedule: startup_table::schedule(&snapshot.options.schedule),
        next_runs: next_runs(&snapshot, clock, now),
        options,
        settings: resolved.settings.places().into_iter().map(setting).collect(),
        rejected: resolved.rejected.iter().map(ToString::to_string).collect(),
        lease,
        replicas: replicas.unwrap_or_default(),
    }
}

/// Describes a dependency: its id and its state.
fn dependency(id: &str, services: &Services) -> String {
    match services.get(id) {
        Some(dependency) => format!("{id} ({})", dependency.inner.lock().state()),
        None => format!("{id} (not registered)"),
    }
}

impl From<Provenance> for ExplainedOption {
    fn from(set: Provenance) -> Self {
        let hides = set.shadowed.into_iter().map(Self::from).collect();
        Self { key: set.key.to_owned(), value: set.value, layer: set.layer, place: set.place, hides }
    }
}

/// Describes what the service does now, or why it does not run, in more detail than its health.
fn doing(
    snapshot: &Snapshot,
    options: &[ExplainedOption],
    missing: &[String],
    reason: Option<&str>,
    now: Instant,
) -> String {
    let reason = reason.unwrap_or_default();
    match snapshot.state {
        _ if snapshot.status.is_ending() => reason.to_owned(),
        ServiceState::Starting
            if !missing.is_empty()
                && matches!(snapshot.status.wait_reason.as_deref(), Some(WaitReason::Dependencies(_))) =>
        {
            format!("waiting for {}", missing.join(", "))
        }
        ServiceState::Created | ServiceState::Stopped if !snapshot.options.enabled => {
            let place = options.iter().find(|option| option.key == "enabled").map_or("", |option| &option.place);
            format!("{reason}: `enabled = false` ({place})")
        }
        ServiceState::Failed => format!("{reason}; no run until `reset`"),
        ServiceState::Paused => format!("{reason}; no scheduled run until `resume`"),
        ServiceState::Running
            if matches!(
                snapshot.status.wait_reason.as_deref(),
                Some(WaitReason::BlockingRun(_) | WaitReason::Turn)
            ) =>
        {
            reason.to_owned()
        }
        ServiceState::Running if snapshot.status.in_run() => health::current_run(snapshot, now),
        ServiceState::Running if let Some((_, what)) = health::configuring(snapshot, now) => what,
        ServiceState::Running => match snapshot.status.next_due.map(|due| (due, due.saturating_duration_since(now))) {
            Some((due, _)) if due < now => reason.to_owned(),
            // What is due next is a check of the clock, not the run.
            Some(_) if matches!(snapshot.options.schedule, Schedule::Cron(_)) => "waiting for the next run".to_owned(),
            Some((_, wait)) => format!("waiting for the next run, due in {}", humanize::long(wait)),
            None if snapshot.options.schedule == Schedule::OnDemand => "waiting to be woken".to_owned(),
            None => "about to run".to_owned(),
        },
        _ => reason.to_owned(),
    }
}

fn next_runs(snapshot: &Snapshot, clock: &Clock, now: Instant) -> Vec<SystemTime> {
    let scheduled = matches!(snapshot.state, ServiceState::Running | ServiceState::BackingOff);
    if !scheduled || snapshot.is_paused || snapshot.status.is_ending() {
        return Vec::new();
    }
    let retry = snapshot.status.next_due.filter(|_| snapshot.status.is_backing_off());
    let mean = health::mean_duration(snapshot).unwrap_or_default();
    let mut runs: Vec<SystemTime> = retry.into_iter().map(|at| clock.wall(at)).collect();
    let (first, step) = match &snapshot.options.schedule {
        Schedule::Interval(every) => {
            let point = snapshot.status.grid.next(*every, retry.or(snapshot.status.stats.last_started));
            // After a run longer than the interval, the next one follows at once, and the grid restarts there.
            (point.max(now), *every)
        }
        Schedule::Delay(wait) => {
            let started = if snapshot.status.in_run() { snapshot.status.stats.last_started } else { retry };
            let first = match (started, snapshot.status.stats.last_ended()) {
                (Some(started), _) => later(later(started, mean).max(now), *wait),
                (None, Some(ended)) if ended >= snapshot.status.grid.first() => later(ended, *wait),
                (None, _) => snapshot.status.grid.first(),
            };
            (first.max(now), wait.saturating_add(mean))
        }
        // None is planned.
        Schedule::OnDemand => return runs,
        // `now` says when a `run` is retried.
        Schedule::LongRun(_) => return Vec::new(),
        Schedule::Cron(cron) => {
            let (planned, after) = next_fire(&snapshot.status, retry, clock, now);
            runs.extend(planned);
            let fires = std::iter::successors(cron::next(cron, after), |fire| cron::next(cron, *fire));
            runs.extend(fires.take(RUNS - runs.len()));
            return runs;
        }
    };
    let points = std::iter::successors(Some(first), |at| Some(later(*at, step)));
    runs.extend(points.take(RUNS - runs.len()).map(|at| clock.wall(at)));
    runs
}

/// When the run of the planned fire, or of a missed one, is expected, and after which moment the other fires follow.
fn next_fire(status: &Status, retry: Option<Instant>, clock: &Clock, now: Instant) -> (Option<SystemTime>, SystemTime) {
    // The end of the current run is not known.
    if let Some(busy) = retry.or(status.in_run().then_some(now)).map(|busy| clock.wall(busy)) {
        // A woken run or its retry does not serve the fire that comes due meanwhile.
        let waits = status.next_fire.filter(|fire| fire.at <= busy);
        return (waits.map(|fire| fire.expected(clock.wall_now()).max(busy)), busy);
    }
    match (status.next_fire, status.next_due) {
        (Some(fire), _) => (Some(fire.expected(clock.wall_now())), fire.at),
        (None, Some(missed)) => {
            let at = clock.wall(missed.max(now));
            (Some(at), at)
        }
        (None, None) => (None, clock.wall(now)),
    }
}

// ── as text ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A part of an explanation as text.
pub(crate) struct Section {
    pub(crate) title: Option<&'static str>,
    /// The rows, each with its cells. There is at least one.
    pub(crate) rows: Vec<Vec<String>>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title())?;
        for Section { title, rows } in self.sections() {
            if let Some(title) = title {
                writeln!(f, "\n{title}")?;
            }
            table(f, &rows)?;
        }
        Ok(())
    }
}

impl Explanation {
    pub(crate) fn title(&self) -> String {
        format!("{}: {}, {}", self.service_id, self.state, self.status)
    }

    /// Returns the parts of the text below the title. Empty ones are left out.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let (default, set): (Vec<_>, Vec<_>) =
            self.options.iter().partition(|option| option.layer == Layer::Default && option.hides.is_empty());
        let row = |option: &&ExplainedOption| {
            let hides = option.hides.iter().map(|hidden| {
                let key = if hidden.key == option.key { String::new() } else { format!("{} = ", hidden.key) };
                format!(", instead of {key}{} ({})", hidden.value, hidden.place)
            });
            vec![option.key.clone(), option.value.clone(), option.place.clone() + &hides.collect::<String>()]
        };
        let next_run = |at: &SystemTime| {
            let wait = at.duration_since(self.at).unwrap_or_default();
            let wait = if wait.is_zero() { "now".to_owned() } else { format!("in {}", humanize::long(wait)) };
            vec![self.local_time(*at), wait]
        };
        let all = [
            Section { title: None, rows: self.facts() },
            Section { title: Some("next runs"), rows: self.next_runs.iter().map(next_run).collect() },
            Section { title: Some("options"), rows: set.iter().map(row).collect() },
            Section {
                title: Some("options by default"),
                rows: default.iter().map(|option| vec![option.key.clone(), option.value.clone()]).collect(),
            },
            Section {
                title: Some("settings"),
                rows: self.settings.iter().map(|setting| vec![setting.key.clone(), setting.place.clone()]).collect(),
            },
            Section { title: Some("rejected"), rows: self.rejected.iter().map(|why| vec![why.clone()]).collect() },
        ];
        all.into_iter().filter(|section| !section.rows.is_empty()).collect()
    }

    /// What the service is and does, each with a label.
    fn facts(&self) -> Vec<Vec<String>> {
        let reason = self.reason.as_deref().filter(|reason| !self.now.starts_with(reason));
        let labels = labels::text(&self.labels);
        let facts = [
            ("why", reason),
            ("now", Some(self.now.as_str())),
            ("schedule", Some(&self.schedule)),
            ("acts as", Some(&self.requester_id)),
            ("type", Some(&self.type_name)),
            ("from", Some(&self.place)),
            ("parent", self.parent.as_deref()),
            ("labels", Some(labels.as_str()).filter(|labels| !labels.is_empty())),
            ("optional", self.optional.then_some("its failures do not lower the status of the registry")),
            ("lease", self.lease.as_ref().map(|lease| lease.description.as_str())),
        ];
        let row = |(label, text): (&str, Option<&str>)| Some(vec![label.to_owned(), text?.to_owned()]);
        let replicas = self.replicas.iter().map(|replica| vec!["replica".to_owned(), replica.to_string()]);
        facts.into_iter().filter_map(row).chain(replicas).collect()
    }

    /// A time of the schedule as text, in the schedule's time zone.
    fn local_time(&self, at: SystemTime) -> String {
        let zone = self.options.iter().find(|option| option.key == "timezone");
        zone.and_then(|zone| cron::local_time(at, &zone.value)).unwrap_or_else(|| rfc3339::seconds(at).to_string())
    }
}

/// Writes rows with aligned columns.
fn table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    for row in rows {
        let (mut line, mut indent) = (String::new(), 0);
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let pad = width.saturating_sub(cell.chars().count());
            // An error may have several lines.
            let cell = cell.replace('\n', &format!("\n{:1$}", "", indent + 2));
            line.push_str(&format!("  {cell}{:pad$}", ""));
            indent += width + 2;
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
