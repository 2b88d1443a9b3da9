//! The operator: starts replicas, and lets them fail in every way that the test bed knows.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Waker};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use futures_core::Stream as Events;
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, QueryResult, Statement};
use service_core::database;
use service_core::prelude::*;
use service_core::testing::TestBed;
use service_core::{ServiceEvent, ServiceEventKind};

use super::actor::{Actor, Scheduled, Stream, TABLE, seconds};
use super::cast::{CAST, Schedule};
use super::world::{Change, Ms, Renewal, Row, World, millis};

/// How many replicas there are, unless one was killed shortly before.
const REPLICAS: usize = 3;
/// 2026-01-01 00:00:02 UTC.
const START: Duration = Duration::from_secs(1_767_225_602);
/// The time without faults at the end. Every lease is taken over, every run ends, and every fire is made up.
pub(super) const CALM: Ms = 900_000;

/// Keeps each renewal: of the updates of a lease, only this one lets it end later.
const RENEWALS: [&str; 2] = [
    "CREATE TABLE renewal (id INTEGER PRIMARY KEY AUTOINCREMENT, service_id TEXT NOT NULL, epoch INTEGER NOT NULL, \
     at_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL)",
    "CREATE TRIGGER renewal AFTER UPDATE OF expires_at ON service_lease \
     WHEN new.epoch = old.epoch AND new.expires_at > old.expires_at BEGIN INSERT INTO renewal (service_id, epoch, at_ms, end_ms) \
     VALUES (new.service_id, new.epoch, new.expires_at - new.lease_ms, old.expires_at); END",
];

/// One replica.
struct Replica {
    number: usize,
    bed: TestBed,
    registry: ServiceRegistry,
    events: Pin<Box<dyn Events<Item = ServiceEvent> + Send>>,
    is_cut_off: bool,
    is_stopped: [bool; CAST.len()],
}

/// What follows a fault later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    Heal(usize),
    Replace,
    Start { replica: usize, service: usize },
    Resume(usize),
}

pub(super) struct Operator {
    world: Arc<World>,
    rng: Rng,
    /// Has the database and lets time move. It has no service.
    bed: TestBed,
    db: DatabaseConnection,
    replicas: Vec<Replica>,
    made: usize,
    later: Vec<(Ms, Later)>,
    /// When the server's clock last ran fast.
    drifted: Option<Ms>,
    /// Milliseconds that the wall clock was set forward in all.
    wall_offset: i64,
}

/// What is left of a simulation at its end.
pub(super) struct Left {
    pub(super) rows: Vec<Row>,
    pub(super) renewals: Vec<Renewal>,
    /// The leases that are still valid after every replica has shut down.
    pub(super) valid_leases: Vec<String>,
    /// The number of the last takeover of each service, as the database has it.
    pub(super) epochs: Vec<u64>,
    /// The wall clock at the start and when the calm time began, in seconds since 1970.
    pub(super) wall: (u64, u64),
    /// When the calm time began.
    pub(super) calm: Ms,
    /// When the shutdown began.
    pub(super) end: Ms,
}

/// Simulates until `end`, and then some calm minutes.
pub(super) async fn operate(world: &Arc<World>, end: Ms) -> Left {
    let bed = TestBed::at(SystemTime::UNIX_EPOCH + START);
    // One connection: only so, a seed replays exactly.
    let mut options = ConnectOptions::new("sqlite::memory:");
    options.max_connections(1).sqlx_logging(false);
    let db = bed.database_with(options).await;
    database::migrate(&db).await.expect("the database is new");
    for sql in [TABLE].into_iter().chain(RENEWALS) {
        db.execute_unprepared(sql).await.expect("the database is new");
    }
    let mut operator = Operator {
        world: world.clone(),
        rng: Rng::with_seed(world.seed),
        bed,
        db,
        replicas: Vec::new(),
        made: 0,
        later: Vec::new(),
        drifted: None,
        wall_offset: 0,
    };
    for _ in 0..REPLICAS {
        operator.add_replica().await;
    }
    let mut choices = Rng::with_seed(world.seed);
    while world.now() < end {
        // What one fault meets does not change the choices of the next.
        operator.rng = choices.fork();
        let pause = match operator.rng.u32(0..4) {
            0 => operator.rng.u64(1..10_000),
            1 => operator.rng.u64(1..75_000),
            _ => operator.rng.u64(1..450_000),
        };
        operator.run_until(world.now() + pause).await;
        operator.fault().await;
    }
    operator.end().await
}

