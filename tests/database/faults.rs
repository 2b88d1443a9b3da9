//! Real faults: processes are killed, the server is stopped, connections are cut, the disk is full. Afterwards every
//! row is completed, every effect exists exactly once, and nothing is locked.
//!
//! With more kills: `SERVICE_TEST_KILLS=500 cargo test -p service-tests --test database faults::`

use std::time::{Duration, Instant};

use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, EntityTrait, PaginatorTrait, QueryFilter, Statement,
};
use service_core::__private::database::ServiceDb;
use service_core::database;
use service_core::{Error, Outcome, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::Bench;
use crate::killed::Worker;
use crate::postgres::Postgres;
use crate::tables::{effect, effects, job, jobs, statuses};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn completed(bench: &Bench) -> u64 {
    job::Entity::find().filter(job::Column::Status.eq("completed")).count(&bench.db).await.unwrap()
}

/// The number of effects: every row has one, and their number only grows.
async fn progress(bench: &Bench) -> u64 {
    let sql =
        if bench.is_postgres() { "SELECT count(*) AS n FROM effect" } else { "SELECT max(rowid) AS n FROM effect" };
    let select = Statement::from_string(bench.db.get_database_backend(), sql);
    let count: Option<i64> = bench.db.query_one_raw(select).await.unwrap().unwrap().try_get("", "n").unwrap();
    u64::try_from(count.unwrap_or(0)).unwrap()
}

/// Kills workers during all of the work, each at a random moment.
async fn kill_over(bench: &Bench, rows: u64, kills: u64, workers: usize, mode: &str) {
    jobs(&bench.db, i64::try_from(rows).unwrap()).await;
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    let start = || Worker::start(&bench.url, mode);
    let mut running: Vec<Worker> = (0..workers).map(|_| start()).collect();
    let (mut killed, mut said, begun) = (0, String::new(), Instant::now());
    loop {
        let done = progress(bench).await;
        if done == rows {
            break;
        }
        // The last kill is well before the end, so that each kill interrupts work.
        if killed < kills && done * kills >= killed * rows * 7 / 10 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..15))).await;
            let victim = fastrand::usize(0..running.len());
            said += &std::mem::replace(&mut running[victim], start()).kill();
            killed += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(60 + kills), "{done} of {rows} rows after {killed} kills");
    }
    for worker in running {
        said += &worker.kill();
    }
    assert!(killed >= kills, "only {killed} kills");
    assert_eq!(said, "", "errors that a user would have seen");
    all_is_well(bench, rows).await;
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{rows} rows by {mode}, {workers} workers, {killed} kills: {:.1} s\n", begun.elapsed().as_secs_f64())
            .as_bytes(),
    );
}

async fn all_is_well(bench: &Bench, rows: u64) {
    assert_eq!(completed(bench).await, rows);
    let expected: Vec<i64> = (1..=i64::try_from(rows).unwrap()).collect();
    let found = effects(&bench.db).await;
    assert!(found == expected, "{} effects for {rows} rows", found.len());
    let free = async {
        bench.db.execute_unprepared("UPDATE job SET payload = 'free'").await.unwrap();
        let claims = Statement::from_string(bench.db.get_database_backend(), "SELECT owner FROM service_claim");
        assert!(bench.db.query_all_raw(claims).await.unwrap().is_empty(), "claims are left");
    };
    tokio::time::timeout(Duration::from_secs(60), free).await.expect("a row is still locked");
}

pub(crate) async fn killed_workers_lose_nothing_and_repeat_nothing(bench: Bench) {
    let kills = setting("SERVICE_TEST_KILLS", 50);
    // Enough rows that there is work when the last worker is killed.
    let rows = setting("SERVICE_TEST_ROWS", (kills * 200).max(20_000));
    let workers = if bench.is_postgres() { 3 } else { 2 };
    kill_over(&bench, rows, kills, workers, "claim").await;
}

pub(crate) async fn killed_workers_with_claim_each_lose_nothing_and_repeat_nothing(bench: Bench) {
    let kills = setting("SERVICE_TEST_KILLS", 50) / 5;
    let rows = (kills * 10).max(1_000);
    let workers = if bench.is_postgres() { 3 } else { 2 };
    kill_over(&bench, rows, kills, workers, "claim_each").await;
}

