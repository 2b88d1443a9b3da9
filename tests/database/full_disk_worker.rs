//! A service whose disk becomes full while it commits, and later has space again. It runs in a process with a small
//! file system of its own: see `full_disk.rs`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use service_core::database;
use service_core::prelude::*;

use crate::tables::job;

/// How many rows are pending in the beginning.
pub(crate) const ROWS: i64 = 120;

#[derive(Default)]
struct Together;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Together {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim::<job::Entity>(20).await?;
        while let Some(item) = batch.next().await? {
            let done = effect(item.tx(), item.model().id).await;
            item.settle(done).await?;
        }
        batch.commit().await
    }
}

#[derive(Default)]
struct Each;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Each {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim_each::<job::Entity>(20).await?;
        while let Some(item) = batch.next().await? {
            let done = effect(item.tx(), item.model().id).await;
            item.settle(done).await?;
        }
        batch.commit().await
    }
}

/// Begins a transaction itself, and a savepoint in it.
#[derive(Default)]
struct Own;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Own {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let tx = cx.begin().await?;
        let pending = Statement::from_string(
            tx.get_database_backend(),
            "SELECT id FROM job WHERE status = 'pending' ORDER BY id LIMIT 10",
        );
        let rows = tx.query_all_raw(pending).await?;
        for row in &rows {
            let id: i64 = row.try_get("", "id")?;
            let inner = sea_orm::TransactionTrait::begin(&tx).await?;
            effect(&inner, id).await?;
            inner.execute_unprepared(&format!("UPDATE job SET status = 'completed' WHERE id = {id}")).await?;
            inner.commit().await?;
        }
        tx.commit().await?;
        Ok(Outcome::processed(rows.len() as u64))
    }
}

async fn effect(tx: &impl ConnectionTrait, id: i64) -> Result<()> {
    tx.execute_unprepared(&format!("INSERT INTO effect (job, room) VALUES ({id}, randomblob(4000))")).await?;
    Ok(())
}

async fn count(db: &DatabaseConnection, what: &str) -> i64 {
    let select = Statement::from_string(db.get_database_backend(), format!("SELECT count(*) AS n FROM {what}"));
    match db.query_one_raw(select).await {
        Ok(Some(row)) => row.try_get("", "n").unwrap_or(-1),
        _ => -1,
    }
}

/// Prints what another connection sees.
async fn report(db: &DatabaseConnection) {
    let completed = count(db, "job WHERE status = 'completed'").await;
    println!("completed={completed}");
    println!("effects={}", count(db, "effect").await);
    println!("distinct={}", count(db, "(SELECT DISTINCT job FROM effect)").await);
    println!("failed={}", count(db, "job WHERE status = 'failed'").await);
}

/// Fills the file system except for 60 KiB.
fn fill(dir: &Path) -> Result<()> {
    let ballast = dir.join("ballast");
    let mut file = File::create(&ballast).map_err(Error::new)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    let length = file.metadata().map_err(Error::new)?.len();
    file.set_len(length - 60 * 1024).map_err(Error::new)
}

/// Runs one service while the disk is full and after it has space again. Prints what another connection sees before and
/// after the shutdown.
pub(crate) async fn run(dir: &Path, mode: &str, pool: &str) -> Result<()> {
    let url = format!("sqlite:{}", dir.join("app.db").display());
    let setup = database::connect(&url).await?;
    database::migrate(&setup).await?;
    crate::tables::create(&setup, job::Entity).await;
    setup.execute_unprepared("CREATE TABLE effect (job BIGINT NOT NULL, room BLOB)").await?;
    database::create_claim_index::<job::Entity>(&setup).await?;
    crate::tables::more_jobs(&setup, 1..=ROWS).await;
    setup.close().await?;
    fill(dir)?;
    let mut builder = ServiceRegistry::builder().without_discovered();
    builder = match mode {
        "claim" => builder.service_of::<Together>("filler"),
        "claim_each" => builder.service_of::<Each>("filler"),
        _ => builder.service_of::<Own>("filler"),
    };
    builder = if pool == "url" {
        builder.database_url(&url)
    } else {
        // The application brings its own pool.
        let mut options = ConnectOptions::new(url.clone());
        options.max_connections(if pool == "one" { 1 } else { 3 }).acquire_timeout(Duration::from_secs(5));
        builder.database(Database::connect(options).await?)
    };
    let services = builder.start_all().await?;
    let service = services.get("filler").ok_or_else(|| Error::msg("no service"))?;
    let begun = Instant::now();
    while service.health().error_count < 2 && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("errors={}", service.health().error_count);
    std::fs::remove_file(dir.join("ballast")).map_err(Error::new)?;
    let begun = Instant::now();
    let other = database::connect(&url).await?;
    while count(&other, "job WHERE status = 'completed'").await < ROWS && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("seconds={}", begun.elapsed().as_secs());
    println!("state={:?}", service.state());
    println!("processed={}", service.health().total_processed);
    report(&other).await;
    let ended = services.shutdown().await;
    println!("shutdown={}", ended.map_or_else(|error| format!("{error:#}"), |()| "well".to_owned()));
    println!("-- after the end");
    report(&other).await;
    Ok(())
}
