//! Real faults of real processes: killed, suspended for longer than the lease, cut off from the server, stopped; and a
//! server that is restarted. Whatever happens, the commits of one takeover never follow those of a later one.
//!
//! With more faults: `SERVICE_TEST_FAULTS=200 cargo test -p service-tests --test database cluster::real`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use service_core::database;
use service_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use super::ledger;
use crate::away::until;
use crate::killed::Worker;
use crate::postgres::Postgres;

const REPLICAS: usize = 3;
/// The lease of the service.
const LEASE: Duration = Duration::from_secs(1);
/// How long it may take until some replica works again, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP for longer than the lease, then SIGCONT.
    Suspend,
    /// SIGTERM: a shutdown, which releases the lease.
    Shutdown,
    /// Its connections are cut, and new ones are refused for longer than the lease.
    Cut,
    /// Nothing passes on its connections for longer than the lease.
    BlackHole,
    /// The server stops at once and starts again.
    Restart,
    /// Its connections are replaced by new ones, as a pooler does.
    Reconnect,
}

/// How a proxy treats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Open,
    Cut,
    BlackHole,
}

/// Passes connections to the server's socket.
struct Proxy {
    port: u16,
    passage: watch::Sender<Passage>,
}

impl Proxy {
    async fn start(socket: PathBuf) -> Self {
        Self::start_far(socket, Duration::ZERO).await
    }

    /// Bytes take this long, each way.
    async fn start_far(socket: PathBuf, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (port, passage) = (listener.local_addr().unwrap().port(), watch::Sender::new(Passage::Open));
        let changes = passage.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *changes.borrow() == Passage::Cut {
                    continue;
                }
                let (socket, changes) = (socket.clone(), changes.clone());
                tokio::spawn(async move {
                    let Ok(server) = UnixStream::connect(&socket).await else { return };
                    let (client, server) = (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(client.0, server.1, changes.clone(), delay) => {}
                        () = pass(server.0, client.1, changes, delay) => {}
                    }
                });
            }
        });
        Self { port, passage }
    }
}

/// Passes bytes until the connection ends, or is cut.
async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut changes: watch::Receiver<Passage>,
    delay: Duration,
) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let count = tokio::select! {
            _ = changes.wait_for(|passage| *passage == Passage::Cut) => return,
            read = from.read(&mut bytes) => read.unwrap_or(0),
        };
        if count == 0 || changes.wait_for(|passage| *passage != Passage::BlackHole).await.is_err() {
            return;
        }
        tokio::time::sleep(delay).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// The replicas, and the database that they share.
struct Fleet {
    db: DatabaseConnection,
    urls: Vec<String>,
    workers: Vec<Worker>,
    proxies: Vec<Proxy>,
    server: Option<Postgres>,
}

impl Fleet {
    async fn start(db: DatabaseConnection, urls: Vec<String>, proxies: Vec<Proxy>, server: Option<Postgres>) -> Self {
        database::migrate(&db).await.unwrap();
        db.execute_unprepared(ledger::table(db.get_database_backend())).await.unwrap();
        let workers = urls.iter().map(|url| Worker::quiet(url, "cluster")).collect();
        Self { db, urls, workers, proxies, server }
    }

    async fn number(&self, sql: &str) -> Option<i64> {
        let select = Statement::from_string(self.db.get_database_backend(), sql);
        self.db.query_one_raw(select).await.ok()??.try_get_by_index(0).ok()
    }