pub(crate) async fn killed_workers_with_several_rows_at_a_time_lose_nothing_and_repeat_nothing(bench: Bench) {
    let kills = setting("SERVICE_TEST_KILLS", 50) / 5;
    let rows = (kills * 10).max(1_000);
    let workers = if bench.is_postgres() { 3 } else { 2 };
    kill_over(&bench, rows, kills, workers, "concurrent").await;
}

/// A row that kills its process is repeated twice, because the process may have been killed from outside. After that it
/// loses its own attempts, and never those of another row.
pub(crate) async fn a_row_that_kills_its_process_costs_its_own_attempts(bench: Bench) {
    some_rows_kill_their_process(&bench, "poisoned").await;
}

/// The same if other rows are in flight when the process dies.
pub(crate) async fn a_row_that_kills_its_process_costs_the_rows_beside_it_nothing(bench: Bench) {
    some_rows_kill_their_process(&bench, "poisoned_concurrent").await;
}

/// The same if other rows have ended, and their completion is in flight.
pub(crate) async fn a_row_that_kills_its_process_costs_the_completions_in_flight_nothing(bench: Bench) {
    some_rows_kill_their_process(&bench, "poisoned_ahead").await;
}

async fn some_rows_kill_their_process(bench: &Bench, mode: &str) {
    jobs(&bench.db, 30).await;
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    let (mut deaths, begun) = (0, Instant::now());
    let mut worker = Worker::start(&bench.url, mode);
    while statuses(&bench.db).await.iter().any(|status| status == "pending") {
        if worker.is_dead() {
            deaths += 1;
            // The rest of a batch waits only for its lease, not for the row that kills.
            worker = Worker::start(&bench.url, mode);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < Duration::from_secs(120), "{deaths} deaths, {:?}", statuses(&bench.db).await);
    }
    assert_eq!(worker.kill(), "");
    for id in [10, 20, 30] {
        let row = job(&bench.db, id).await;
        assert_eq!((row.status.as_str(), row.attempts), ("failed", 3));
        let message = row.error_message.unwrap();
        assert!(message.contains("the process died, or lost its claim, while it worked on this row"), "{message}");
    }
    // Two crashes that cost nothing, and one for each attempt; fewer if the machine is so busy that a claim expires by
    // itself.
    assert!((3..=3 * (2 + 3)).contains(&deaths), "{deaths} deaths");
    let done: Vec<i64> = (1..=30).filter(|id| id % 10 != 0).collect();
    if mode != "poisoned_ahead" {
        assert_eq!(effects(&bench.db).await, done, "each once");
    }
    for id in done {
        assert_eq!(job(&bench.db, id).await.attempts, 1);
    }
    let claims = Statement::from_string(bench.db.get_database_backend(), "SELECT owner FROM service_claim");
    assert!(bench.db.query_all_raw(claims).await.unwrap().is_empty(), "claims are left");
}

async fn work(service_db: &ServiceDb, n: u64) -> Result<Outcome> {
    let mut batch = service_db.claim::<job::Entity>(n).await?;
    while let Some(item) = batch.next().await? {
        let done = effect(item.tx(), item.model().id).await;
        item.settle(done).await?;
    }
    batch.commit().await
}

