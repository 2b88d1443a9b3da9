//! The keys of `#[service]` and of the other layers: one declaration for each key.
//!
//! Reading the layers, the rules between keys, `explain` and suggestions all use [`KEYS`]. A new key is a field of
//! [`Options`] and an entry here. Tests then fail until the documentation, the macro and
//! [`ServiceOptions`](crate::ServiceOptions) have it, too.

use super::kinds::{Kind, Least, NONE, part};
use super::options::{DEFAULT_LEASE, Exhausted, Options, Restart};
use crate::schedule::{CatchUp, CronSchedule, LongRun, OnEnd, Readiness, Schedule, cron};
use crate::suggest;

/// One key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The values it accepts, and the part of the options that it sets.
    pub(crate) kind: Kind,
    /// The default, as it is written in the file, or [`NOT_SET`] or [`NONE`].
    #[cfg_attr(not(test), allow(dead_code, reason = "the documentation and the options are compared with it"))]
    pub(crate) default: &'static str,
    /// Its meaning, as in the documentation.
    #[cfg_attr(not(test), allow(dead_code, reason = "the documentation is compared with it"))]
    pub(crate) meaning: &'static str,
    pub(crate) rules: &'static [Rule],
    /// Its names in other libraries.
    pub(crate) synonyms: &'static [&'static str],
}

/// The default of a key that replaces another key.
#[cfg_attr(not(test), allow(dead_code, reason = "the documentation is compared with it"))]
pub(crate) const NOT_SET: &str = "–";

/// A rule about a key, apart from its kind.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// The key is a schedule. A service has one: that of the highest layer replaces those of lower layers.
    Schedule,
    /// The key has an effect only together with another key, or with one value of it.
    Needs { key: &'static str, value: Option<&'static str> },
    /// The key applies to services with `update`. For one with `run`, a value in `[defaults]` has no effect.
    Update,
    /// The key applies to services with `run`. For one with `update`, a value in `[defaults]` has no effect.
    Run,
    /// `[defaults]` cannot have the key.
    OneService,
    /// The key is for all services of a type.
    OfType,
    /// The key is read at the start of the program: a change of the file needs a restart.
    AtStart,
    /// The tables of the database cannot have the key: it is read before they are.
    NotInTables,
    /// The key needs a feature of this crate.
    Feature { name: &'static str, enabled: bool },
}

const fn key(name: &'static str, default: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning, rules: &[], synonyms: &[] }
}

impl Key {
    const fn rules(self, rules: &'static [Rule]) -> Self {
        Self { rules, ..self }
    }

    const fn synonyms(self, synonyms: &'static [&'static str]) -> Self {
        Self { synonyms, ..self }
    }
}

/// The most services of one type that `instances` can register.
const MOST_INSTANCES: u32 = 10_000;

const CRON: Rule = Rule::Feature { name: "cron", enabled: cron::IS_ENABLED };
const WITH_CRON: &[Rule] = &[Rule::Needs { key: "cron", value: None }];
const WITH_SCOPE: &[Rule] = &[Rule::Needs { key: "scope", value: Some("cluster") }, Rule::AtStart, Rule::NotInTables];
const WITH_RESTART: &[Rule] = &[Rule::Needs { key: "restart", value: Some("on_failure") }];

