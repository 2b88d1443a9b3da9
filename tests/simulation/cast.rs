//! The services of one simulation: fifty, with options and behaviour chosen by random numbers from the seed.

use std::time::Duration;

use fastrand::Rng;
use service_core::SettingValue;

use crate::fires::{self, CRONS, Fires, ZONES};
use crate::trace::Ms;

pub(crate) const SERVICES: usize = 50;
/// The last services are instances of one registration.
pub(crate) const FIRST_INSTANCE: usize = SERVICES - INSTANCES;
pub(crate) const INSTANCES: usize = 4;
pub(crate) const SECOND: Ms = 1000;
pub(crate) const MINUTE: Ms = 60 * SECOND;
pub(crate) const HOUR: Ms = 60 * MINUTE;
/// The probe that some services need.
pub(crate) const API: &str = "api";
pub(crate) const TOPICS: [&str; 4] = ["orders", "mails", "files", "users"];

/// The source of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Configure,
    Closure,
    ReadyMade,
}

/// The schedule of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    Interval(Ms),
    Delay(Ms),
    /// One of `CRONS`, in one of `ZONES`. The service's `fires` has the times.
    Cron(usize, usize),
    /// Only wake-ups and requests make a run due.
    OnDemand,
    /// Its `run` continues until a stop is requested.
    Long,
}

/// What follows the end of a long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnEnd {
    Stop,
    Again,
    Shutdown,
}

/// The options of a service with `run`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Long {
    pub(crate) on_end: OnEnd,
    pub(crate) idle: Option<Ms>,
    pub(crate) stable: Ms,
    /// It is ready at its first `cx.ready()`, and not when its instance has been built.
    pub(crate) explicit: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    pub(crate) delay: Ms,
    pub(crate) max: usize,
    pub(crate) window: Ms,
}

/// One service: its options, and how it behaves.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) id: String,
    pub(crate) origin: Origin,
    pub(crate) schedule: Schedule,
    /// All times at which its cron schedule fires.
    pub(crate) fires: Fires,
    /// Its `update` is blocking code.
    pub(crate) blocking: bool,
    pub(crate) long: Option<Long>,
    pub(crate) initial_delay: Ms,
    pub(crate) jitter: Ms,
    /// `None`: unlimited.
    pub(crate) max_failures: Option<u32>,
    /// Whether the limit gives the run up. `None`: the default of the schedule.
    pub(crate) gives_up: Option<bool>,
    /// A notification of one of these topics wakes it.
    pub(crate) wake_on: Vec<usize>,
    pub(crate) retry_delay: Ms,
    pub(crate) backoff: f64,
    pub(crate) max_retry_delay: Ms,
    pub(crate) timeout: Option<Ms>,
    pub(crate) drain: Ms,
    pub(crate) restart: Option<Restart>,
    pub(crate) critical: bool,
    pub(crate) stop_last: bool,
    pub(crate) depends_on: Vec<usize>,
    /// It needs the API, which a probe checks.
    pub(crate) needs_api: bool,
    /// The number of permits and the length of the period.
    pub(crate) rate: Option<(usize, Ms)>,
    pub(crate) enabled: bool,
    /// The longest usual duration of a run.
    pub(crate) takes: Ms,
    /// The percentage of runs that fail on a bad day.
    pub(crate) trouble: u32,
    /// Its `on_failure` may differ from the default.
    pub(crate) decides: bool,
    /// Its `configure` is sometimes slow, fails or hangs.
    pub(crate) hard_to_build: bool,
    /// Its `cleanup` is sometimes slow, fails or hangs.
    pub(crate) untidy: bool,
}

/// `start` is the begin of the month, in seconds since 1970.
pub(crate) fn cast(rng: &mut Rng, start: i64, days: u64) -> Vec<Part> {
    (0..SERVICES).map(|index| part(index, rng, start, days)).collect()
}

/// Returns the id of a service.
pub(crate) fn id(index: usize) -> String {
    match index.checked_sub(FIRST_INSTANCE) {
        None => format!("s{index:02}"),
        Some(number) => format!("s{FIRST_INSTANCE}_{}", number + 1),
    }
}

/// Returns the service with this id.
pub(crate) fn index(id: &str) -> Option<usize> {
    let (first, number) = id.strip_prefix('s')?.split_once('_').unwrap_or((&id[1..], "1"));
    Some(first.parse::<usize>().ok()? + number.parse::<usize>().ok()? - 1)
}