/// Works until all rows are done, despite failures. Returns the number of failures.
async fn work_through(service_db: ServiceDb) -> Result<u64> {
    let mut failures = 0;
    loop {
        match work(&service_db, 20).await {
            Ok(outcome) if outcome == Outcome::idle() => {
                // Rows may still be locked by a connection that is ending.
                match job::Entity::find().filter(job::Column::Status.ne("completed")).count(service_db.db()).await {
                    Ok(0) => return Ok(failures),
                    Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(_) => failures += 1,
                }
            }
            Ok(_) => {}
            Err(error) => {
                failures += 1;
                let _ = service_db.settle(Some(&error.to_string())).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        if failures > 500 {
            return Err(Error::msg("it does not recover"));
        }
    }
}

/// On SQLite: no room for more pages.
async fn a_full_disk_loses_nothing() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 2_000).await;
    let pages = Statement::from_string(sea_orm::DbBackend::Sqlite, "PRAGMA page_count");
    let pages: i32 = bench.db.query_one_raw(pages).await.unwrap().unwrap().try_get("", "page_count").unwrap();
    let mut options = ConnectOptions::new(bench.url.clone());
    // The pragma applies to one connection, so every connection of this pool sets it.
    options
        .max_connections(2)
        .map_sqlx_sqlite_opts(move |options| options.pragma("max_page_count", format!("{}", pages + 2)));
    let tight = Database::connect(options).await.unwrap();
    let service_db = ServiceDb::new(tight.clone(), "worker");
    let mut full = 0;
    for _ in 0..20 {
        if let Err(error) = work(&service_db, 300).await {
            full += 1;
            assert!(format!("{error:#}").contains("full"), "{error:#}");
        }
        service_db.settle(Some("disk full")).await.unwrap();
    }
    assert!(full > 0, "the disk was never full");
    tight.close().await.unwrap();
    assert!(completed(&bench).await < 2_000);
    // Space again.
    assert_eq!(work_through(ServiceDb::new(bench.db.clone(), "worker")).await.unwrap(), 0);
    all_is_well(&bench, 2_000).await;
}

/// The server is stopped as by a power failure, and started again, three times.
async fn after_a_server_was_stopped_the_work_continues() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else { return };
    let server = std::sync::Arc::new(server);
    let url = server.database();
    let bench = Bench::open(url, None).await;
    jobs(&bench.db, 6_000).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        // Before the server is stopped.
        let service_db = ServiceDb::new(database::connect(&bench.url).await.unwrap(), "worker");
        workers.push(tokio::spawn(work_through(service_db)));
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let server = std::sync::Arc::clone(&server);
        tokio::task::spawn_blocking(move || {
            server.down();
            server.up();
        })
        .await
        .unwrap();
    }
    let mut failures = 0;
    for worker in workers {
        failures += worker.await.unwrap().unwrap();
    }
    assert!(failures > 0, "no failure was noticed");
    all_is_well(&bench, 6_000).await;
}

/// Connections are cut during a commit: before the server receives it, or after it, when the answer is on its way.
async fn a_connection_that_is_cut_during_a_commit_loses_and_repeats_nothing() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let bench = Bench::open(url.clone(), None).await;
    jobs(&bench.db, 1_000).await;
    let dir = tempfile::tempdir().unwrap();
    let (target, address) = (server.socket(), dir.path().join(".s.PGSQL.5432"));
    let listener = UnixListener::bind(&address).unwrap();
    let proxy = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(&target).await.unwrap();
            tokio::spawn(forward(client, server));
        }
    });
    let (path, _) = url.split_once("?host=").unwrap();
    let through_proxy = format!("{path}?host={}", dir.path().display());
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let url = through_proxy.clone();
            tokio::spawn(async move { work_through(ServiceDb::new(database::connect(&url).await?, "worker")).await })
        })
        .collect();
    let mut failures = 0;
    for worker in workers {
        failures += worker.await.unwrap().unwrap();
    }
    proxy.abort();
    assert!(failures >= 5, "only {failures} commits were cut");
    all_is_well(&bench, 1_000).await;
}

/// Forwards bytes in both directions, and cuts one in four commits: half of them before, half of them after the server
/// receives them.
async fn forward(mut client: UnixStream, mut server: UnixStream) {
    let (mut up, mut down) = ([0; 16384], [0; 16384]);
    let mut cut_at_answer = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                if up[..length].windows(6).any(|word| word == b"COMMIT") {
                    match fastrand::u8(0..8) {
                        0 => return,
                        1 => cut_at_answer = true,
                        _ => {}
                    }
                }
                if server.write_all(&up[..length]).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                if cut_at_answer { return }
                if client.write_all(&down[..length]).await.is_err() { return }
            }
        }
    }
}

mod on_sqlite_alone {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_loses_nothing() {
        super::a_full_disk_loses_nothing().await;
    }
}

mod on_postgres_alone {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_server_was_stopped_the_work_continues() {
        super::after_a_server_was_stopped_the_work_continues().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_that_is_cut_during_a_commit_loses_and_repeats_nothing() {
        super::a_connection_that_is_cut_during_a_commit_loses_and_repeats_nothing().await;
    }
}