/// All keys, in the order of the documentation. The options are set in this order.
pub(crate) static KEYS: &[Key] = &[
    key(
        "name",
        "the name in snake_case",
        Kind::Attribute,
        "the id: `[a-z][a-z0-9_]*` without `__`, not `defaults`, unique in the binary",
    )
    .synonyms(&["id", "service_id"]),
    key(
        "interval",
        "60",
        Kind::Time(
            Least::AboveZero,
            part(
                |o| match o.schedule {
                    Schedule::Interval(time) => Some(time),
                    _ => None,
                },
                |o, v| o.schedule = Schedule::Interval(v),
            ),
        ),
        "time from start to start on a fixed grid; missed points are skipped",
    )
    .rules(&[Rule::Schedule])
    .synonyms(&["every", "period", "seconds"]),
    key(
        "delay",
        NOT_SET,
        Kind::Time(
            Least::AboveZero,
            part(
                |o| match o.schedule {
                    Schedule::Delay(time) => Some(time),
                    _ => None,
                },
                |o, v| o.schedule = Schedule::Delay(v),
            ),
        ),
        "time from end to start, instead of `interval`",
    )
    .rules(&[Rule::Schedule])
    .synonyms(&["wait", "pause"]),
    key(
        "cron",
        NOT_SET,
        Kind::Cron(part(
            |o| Some(cron(o)?.expression.clone()),
            |o, expression| {
                let (timezone, catch_up) = ("UTC".to_owned(), CatchUp::None);
                o.schedule = Schedule::Cron(CronSchedule { expression, timezone, catch_up });
            },
        )),
        "a cron schedule, instead of `interval`: 5 fields, or 6 with seconds first",
    )
    .rules(&[Rule::Schedule, CRON])
    .synonyms(&["schedule"]),
    key(
        "timezone",
        "\"UTC\"",
        Kind::TimeZone(part(
            |o| Some(cron(o)?.timezone.clone()),
            |o, name| {
                if let Schedule::Cron(cron) = &mut o.schedule {
                    cron.timezone = name;
                }
            },
        )),
        "the time zone of `cron`, by its IANA name",
    )
    .rules(WITH_CRON)
    .synonyms(&["tz", "zone"]),
    key(
        "catch_up",
        "\"none\"",
        Kind::Choice(
            &[
                ("none", |o| catch_up(o, CatchUp::None)),
                ("latest", |o| catch_up(o, CatchUp::Latest)),
                ("all", |o| catch_up(o, CatchUp::All)),
            ],
            |o| Some(cron(o)?.catch_up.word()),
        ),
        "what follows cron fires that were missed while no process ran: `none` (no run), `latest` (one run) or `all` (a run for each, at most 1,000); needs a database",
    )
    .rules(WITH_CRON)
    .synonyms(&["misfire"]),
    key(
        "on_demand",
        "false",
        Kind::Switch(part(
            |o| (o.schedule == Schedule::OnDemand).then_some(true),
            |o, v| {
                if v {
                    o.schedule = Schedule::OnDemand;
                }
            },
        )),
        "`true`: no schedule; the service runs only when it is woken or requested",
    )
    .rules(&[Rule::Schedule])
    .synonyms(&["manual", "trigger"]),
    key(
        "wake_on",
        "[]",
        Kind::Names(part(|o| update(o).map(|o| o.wake_on.clone()), |o, v| o.wake_on = v)),
        "topics whose notifications make the next run due at once, in addition to the schedule",
    )
    .rules(&[Rule::Update])
    .synonyms(&["topics", "listen"]),
    key(
        "instances",
        "1",
        Kind::CountUpTo(MOST_INSTANCES, part(|o| Some(o.instances), |o, v| o.instances = v)),
        "how many services of the type there are: `packer` for 1, else `packer_1`, `packer_2`, …; read at the start, from the \
         attribute or the section of the type",
    )
    .rules(&[Rule::OneService, Rule::OfType, Rule::AtStart])
    .synonyms(&["count", "replicas", "workers"]),
    key(
        "initial_delay",
        "0",
        Kind::Time(Least::Zero, part(|o| update(o).map(|o| o.initial_delay), |o, v| o.initial_delay = v)),
        "wait before the first run",
    )
    .rules(&[Rule::Update])
    .synonyms(&["start_delay"]),
    key(
        "jitter",
        "0",
        Kind::Time(Least::Zero, part(|o| update(o).map(|o| o.jitter), |o, v| o.jitter = v)),
        "up to this much is added at random to each scheduled wait",
    )
    .rules(&[Rule::Update]),
    key(
        "max_failures",
        "3",
        Kind::CountOrUnlimited(part(|o| Some(o.max_failures), |o, v| o.max_failures = v)),
        "consecutive failures that are retried, or `\"unlimited\"`; after one more, `exhausted` applies",
    )
    .synonyms(&["retries", "retry", "max_retries", "max_attempts"]),
    key(
        "exhausted",
        "\"fail\"",
        Kind::Choice(
            &[
                ("fail", |o| o.exhausted = Some(Exhausted::Fail)),
                ("next_run", |o| o.exhausted = Some(Exhausted::NextRun)),
            ],
            |o| update(o).map(|o| o.exhausted().word()),
        ),
        "`fail`: the service is `Failed`; `next_run` (the default with `cron` and `on_demand`): the run is given up, and the next regular run \
         starts with a count of 0",
    )
    .rules(&[Rule::Update]),
    key(
        "retry_delay",
        "5",
        Kind::Time(Least::Zero, part(|o| Some(o.retry_delay), |o, v| o.retry_delay = v)),
        "wait after a failure, before the retry",
    ),
    key(
        "retry_backoff",
        "1.0",
        Kind::Factor(part(|o| Some(o.retry_backoff), |o, v| o.retry_backoff = v)),
        "factor on that wait for each further consecutive failure",
    )
    .synonyms(&["backoff"]),
    key(
        "max_retry_delay",
        "300",
        Kind::Time(Least::Zero, part(|o| Some(o.max_retry_delay), |o, v| o.max_retry_delay = v)),
        "maximum of that wait",
    )
    .synonyms(&["max_delay", "max_backoff"]),
    key(
        "timeout",
        NONE,
        Kind::Limit(part(|o| update(o).map(|o| o.timeout), |o, v| o.timeout = v)),
        "a longer run is cancelled and counts as a failure",
    )
    .rules(&[Rule::Update]),
    key(
        "drain_timeout",
        "30",
        Kind::Time(Least::Zero, part(|o| Some(o.drain_timeout), |o, v| o.drain_timeout = v)),
        "after a stop, how long the current run may continue before it is aborted; `cleanup` has the same time",
    )
    .synonyms(&["shutdown_timeout", "grace_period"]),
    key(
        "restart",
        "\"never\"",
        Kind::Choice(
            &[("never", |o| o.restart = None), ("on_failure", |o| o.restart = Some(Restart::default()))],
            |o| Some(if o.restart.is_some() { "on_failure" } else { "never" }),
        ),
        "`on_failure`: after `Failed`, a fresh instance is started",
    ),
    key(
        "restart_delay",
        "60",
        Kind::Time(Least::Zero, part(|o| Some(o.restart?.delay), |o, v| restart(o, |r| r.delay = v))),
        "wait before such a restart",
    )
    .rules(WITH_RESTART),
    key(
        "max_restarts",
        "5",
        Kind::Count(part(|o| Some(o.restart?.max), |o, v| restart(o, |r| r.max = v))),
        "restarts within `restart_window` before the service is `Failed` permanently",
    )
    .rules(WITH_RESTART),
    key(
        "restart_window",
        "600",
        Kind::Time(Least::AboveZero, part(|o| Some(o.restart?.window), |o, v| restart(o, |r| r.window = v))),
        "the time in which restarts are counted",
    )
    .rules(WITH_RESTART),
    key(
        "critical",
        "false",
        Kind::Switch(part(|o| Some(o.critical), |o, v| o.critical = v)),
        "`true`: when the service is `Failed` permanently, the whole registry shuts down",
    ),
    key(
        "depends_on",
        "[]",
        Kind::Services(part(|o| Some(o.depends_on.clone()), |o, v| o.depends_on = v)),
        "services that are started before this one and stopped after it",
    )
    .rules(&[Rule::OneService, Rule::AtStart])
    .synonyms(&["depends", "requires", "after", "dependencies"]),
    key(
        "stop_last",
        "false",
        Kind::Switch(part(|o| Some(o.stop_last), |o, v| o.stop_last = v)),
        "`true`: the service, and the services that it depends on, are stopped after all other services",
    ),
    key(
        "needs",
        "[]",
        Kind::Names(part(|o| Some(o.needs.clone()), |o, v| o.needs = v)),
        "names of probes: while a probe fails, failures of the service do not exhaust `max_failures`, and items of its claims lose no attempt; when the probe succeeds again, the wait for a retry ends",
    )
    .synonyms(&["probes", "resources"]),
    key(
        "idle_timeout",
        NONE,
        Kind::Limit(part(|o| o.long_run().map(|long| long.idle_timeout), |o, v| long_run(o, |long| long.idle_timeout = v))),
        "a `run` that reports no progress for this long is cancelled and counts as a failure",
    )
    .rules(&[Rule::Run]),
    key(
        "on_end",
        "\"stop\"",
        Kind::Choice(
            &[
                ("stop", |o| long_run(o, |long| long.on_end = OnEnd::Stop)),
                ("again", |o| long_run(o, |long| long.on_end = OnEnd::Again)),
                ("shutdown", |o| long_run(o, |long| long.on_end = OnEnd::Shutdown)),
            ],
            |o| o.long_run().map(|long| long.on_end.word()),
        ),
        "after a `run` that returned without an error and without a stop: `stop`, run `again` after `retry_delay`, or \
         `shutdown` of the registry",
    )
    .rules(&[Rule::Run]),
    key(
        "stable_after",
        "60",
        Kind::Time(
            Least::Zero,
            part(|o| o.long_run().map(|long| long.stable_after), |o, v| long_run(o, |long| long.stable_after = v)),
        ),
        "when one `run` has lasted this long, the count of failures returns to 0",
    )
    .rules(&[Rule::Run]),
    key(
        "readiness",
        "\"built\"",
        Kind::Choice(
            &[
                ("built", |o| long_run(o, |long| long.readiness = Readiness::Built)),
                ("explicit", |o| long_run(o, |long| long.readiness = Readiness::Explicit)),
            ],
            |o| o.long_run().map(|long| long.readiness.word()),
        ),
        "when a service with `run` is ready: when its instance is `built`, or `explicit` at its first `cx.ready()`",
    )
    .rules(&[Rule::Run]),
    key("long_running", "false", Kind::Attribute, "`true`: the function is a `run`, which continues until a stop is requested")
        .synonyms(&["forever", "endless"]),
    key(
        "rate_limit",
        NONE,
        Kind::Rate(part(|o| Some(o.rate_limit), |o, v| o.rate_limit = v)),
        "`\"10/s\"`, `\"600/m\"`, `\"1000/h\"`: `cx.permit().await` waits for its turn",
    )
    .synonyms(&["limit", "rate"]),
    key(
        "enabled",
        "true",
        Kind::Switch(part(|o| Some(o.enabled), |o, v| o.enabled = v)),
        "`false`: registered, but not started",
    )
    .rules(&[Rule::AtStart])
    .synonyms(&["disabled"]),
    key("discover", "true", Kind::Attribute, "`false`: registered only by hand").synonyms(&["register"]),
    key(
        "scope",
        "\"process\"",
        Kind::Choice(
            &[("process", |o| o.lease = None), ("cluster", |o| o.lease = Some(DEFAULT_LEASE))],
            |o| Some(if o.lease.is_some() { "cluster" } else { "process" }),
        ),
        "`process`: the service runs in every process; `cluster`: on one replica at a time; needs the feature `cluster` and a \
         database",
    )
    .rules(&[Rule::AtStart, Rule::NotInTables])
    .synonyms(&["leader"]),
    key(
        "lease",
        "30",
        Kind::Time(Least::OneSecond, part(|o| o.lease, |o, v| o.lease = Some(v))),
        "with `scope = \"cluster\"`: a replica that gets no answer from the database for this long loses the service",
    )
    .rules(WITH_SCOPE)
    .synonyms(&["ttl", "lease_duration"]),
    key("crate", "::service_core", Kind::Attribute, "the path of this crate, where it is renamed or re-exported")
        .synonyms(&["krate"]),
];

