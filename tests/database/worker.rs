//! A worker process that the suite kills: it processes jobs until then.
//!
//! Arguments: the URL of the database, and `claim`, `claim_each`, `concurrent`, `poisoned`, `poisoned_concurrent`,
//! `poisoned_ahead`, `ahead` or `mailer`; or `all` or `latest` for a cron service with that `catch_up`; or `cluster`
//! for one that runs on one replica at a time.

#[path = "fires.rs"]
mod fires;
#[path = "full_disk_worker.rs"]
mod full_disk;
#[path = "cluster/ledger.rs"]
mod ledger;
#[path = "tables.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the suite")]
mod tables;

use std::time::Duration;

use service_core::__private::database::ServiceDb;
use service_core::database;
use service_core::{CatchUp, Error, Outcome, Result, ServiceOptions, ServiceRegistry};
use tables::{effect, job};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, dir, mode, pool] = arguments.as_slice() {
        return full_disk::run(std::path::Path::new(dir), mode, pool).await;
    }
    let [_, url, mode] = arguments.as_slice() else {
        return Err(Error::msg("usage: worker URL claim|claim_each|poisoned|all|latest"));
    };
    if mode == "cluster" {
        return ledger::run(url).await;
    }
    if let Some(catch_up) = match mode.as_str() {
        "all" => Some(CatchUp::All),
        "latest" => Some(CatchUp::Latest),
        _ => None,
    } {
        let options = ServiceOptions::new().catch_up(catch_up);
        let builder = ServiceRegistry::builder().without_discovered().database_url(url);
        return builder
            .service(fires::FIRES, fires::Fires)
            .options_of(fires::FIRES, options)
            .start_all()
            .await?
            .until_shutdown()
            .await;
    }
    let service_db = ServiceDb::new(database::connect(url).await?, "worker");
    loop {
        let outcome = match mode.as_str() {
            "claim" => together(&service_db).await,
            "poisoned" => poisoned(&service_db).await,
            "concurrent" => concurrent(&service_db).await,
            "poisoned_concurrent" => poisoned_concurrent(&service_db).await,
            "poisoned_ahead" => poisoned_ahead(&service_db).await,
            "ahead" => ahead(&service_db).await,
            "mailer" => mailer(&service_db).await,
            _ => each(&service_db).await,
        };
        match outcome {
            Ok(outcome) if outcome.has_more() => {}
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => {
                // The suite checks that no error, such as a busy database, reaches the user.
                println!("ERROR {error:#}");
                service_db.settle(Some(&error.to_string())).await?;
            }
        }
    }
}

async fn together(service_db: &ServiceDb) -> Result<Outcome> {
    let mut batch = service_db.claim::<job::Entity>(50).await?;
    while let Some(item) = batch.next().await? {
        let done = effect(item.tx(), item.model().id).await;
        item.settle(done).await?;
    }
    batch.commit().await
}

async fn each(service_db: &ServiceDb) -> Result<Outcome> {
    let mut batch = service_db.claim_each::<job::Entity>(20).lease(Duration::from_millis(800)).await?;
    while let Some(item) = batch.next().await? {
        let done = effect(item.tx(), item.model().id).await;
        item.settle(done).await?;
    }
    batch.commit().await
}

/// As `each`, but every tenth row kills the process.
async fn poisoned(service_db: &ServiceDb) -> Result<Outcome> {
    let batch = service_db.claim_each::<job::Entity>(20).lease(Duration::from_millis(300));
    let mut batch = batch.retry_delay(Duration::from_millis(50)).await?;
    while let Some(item) = batch.next().await? {
        let done = effect(item.tx(), item.model().id).await;
        if item.model().id % 10 == 0 {
            std::process::abort();
        }
        item.settle(done).await?;
    }
    batch.commit().await
}

/// As `each`, with several rows at the same time.
async fn concurrent(service_db: &ServiceDb) -> Result<Outcome> {
    let claim = service_db.claim_each::<job::Entity>(40).lease(Duration::from_millis(800)).concurrency(8);
    claim.for_each(async |item| effect(item.tx(), item.model().id).await).await
}

/// As `poisoned`, with several rows at the same time: rows without fault are in flight when the process dies.
async fn poisoned_concurrent(service_db: &ServiceDb) -> Result<Outcome> {
    let claim = service_db.claim_each::<job::Entity>(20).lease(Duration::from_millis(300)).concurrency(8);
    let claim = claim.retry_delay(Duration::from_millis(50));
    let outcome = claim.for_each(async |item| -> Result<()> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if item.model().id % 10 == 0 {
            std::process::abort();
        }
        effect(item.tx(), item.model().id).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    });
    outcome.await
}

/// As `poisoned_concurrent`, without writes of the items.
async fn poisoned_ahead(service_db: &ServiceDb) -> Result<Outcome> {
    let claim = service_db.claim_each::<job::Entity>(20).lease(Duration::from_millis(300)).concurrency(3);
    let claim = claim.retry_delay(Duration::from_millis(50));
    let outcome = claim.for_each(async |item| {
        tokio::time::sleep(Duration::from_millis(item.model().id as u64 % 3)).await;
        if item.model().id % 10 == 0 {
            std::process::abort();
        }
    });
    outcome.await
}

/// Two rows at the same time, which wait until there is an effect. They write nothing.
async fn ahead(service_db: &ServiceDb) -> Result<Outcome> {
    let claim = service_db.claim_each::<job::Entity>(10).lease(Duration::from_millis(600)).concurrency(2);
    let outcome = claim.for_each(async |item| match item.model().payload.as_str() {
        "kill" => std::process::abort(),
        "first" => {}
        _ => {
            while tables::effects(service_db.db()).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    outcome.await
}

/// Sends a mail for each row, which takes its time and is no part of the item's transaction.
async fn mailer(service_db: &ServiceDb) -> Result<Outcome> {
    let mut batch = service_db.claim_each::<job::Entity>(10).lease(Duration::from_secs(3)).await?;
    while let Some(item) = batch.next().await? {
        let mail = format!("INSERT INTO mail VALUES ({})", item.model().id);
        sea_orm::ConnectionTrait::execute_unprepared(service_db.db(), &mail).await?;
        tokio::time::sleep(Duration::from_millis(40)).await;
        item.settle(Ok::<_, Error>(())).await?;
    }
    batch.commit().await
}