    async fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM ledger").await.unwrap_or(-1)
    }

    async fn epoch(&self) -> i64 {
        self.number("SELECT max(epoch) FROM ledger").await.unwrap_or(-1)
    }

    /// The index of the replica that holds the lease, or of any.
    async fn holder(&self) -> usize {
        let select = Statement::from_string(self.db.get_database_backend(), "SELECT label FROM service_lease");
        let row = self.db.query_one_raw(select).await.ok().flatten();
        let label: String = row.and_then(|row| row.try_get_by_index(0).ok()).unwrap_or_default();
        let held = self.workers.iter().position(|worker| label.ends_with(&format!("(pid {})", worker.id())));
        held.unwrap_or_else(|| fastrand::usize(0..REPLICAS))
    }

    /// Waits until a run commits.
    async fn progress(&self, what: &str) {
        let (begun, rows) = (Instant::now(), self.rows().await);
        while self.rows().await <= rows {
            assert!(begun.elapsed() < PATIENCE, "no replica runs the service after {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn cause(&mut self, fault: Fault) {
        // Mostly the holder.
        let victim = if fastrand::u8(0..5) == 0 { fastrand::usize(0..REPLICAS) } else { self.holder().await };
        let longer = LEASE.mul_f64(1.3 + fastrand::f64());
        match fault {
            Fault::Kill => {
                let next = Worker::quiet(&self.urls[victim], "cluster");
                std::mem::replace(&mut self.workers[victim], next).kill();
            }
            Fault::Shutdown => {
                signal(&self.workers[victim], "TERM");
                let begun = Instant::now();
                while !self.workers[victim].is_dead() && begun.elapsed() < PATIENCE {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                self.workers[victim] = Worker::quiet(&self.urls[victim], "cluster");
            }
            Fault::Suspend => {
                signal(&self.workers[victim], "STOP");
                tokio::time::sleep(longer).await;
                signal(&self.workers[victim], "CONT");
            }
            Fault::Cut | Fault::BlackHole | Fault::Reconnect => {
                let passage = if fault == Fault::BlackHole { Passage::BlackHole } else { Passage::Cut };
                self.proxies[victim].passage.send_replace(passage);
                let wait = if fault == Fault::Reconnect { Duration::from_millis(20) } else { longer };
                tokio::time::sleep(wait).await;
                self.proxies[victim].passage.send_replace(Passage::Open);
            }
            Fault::Restart => {
                let server = self.server.take().unwrap();
                let restart = move || {
                    server.down();
                    server.up();
                    server
                };
                self.server = Some(tokio::task::spawn_blocking(restart).await.unwrap());
            }
        }
    }

    /// Causes faults of these kinds in turn, and reports how long it took until a run of another takeover committed.
    async fn suffer(&mut self, kinds: &[Fault]) {
        let faults = setting("SERVICE_TEST_FAULTS", 14);
        self.progress("the start").await;
        let mut times: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
        for n in 0..faults {
            let fault = kinds[n % kinds.len()];
            let (epoch, begun) = (self.epoch().await, Instant::now());
            self.cause(fault).await;
            self.progress(&format!("fault {n}: {fault:?}")).await;
            if self.epoch().await > epoch {
                times.entry(fault).or_default().push(begun.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        }
        let mut report = format!("{faults} faults, {} runs, {} takeovers\n", self.rows().await, self.epoch().await);
        for (fault, times) in times {
            let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap();
            let most = times.iter().max().unwrap();
            report += &format!(
                "  {fault:?}: another epoch {} times, after {:.2} s on average, {:.2} s at most\n",
                times.len(),
                mean.as_secs_f64(),
                most.as_secs_f64()
            );
        }
        let _ = std::io::Write::write_all(&mut std::io::stderr(), report.as_bytes());
        self.workers.clear();
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn signal(worker: &Worker, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &worker.id().to_string()]).status();
    assert!(sent.unwrap().success(), "{signal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgresql_no_commit_of_a_former_holder_follows_one_of_a_later() {
    let start = || Postgres::start_with("-c track_commit_timestamp=on");
    let Some(server) = tokio::task::spawn_blocking(start).await.unwrap() else { return };
    let (url, server) = tokio::task::spawn_blocking(move || (server.database(), server)).await.unwrap();
    let name = url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    let mut proxies = Vec::new();
    for _ in 0..REPLICAS {
        proxies.push(Proxy::start(server.socket()).await);
    }
    let urls = proxies.iter().map(|proxy| format!("postgres://tester@127.0.0.1:{}/{name}", proxy.port)).collect();
    let db = database::connect(&url).await.unwrap();
    let mut fleet = Fleet::start(db, urls, proxies, Some(server)).await;
    let kinds =
        [Fault::Kill, Fault::Suspend, Fault::Cut, Fault::Shutdown, Fault::BlackHole, Fault::Reconnect, Fault::Restart];
    fleet.suffer(&kinds).await;

    // In the order of the commits, and with whether each run began before the one before it had committed.
    let sql = "SELECT epoch, seq, began < lag(committed) OVER (ORDER BY committed) AS overlaps \
               FROM (SELECT epoch, seq, began, pg_xact_commit_timestamp(xmin) AS committed FROM ledger) AS runs \
               ORDER BY committed";
    let rows = fleet.db.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    let runs: Vec<(i64, i64, Option<bool>)> = rows
        .iter()
        .map(|row| {
            (row.try_get("", "epoch").unwrap(), row.try_get("", "seq").unwrap(), row.try_get("", "overlaps").unwrap())
        })
        .collect();
    assert!(runs.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)), "{:?}", disorder(&runs));
    assert!(runs.iter().all(|(_, _, overlaps)| *overlaps != Some(true)), "{:?}", overlap(&runs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_no_commit_of_a_former_holder_follows_one_of_a_later() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("test.db").display());
    let db = database::connect(&url).await.unwrap();
    let mut fleet = Fleet::start(db, vec![url; REPLICAS], Vec::new(), None).await;
    fleet.suffer(&[Fault::Kill, Fault::Suspend, Fault::Shutdown]).await;

    let select = Statement::from_string(DbBackend::Sqlite, "SELECT epoch, seq FROM ledger ORDER BY id");
    let rows = fleet.db.query_all_raw(select).await.unwrap();
    let runs: Vec<(i64, i64, Option<bool>)> =
        rows.iter().map(|row| (row.try_get("", "epoch").unwrap(), row.try_get("", "seq").unwrap(), None)).collect();
    assert!(runs.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)), "{:?}", disorder(&runs));
}

/// One replica at a time runs it.
#[derive(Default)]
struct Far;

#[service(interval = "100ms", scope = "cluster", lease = 1, discover = false)]
impl Far {
    async fn update(&mut self) {}
}

/// A takeover is many statements, each with its way to the server and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgresql_a_short_lease_is_taken_and_kept_over_a_slow_network() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let name = url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    database::migrate(&database::connect(&url).await.unwrap()).await.unwrap();
    let proxy = Proxy::start_far(server.socket(), Duration::from_millis(15)).await;
    let far = format!("postgres://tester@127.0.0.1:{}/{name}", proxy.port);
    let builder = ServiceRegistry::builder().without_discovered().shutdown_timeout(Duration::from_secs(5));
    let services = builder.service_of::<Far>("far").database_url(far).start_all().await.unwrap();
    let service = services.get("far").unwrap();
    until("it has run for several leases", || service.health().runs > 30).await;
    until("it still runs", || service.state() == ServiceState::Running).await;
    services.shutdown().await.unwrap();
}

type Run = (i64, i64, Option<bool>);

/// The first two runs whose commits are in the wrong order.
fn disorder(runs: &[Run]) -> Option<&[Run]> {
    runs.windows(2).find(|pair| (pair[0].0, pair[0].1) >= (pair[1].0, pair[1].1))
}

/// The first two runs of which the second began before the first had committed.
fn overlap(runs: &[Run]) -> Option<&[Run]> {
    runs.windows(2).find(|pair| pair[1].2 == Some(true))
}