fn cron(options: &Options) -> Option<&CronSchedule> {
    match &options.schedule {
        Schedule::Cron(cron) => Some(cron),
        _ => None,
    }
}

/// The options, if they are those of a service with `update`.
fn update(options: &Options) -> Option<&Options> {
    Some(options).filter(|options| options.long_run().is_none())
}

fn long_run(options: &mut Options, change: impl FnOnce(&mut LongRun)) {
    if let Schedule::LongRun(long) = &mut options.schedule {
        change(long);
    }
}

fn catch_up(options: &mut Options, catch_up: CatchUp) {
    if let Schedule::Cron(cron) = &mut options.schedule {
        cron.catch_up = catch_up;
    }
}

fn restart(options: &mut Options, change: impl FnOnce(&mut Restart)) {
    if let Some(restart) = &mut options.restart {
        change(restart);
    }
}

/// Finds the key of this name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether it is the key of an option, not a setting of the service's own.
pub(crate) fn is_option(name: &str) -> bool {
    find(name).is_some()
}

/// Whether only the attribute can have it.
pub(crate) fn is_attribute_only(name: &str) -> bool {
    find(name).is_some_and(|key| matches!(key.kind, Kind::Attribute))
}

/// The keys that every layer can set.
pub(crate) fn options() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| !matches!(key.kind, Kind::Attribute))
}