impl Operator {
    async fn add_replica(&mut self) {
        let number = self.made;
        self.made += 1;
        self.world.tell(format_args!("replica {number} starts"));
        let mut bed = self.bed.replica().await.seed(self.world.seed);
        for &service in &self.world.services {
            let part = &CAST[service];
            let actor = Actor { world: self.world.clone(), service, replica: number };
            bed = bed.with(|builder| match part.schedule {
                Schedule::Long => builder.service_fn(part.id, move || Stream(actor.clone())),
                _ => builder.service_fn(part.id, move || Scheduled(actor.clone())),
            });
            for (key, value) in part.settings() {
                bed = bed.set(&key, value);
            }
        }
        let registry = bed.services().await;
        let events: Pin<Box<dyn Events<Item = ServiceEvent> + Send>> = Box::pin(registry.subscribe());
        registry.start().await.unwrap_or_else(|error| panic!("replica {number} does not start: {error:#}"));
        self.replicas.push(Replica {
            number,
            bed,
            registry,
            events,
            is_cut_off: false,
            is_stopped: [false; CAST.len()],
        });
        self.update_able();
    }

    /// Lets time pass, and does meanwhile what is due.
    async fn run_until(&mut self, until: Ms) {
        loop {
            let due = self.later.iter().map(|(at, _)| *at).min().filter(|due| *due <= until);
            let next = due.unwrap_or(until).saturating_sub(self.world.now());
            self.bed.run_for(Duration::from_millis(next)).await;
            self.read_events();
            let now = self.world.now();
            let Some(index) = self.later.iter().position(|(at, _)| due.is_some() && *at <= now) else {
                if now >= until {
                    return;
                }
                continue;
            };
            let (_, later) = self.later.remove(index);
            self.perform(later).await;
        }
    }

    async fn perform(&mut self, later: Later) {
        match later {
            Later::Heal(number) => {
                let Some(replica) = self.replicas.iter_mut().find(|replica| replica.number == number) else { return };
                replica.is_cut_off = false;
                self.bed.heal(&replica.bed);
                self.world.cut_off(number, false);
                self.world.tell(format_args!("replica {number} reaches the database"));
                self.update_able();
            }
            Later::Replace => self.add_replica().await,
            Later::Start { replica: number, service } => {
                let Some(replica) = self.replicas.iter_mut().find(|replica| replica.number == number) else { return };
                self.world.tell(format_args!("start of {} on replica {number}", CAST[service].id));
                if let Some(handle) = replica.registry.get(CAST[service].id) {
                    let _ = handle.start().await;
                }
                replica.is_stopped[service] = false;
                self.update_able();
            }
            Later::Resume(service) => {
                self.world.tell(format_args!("{} is resumed", CAST[service].id));
                let now = self.world.now();
                self.world.trace().resumed.insert(service, now);
                for replica in &self.replicas {
                    if let Some(handle) = replica.registry.get(CAST[service].id) {
                        // It may not be paused there.
                        let _ = handle.resume().await;
                    }
                }
            }
        }
    }

    fn after(&mut self, times: std::ops::Range<Ms>, later: Later) {
        let at = self.world.now() + self.rng.u64(times);
        self.later.push((at, later));
    }

    // ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn fault(&mut self) {
        match self.rng.u32(0..100) {
            0..26 => {
                let replica = self.rng.usize(0..self.replicas.len());
                self.cut_off(replica).await;
            }
            26..30 => {
                for replica in 0..self.replicas.len() {
                    self.cut_off(replica).await;
                }
            }
            30..45 => self.kill().await,
            45..68 => self.stop().await,
            68..76 => self.pause().await,
            76..86 => self.expire().await,
            86..92 => self.set_wall_clock().await,
            // A rolling update: a replica more for a while.
            _ if self.replicas.len() == REPLICAS => {
                self.add_replica().await;
                self.shut_down(0).await;
            }
            _ => {}
        }
    }

    async fn cut_off(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        if replica.is_cut_off {
            return;
        }
        replica.is_cut_off = true;
        let number = replica.number;
        self.bed.partition(&replica.bed);
        self.world.cut_off(number, true);
        self.world.tell(format_args!("replica {number} is cut off from the database"));
        self.update_able();
        let times = if self.rng.bool() { 10..60_000 } else { 25_000..750_000 };
        self.after(times, Later::Heal(number));
        let now = self.world.now();
        let was_long_ago = self.drifted.is_none_or(|at| now - at > 350_000);
        if was_long_ago && self.rng.bool() {
            // Its clock is slower than the server's: in the database, leases end a twentieth earlier.
            self.drifted = Some(now);
            self.world.tell("the server's clock is faster");
            self.execute("UPDATE service_lease SET expires_at = expires_at - lease_ms / 20 WHERE expires_at > 0").await;
        }
    }

    async fn kill(&mut self) {
        if self.replicas.len() < 2 {
            return;
        }
        let replica = self.replicas.remove(self.rng.usize(0..self.replicas.len()));
        let number = replica.number;
        self.world.tell(format_args!("replica {number} is killed"));
        self.world.killed(number);
        let Replica { bed, registry, events, .. } = replica;
        drop(registry);
        self.bed.kill(bed).await;
        for &service in &self.world.services {
            self.world.lease_changed(self.world.now(), service, number, Change::Stopped);
            self.world.set_able(service, number, false);
        }
        drop(events);
        self.after(1..300_000, Later::Replace);
    }

    /// Stops a service on the replica that runs it.
    async fn stop(&mut self) {
        let service = self.one_service();
        let is_holder = |replica: &Replica| state_of(replica, service) != Some(ServiceState::Standby);
        let Some(index) = self.replicas.iter().position(|replica| !replica.is_stopped[service] && is_holder(replica))
        else {
            return;
        };
        let replica = &mut self.replicas[index];
        let number = replica.number;
        replica.is_stopped[service] = true;
        self.world.tell(format_args!("stop of {} on replica {number}", CAST[service].id));
        self.update_able();
        if let Some(handle) = self.replicas[index].registry.get(CAST[service].id) {
            let _ = handle.stop().await;
        }
        self.read_events();
        self.after(1..600_000, Later::Start { replica: number, service });
    }

    /// Pauses a service on all replicas.
    async fn pause(&mut self) {
        let service = self.one_service();
        let is_paused = self.later.iter().any(|(_, later)| *later == Later::Resume(service));
        if is_paused || !matches!(CAST[service].schedule, Schedule::Interval(_) | Schedule::Delay(_)) {
            return;
        }
        self.world.tell(format_args!("{} is paused", CAST[service].id));
        for replica in &self.replicas {
            if let Some(handle) = replica.registry.get(CAST[service].id) {
                // It may be stopped there.
                let _ = handle.pause().await;
            }
        }
        self.after(1..750_000, Later::Resume(service));
    }

    /// The server's clock steps forward: a lease expires, while its holder still trusts it. A process that was
    /// suspended is in the same situation.
    async fn expire(&mut self) {
        let now = self.world.now();
        let services = if self.rng.bool() { self.world.services.clone() } else { vec![self.one_service()] };
        for service in services {
            let id = CAST[service].id;
            self.world.tell(format_args!("the lease of {id} expires by a step of the server's clock"));
            self.world.trace().expired.push((now, service));
            self.execute(&format!("UPDATE service_lease SET expires_at = 0 WHERE service_id = '{id}'")).await;
            if self.rng.bool() {
                // The holder may renew it before another replica finds that it is free.
                continue;
            }
            // A replica that is started now takes it over before.
            let is_standby = |replica: &Replica| state_of(replica, service) == Some(ServiceState::Standby);
            let standby = self.replicas.iter().find(|replica| !replica.is_cut_off && is_standby(replica));
            if let Some(handle) = standby.and_then(|replica| replica.registry.get(id)) {
                let _ = handle.stop().await;
                let _ = handle.start().await;
            }
        }
    }

    async fn set_wall_clock(&mut self) {
        let step = self.rng.i64(-450_000..450_000);
        let from = self.wall();
        self.wall_offset += step;
        let to = self.wall();
        self.world.tell(format_args!("the wall clock is set {step} ms forward"));
        self.world.trace().wall_steps.push((seconds(from), seconds(to)));
        self.bed.set_wall_clock(to).await;
    }

    async fn shut_down(&mut self, index: usize) {
        let mut replica = self.replicas.remove(index);
        let number = replica.number;
        self.world.tell(format_args!("replica {number} shuts down"));
        for &service in &self.world.services {
            self.world.set_able(service, number, false);
        }
        let _ = replica.registry.shutdown().await;
        let now = self.world.now();
        read_events(&self.world, &mut replica, self.wall_offset);
        for &service in &self.world.services {
            self.world.lease_changed(now, service, number, Change::Stopped);
        }
        // What its tasks would still do does not happen: the process has ended.
        self.world.killed(number);
        self.read_events();
    }

    // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn end(&mut self) -> Left {
        self.world.tell("no further faults");
        let mut later = std::mem::take(&mut self.later);
        later.sort_by_key(|(at, _)| *at);
        for (_, later) in later {
            self.perform(later).await;
        }
        let (calm, calm_wall) = (self.world.now(), seconds(self.wall()));
        self.run_until(calm + CALM).await;
        let end = self.world.now();
        for replica in &self.replicas {
            for &service in &self.world.services {
                self.world.set_able(service, replica.number, false);
            }
        }
        while !self.replicas.is_empty() {
            let index = self.rng.usize(0..self.replicas.len());
            self.shut_down(index).await;
        }
        let rows = self.query("SELECT service, epoch, seq, fire FROM trace ORDER BY id").await;
        let rows = rows.iter().map(|row| Row {
            service: usize::try_from(number(row, "service").unwrap_or_default()).unwrap_or_default(),
            epoch: number(row, "epoch").unwrap_or_default(),
            seq: number(row, "seq").unwrap_or_default(),
            fire: number(row, "fire"),
        });
        let rows = rows.collect();
        let renewals = self.query("SELECT service_id, epoch, at_ms, end_ms FROM renewal ORDER BY id").await;
        // Leases expire by the time since 1970, which does not follow the wall clock.
        let began = millis(START);
        let renewals = renewals.iter().filter_map(|row| {
            let id = text(row, "service_id");
            let service = CAST.iter().position(|part| part.id == id)?;
            let [epoch, at, end] = ["epoch", "at_ms", "end_ms"].map(|column| number(row, column).unwrap_or_default());
            Some(Renewal { service, epoch, at: at - began, end: end.saturating_sub(began) })
        });
        let renewals = renewals.collect();
        let now = began + self.world.now();
        let valid = self.query(&format!("SELECT service_id FROM service_lease WHERE expires_at > {now}")).await;
        let valid_leases = valid.iter().map(|row| text(row, "service_id")).collect();
        let mut epochs = Vec::new();
        for part in &CAST {
            let sql = format!("SELECT epoch FROM service_epoch WHERE service_id = '{}'", part.id);
            let row = self.query(&sql).await;
            epochs.push(row.first().and_then(|row| number(row, "epoch")).unwrap_or_default());
        }
        let wall = (seconds(SystemTime::UNIX_EPOCH + START), calm_wall);
        Left { rows, renewals, valid_leases, epochs, wall, calm, end }
    }

    // ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn wall(&self) -> SystemTime {
        let wall = SystemTime::UNIX_EPOCH + START + Duration::from_millis(self.world.now());
        let offset = Duration::from_millis(self.wall_offset.unsigned_abs());
        if self.wall_offset < 0 { wall - offset } else { wall + offset }
    }

    fn one_service(&mut self) -> usize {
        self.world.services[self.rng.usize(0..self.world.services.len())]
    }

    fn update_able(&self) {
        for replica in &self.replicas {
            for &service in &self.world.services {
                let is_able = !replica.is_cut_off && !replica.is_stopped[service];
                self.world.set_able(service, replica.number, is_able);
            }
        }
    }

    fn read_events(&mut self) {
        for replica in &mut self.replicas {
            read_events(&self.world, replica, self.wall_offset);
        }
    }

    async fn execute(&self, sql: &str) {
        self.db.execute_unprepared(sql).await.expect("the database works");
    }

    async fn query(&self, sql: &str) -> Vec<QueryResult> {
        let select = Statement::from_string(self.db.get_database_backend(), sql);
        self.db.query_all_raw(select).await.expect("the database works")
    }
}