fn part(index: usize, rng: &mut Rng, start: i64, days: u64) -> Part {
    let period = period(index, rng);
    let chance = |rng: &mut Rng, percent: u32| rng.u32(0..100) < percent;
    let is_instance = index >= FIRST_INSTANCE;
    let origin = match rng.u32(0..10) {
        _ if is_instance => Origin::Configure,
        0 => Origin::ReadyMade,
        1..4 => Origin::Closure,
        _ => Origin::Configure,
    };
    let retry_delay = *pick(rng, &[SECOND, 5 * SECOND, 5 * SECOND, 30 * SECOND, 2 * MINUTE]);
    let restart = (origin != Origin::ReadyMade && chance(rng, 40)).then(|| Restart {
        delay: *pick(rng, &[SECOND, 10 * SECOND, MINUTE, 5 * MINUTE]),
        max: rng.usize(1..5),
        window: *pick(rng, &[MINUTE, 10 * MINUTE, HOUR, 12 * HOUR]),
    });
    let depends_on = if index >= 5 && chance(rng, 30) {
        let mut on: Vec<usize> = (0..rng.usize(1..4)).map(|_| rng.usize(0..index)).collect();
        on.sort_unstable();
        on.dedup();
        on
    } else {
        Vec::new()
    };
    let (schedule, fires) = match rng.u32(0..100) {
        0..25 => (Schedule::Delay(period), Fires::default()),
        25..33 => {
            let (cron, zone) = (rng.usize(0..CRONS.len()), rng.usize(0..ZONES.len()));
            // Ten days more, so that there is a next fire until the end of the last shutdown.
            (Schedule::Cron(cron, zone), fires::all(cron, ZONES[zone], start, days + 10))
        }
        33..41 => (Schedule::OnDemand, Fires::default()),
        41..53 if !is_instance => (Schedule::Long, Fires::default()),
        _ => (Schedule::Interval(period), Fires::default()),
    };
    let wake_on = match schedule {
        Schedule::OnDemand => vec![rng.usize(0..TOPICS.len())],
        Schedule::Long => Vec::new(),
        _ if chance(rng, 15) => vec![0, rng.usize(1..TOPICS.len())],
        _ => Vec::new(),
    };
    let long = (schedule == Schedule::Long).then(|| Long {
        on_end: match rng.u32(0..40) {
            0 if index == 9 => OnEnd::Shutdown,
            0..10 => OnEnd::Stop,
            _ => OnEnd::Again,
        },
        idle: chance(rng, 70).then(|| *pick(rng, &[30 * SECOND, 2 * MINUTE, 10 * MINUTE])),
        stable: *pick(rng, &[SECOND, MINUTE, MINUTE, HOUR]),
        explicit: chance(rng, 40),
    });
    let is_long = long.is_some();
    let jitter = if chance(rng, 25) { rng.u64(1..=period / 4) } else { 0 };
    let blocking = !is_long && !is_instance && chance(rng, 12);
    let short = |rng: &mut Rng| *pick(rng, &[5, 20, 20, 60]);
    Part {
        id: id(index),
        origin,
        schedule,
        // Less than the time between two fires.
        jitter: match schedule {
            Schedule::Cron(..) => jitter.min(5 * MINUTE),
            Schedule::Long => 0,
            _ => jitter,
        },
        fires,
        blocking,
        long,
        initial_delay: if !is_long && chance(rng, 25) { rng.u64(0..2 * HOUR) } else { 0 },
        max_failures: *pick(rng, &[Some(0), Some(1), Some(2), Some(3), Some(3), Some(5), None]),
        gives_up: if is_long { None } else { *pick(rng, &[None, None, Some(true), Some(false)]) },
        wake_on,
        retry_delay,
        backoff: *pick(rng, &[1.0, 1.0, 1.5, 2.0]),
        max_retry_delay: *pick(rng, &[MINUTE, 5 * MINUTE, 5 * MINUTE, HOUR]),
        timeout: (!is_long && chance(rng, 50))
            .then(|| if blocking { short(rng) } else { *pick(rng, &[2 * SECOND, 20 * SECOND, 2 * MINUTE]) }),
        drain: if blocking { short(rng) } else { *pick(rng, &[SECOND, 5 * SECOND, 30 * SECOND, 30 * SECOND]) },
        restart,
        critical: index == 7 && chance(rng, 50),
        stop_last: chance(rng, 10),
        depends_on,
        rate: (!blocking && !is_long && chance(rng, 15)).then(|| *pick(rng, &[(1, SECOND), (3, MINUTE), (10, MINUTE)])),
        enabled: !chance(rng, 4),
        takes: *pick(rng, &[0, 0, 20, 2 * SECOND, 30 * SECOND, period / 2, period + period / 4]),
        trouble: *pick(rng, &[30, 60, 90]),
        decides: chance(rng, 30),
        needs_api: chance(rng, 25),
        hard_to_build: origin != Origin::ReadyMade && chance(rng, 30),
        untidy: chance(rng, 30),
    }
}