/// The key that was probably meant by an unknown one.
pub(crate) fn suggest(unknown: &str) -> Option<&'static str> {
    synonym(unknown).or_else(|| suggest::nearest(unknown, options().map(|key| key.name)))
}

/// The key that is called so elsewhere.
pub(crate) fn synonym(unknown: &str) -> Option<&'static str> {
    let lower = unknown.to_ascii_lowercase();
    options().find(|key| key.synonyms.contains(&&*lower)).map(|key| key.name)
}

impl Key {
    /// The feature that the key needs, if this program is built without it.
    pub(crate) fn missing_feature(&self) -> Option<&'static str> {
        self.rules.iter().find_map(|rule| match rule {
            Rule::Feature { name, enabled: false } => Some(*name),
            _ => None,
        })
    }

    /// Whether the key applies to a service with `run` (`is_long`) or to one with `update`.
    pub(crate) fn fits(&self, is_long: bool) -> bool {
        !self.rules.iter().any(|rule| match rule {
            Rule::Schedule | Rule::Update => is_long,
            Rule::Needs { key, .. } => !find(key).is_none_or(|key| key.fits(is_long)),
            Rule::Run => !is_long,
            Rule::OneService | Rule::OfType | Rule::AtStart | Rule::NotInTables | Rule::Feature { .. } => false,
        })
    }

    /// Whether the key is read only at the start of the program.
    pub(crate) fn is_read_at_start(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule, Rule::AtStart))
    }

    /// Returns the kind of schedule without which the key has no effect.
    pub(crate) fn needs_schedule(&self) -> Option<&'static str> {
        self.rules.iter().find_map(|rule| match rule {
            Rule::Needs { key, .. } => Some(*key).filter(|key| find(key).is_some_and(Key::is_schedule)),
            _ => None,
        })
    }

    pub(crate) fn is_schedule(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule, Rule::Schedule))
    }
}
