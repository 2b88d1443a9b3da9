//! Measures what services with `scope = "cluster"` cost: 1,000 of them on three replicas, which are processes of their
//! own.
//!
//! `replicas URL` on an empty PostgreSQL database with the extension `pg_stat_statements` prints statements and
//! transactions a second, the processor time of each replica and of the server, and how long it takes until all
//! services have a holder again after SIGKILL of one replica. `SERVICES` (1000), `SECONDS` (60) and `LEASE` (30, in
//! seconds) in the environment change the size. The services have no runs of their own, so all that is measured is the
//! coordination.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use measure::{process_seconds, server_seconds};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use service_core::database;
use service_core::prelude::*;
use service_core::{ServiceOptions, ServiceRegistry, ServiceScope};

const REPLICAS: usize = 3;
/// How often the leases are read, to see when all are held.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take until all services have a holder.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Idle;

#[service(on_demand = true, scope = "cluster", discover = false)]
impl Idle {
    async fn update(&mut self) {}
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [url] => measure(url).await,
        [url, role] if role == "replica" => replica(url).await,
        _ => Err(Error::msg("usage: replicas URL")),
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// One replica. Runs until it is stopped.
async fn replica(url: &str) -> Result<()> {
    let lease = Duration::from_secs(setting("LEASE", 30));
    let mut builder = ServiceRegistry::builder().without_discovered().database_url(url);
    for n in 0..setting("SERVICES", 1_000) {
        let id = format!("service_{n}");
        let options = ServiceOptions::new().scope(ServiceScope::Cluster).lease(lease);
        builder = builder.service_of::<Idle>(&id).options_of(&id, options);
    }
    builder.start_all().await?.until_shutdown().await
}

/// A replica that is killed when it is dropped.
struct Replica(Child);

impl Replica {
    fn start(url: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([url, "replica"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn number(db: &DatabaseConnection, sql: &str) -> Result<i64> {
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    Ok(row.ok_or_else(|| Error::msg("no row"))?.try_get_by_index(0)?)
}

/// Statements and transactions of this database until now. They are those of the replicas and of this program.
async fn counts(db: &DatabaseConnection) -> Result<[i64; 2]> {
    let of_this = "FROM pg_database WHERE datname = current_database()";
    let statements =
        format!("SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE dbid = (SELECT oid {of_this})");
    let transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    Ok([number(db, &statements).await?, number(db, transactions).await?])
}

/// Waits until as many leases are valid as there are services, apart from those of one process. Returns how long that
/// took.
async fn all_held(db: &DatabaseConnection, except: &str) -> Result<Duration> {
    let began = Instant::now();
    let services = i64::try_from(setting("SERVICES", 1_000)).map_err(Error::new)?;
    let held = format!(
        "SELECT count(*) FROM service_lease WHERE label NOT LIKE '%(pid {except})' \
         AND expires_at > extract(epoch FROM clock_timestamp()) * 1000"
    );
    while number(db, &held).await? < services {
        if began.elapsed() > PATIENCE {
            return Err(Error::msg("some services have no holder"));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(began.elapsed())
}

/// Returns how many services each replica runs.
async fn shares(db: &DatabaseConnection, replicas: &[Replica]) -> Result<String> {
    let mut shares = Vec::new();
    for replica in replicas {
        let sql = format!("SELECT count(*) FROM service_lease WHERE label LIKE '%(pid {})'", replica.id());
        shares.push(number(db, &sql).await?.to_string());
    }
    Ok(shares.join(", "))
}

async fn measure(url: &str) -> Result<()> {
    let db = database::connect(url).await?;
    database::migrate(&db).await?;
    db.execute_unprepared("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
    let (services, seconds) = (setting("SERVICES", 1_000), setting("SECONDS", 60));
    let mut replicas = (0..REPLICAS).map(|_| Replica::start(url)).collect::<Result<Vec<_>>>()?;
    let taken = all_held(&db, "0").await?;
    println!("{services} services on {REPLICAS} replicas, lease {} s", setting("LEASE", 30));
    println!("all have a holder {:.1} s after the start of the processes", taken.as_secs_f64());

    // Until services have been shared out.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    println!("services that each replica runs: {}", shares(&db, &replicas).await?);
    let cpu = || (replicas.iter().map(|it| process_seconds(&it.id())).collect::<Vec<_>>(), server_seconds());
    let (began, before, cpu_before) = (Instant::now(), counts(&db).await?, cpu());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (after, cpu_after) = (counts(&db).await?, cpu());
    let elapsed = began.elapsed().as_secs_f64();
    let [statements, transactions] = [0, 1].map(|n| (after[n] - before[n]) as f64 / elapsed);
    println!("{statements:.1} statements and {transactions:.1} transactions a second, of all replicas together");
    let percent = |before: f64, after: f64| format!("{:.2} %", 100.0 * (after - before) / elapsed);
    let of_replicas: Vec<String> = cpu_before.0.iter().zip(&cpu_after.0).map(|(a, b)| percent(*a, *b)).collect();
    println!(
        "of one processor: each replica {}, the server {}",
        of_replicas.join(", "),
        percent(cpu_before.1, cpu_after.1)
    );

    let killed = replicas.remove(0);
    let id = killed.id();
    drop(killed);
    let taken = all_held(&db, &id).await?;
    println!(
        "after SIGKILL of one replica, all of its services have another holder within {:.1} s",
        taken.as_secs_f64()
    );
    println!("services that each of the others runs: {}", shares(&db, &replicas).await?);
    Ok(())
}