/// One minute to six hours. Most periods are long, so that a month is simulated quickly.
fn period(index: usize, rng: &mut Rng) -> Ms {
    if index == 0 {
        return *pick(rng, &[MINUTE, 5 * MINUTE, 5 * MINUTE, 5 * MINUTE]);
    }
    let minutes = *pick(rng, &[10, 20, 30, 45, 60, 60, 90, 120, 120, 180, 240, 360, 360]);
    match rng.u32(0..5) {
        0 => minutes * MINUTE + rng.u64(0..10 * MINUTE),
        _ => minutes * MINUTE,
    }
}

pub(crate) fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.usize(0..choices.len())]
}

impl Part {
    /// The options of the service, as keys and values for the builder's `set`.
    pub(crate) fn settings(&self, cast: &[Part]) -> Vec<(String, SettingValue)> {
        let mut settings: Vec<(&str, SettingValue)> = vec![
            ("max_failures", self.max_failures.map_or("unlimited".into(), Into::into)),
            ("retry_delay", ms(self.retry_delay)),
            ("retry_backoff", self.backoff.into()),
            ("max_retry_delay", ms(self.max_retry_delay)),
            ("drain_timeout", ms(self.drain)),
            ("critical", self.critical.into()),
            ("stop_last", self.stop_last.into()),
            ("enabled", self.enabled.into()),
        ];
        if self.long.is_none() {
            settings.push(("initial_delay", ms(self.initial_delay)));
            settings.push(("jitter", ms(self.jitter)));
        }
        match self.schedule {
            Schedule::Interval(every) => settings.push(("interval", ms(every))),
            Schedule::Delay(wait) => settings.push(("delay", ms(wait))),
            Schedule::Cron(cron, zone) => {
                settings.push(("cron", CRONS[cron].expression.into()));
                settings.push(("timezone", ZONES[zone].name().into()));
            }
            Schedule::OnDemand => settings.push(("on_demand", true.into())),
            Schedule::Long => {}
        }
        if let Some(long) = self.long {
            let on_end = match long.on_end {
                OnEnd::Stop => "stop",
                OnEnd::Again => "again",
                OnEnd::Shutdown => "shutdown",
            };
            settings.push(("on_end", on_end.into()));
            settings.push(("stable_after", ms(long.stable)));
            settings.push(("readiness", if long.explicit { "explicit" } else { "built" }.into()));
            settings.extend(long.idle.map(|idle| ("idle_timeout", ms(idle))));
        }
        let exhausted = |gives_up| if gives_up { "next_run" } else { "fail" };
        settings.extend(self.gives_up.map(|gives_up| ("exhausted", exhausted(gives_up).into())));
        if !self.wake_on.is_empty() {
            let topics: Vec<String> = self.wake_on.iter().map(|topic| TOPICS[*topic].to_owned()).collect();
            settings.push(("wake_on", topics.into()));
        }
        settings.extend(self.timeout.map(|timeout| ("timeout", ms(timeout))));
        if let Some(restart) = self.restart {
            settings.push(("restart", "on_failure".into()));
            settings.push(("restart_delay", ms(restart.delay)));
            settings.push(("max_restarts", restart.max.into()));
            settings.push(("restart_window", ms(restart.window)));
        }
        if !self.depends_on.is_empty() {
            let ids: Vec<String> = self.depends_on.iter().map(|on| cast[*on].id.clone()).collect();
            settings.push(("depends_on", ids.into()));
        }
        if self.needs_api {
            settings.push(("needs", vec![API.to_owned()].into()));
        }
        if let Some((permits, per)) = self.rate {
            let unit = if per == SECOND { "s" } else { "m" };
            settings.push(("rate_limit", format!("{permits}/{unit}").into()));
        }
        settings.into_iter().map(|(key, value)| (format!("{}.{key}", self.id), value)).collect()
    }
}

fn ms(time: Ms) -> SettingValue {
    Duration::from_millis(time).into()
}