fn number(row: &QueryResult, column: &str) -> Option<u64> {
    row.try_get::<Option<i64>>("", column).expect("the column has numbers").map(i64::cast_unsigned)
}

fn text(row: &QueryResult, column: &str) -> String {
    row.try_get("", column).expect("the column has texts")
}

fn state_of(replica: &Replica, service: usize) -> Option<ServiceState> {
    replica.registry.get(CAST[service].id).map(|handle| handle.state())
}

/// Writes the events that wait into the trace, each at the moment when it happened.
fn read_events(world: &World, replica: &mut Replica, wall_offset: i64) {
    let mut task = Task::from_waker(Waker::noop());
    while let Poll::Ready(Some(event)) = replica.events.as_mut().poll_next(&mut task) {
        let since = event.at.duration_since(SystemTime::UNIX_EPOCH + START);
        let since = match since {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        let at = (since - wall_offset).max(0).cast_unsigned();
        let Some(service) = CAST.iter().position(|part| *part.id == *event.service_id) else { continue };
        let change = match event.kind {
            ServiceEventKind::LeaseAcquired { epoch } => Change::Acquired(epoch),
            ServiceEventKind::LeaseLost { .. } => Change::Lost,
            ServiceEventKind::StateChanged { to: ServiceState::Stopped | ServiceState::Failed, .. } => Change::Stopped,
            ServiceEventKind::Lagged { missed } => panic!("{missed} events are lost"),
            _ => continue,
        };
        world.lease_changed(at, service, replica.number, change);
    }
}
