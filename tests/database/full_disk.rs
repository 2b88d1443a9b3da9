//! A disk that becomes full while services commit, and has space again later. `worker.rs` runs in a file system of its own, and
//! the suite reads what it prints.
//!
//! With `max_page_count` a statement would fail. Here it is the commit.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use service_core::database;
use service_core::prelude::*;

use crate::tables::job;

/// The rows that are pending at first.
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

/// A transaction of the service's own, and a savepoint in it.
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

/// What another connection sees.
async fn report(db: &DatabaseConnection) {
    let completed = count(db, "job WHERE status = 'completed'").await;
    println!("completed={completed}");
    println!("effects={}", count(db, "effect").await);
    println!("distinct={}", count(db, "(SELECT DISTINCT job FROM effect)").await);
    println!("failed={}", count(db, "job WHERE status = 'failed'").await);
}

/// Fills the file system but for a little.
fn fill(dir: &Path) -> Result<()> {
    let ballast = dir.join("ballast");
    let mut file = File::create(&ballast).map_err(Error::new)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    let length = file.metadata().map_err(Error::new)?.len();
    file.set_len(length - 60 * 1024).map_err(Error::new)
}

/// Runs one service through the full disk, and prints what another connection sees then, and after the end.
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
        // A pool of the application's own.
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

#[cfg(test)]
mod suite {
    use std::collections::HashMap;
    use std::process::{Command, Stdio};

    /// Runs a worker in a small file system of its own. `None` if this system does not allow to mount one, which is printed.
    fn worker(mode: &str, pool: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = |then: &str| {
            let mut command = Command::new("unshare");
            let script = format!("mount -t tmpfs -o size=3m tmpfs \"$1\" && {then}");
            command.args(["-rm", "sh", "-c", &script, "sh"]).arg(dir.path()).stdin(Stdio::null());
            command
        };
        if !mounted("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: no file system can be mounted here (unshare -rm, mount -t tmpfs)\n",
            );
            return None;
        }
        let worker = env!("CARGO_BIN_EXE_database-worker");
        let output = mounted("exec \"$2\" \"$1\" \"$3\" \"$4\"").arg(worker).args([mode, pool]).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        Some(printed)
    }

    fn nothing_is_lost(mode: &str, pool: &str) {
        let Some(printed) = worker(mode, pool) else { return };
        let (then, at_the_end) = printed.split_once("-- after the end").unwrap();
        let values = |text: &str| -> HashMap<String, String> {
            text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        let rows = super::ROWS.to_string();
        for text in [then, at_the_end] {
            let found = values(text);
            let counts = ["completed", "effects", "distinct", "failed"].map(|name| found[name].as_str());
            assert_eq!(counts, [&rows, &rows, &rows, "0"], "{mode} {pool}: {printed}");
        }
        let found = values(then);
        assert_eq!(found["state"], "Running", "{mode} {pool}: {printed}");
        assert!(found["errors"].parse::<u64>().unwrap() > 0, "the disk was never full: {printed}");
        assert_eq!(found["shutdown"], "well");
    }

    #[test]
    fn a_claim_whose_commit_meets_a_full_disk_loses_nothing() {
        nothing_is_lost("claim", "url");
    }

    #[test]
    fn a_claim_in_a_pool_of_the_applications_own_loses_nothing_either() {
        nothing_is_lost("claim", "three");
        nothing_is_lost("claim", "one");
    }

    #[test]
    fn items_that_commit_by_themselves_meet_a_full_disk_and_lose_nothing() {
        nothing_is_lost("claim_each", "url");
        nothing_is_lost("claim_each", "three");
    }

    #[test]
    fn a_service_with_savepoints_of_its_own_meets_a_full_disk_and_loses_nothing() {
        nothing_is_lost("own", "url");
        nothing_is_lost("own", "one");
    }
}
