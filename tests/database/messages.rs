//! Errors of users' code and data whose messages contain the words of an outage or of a conflict. The cause of an error
//! is its code: such an error is the row's own, or the service's.

use sea_orm::{ConnectionTrait, DbErr, EntityTrait, RuntimeErr};
use service_core::database::Transaction;
use service_core::prelude::*;

use crate::Bench;
use crate::away::{health, until};
use crate::promises::{run_to_the_end, service_db};
use crate::tables::{effect, effects, job, jobs, more_jobs};

/// The texts of SQLite, PostgreSQL, the driver and the system, which are errors of other kinds.
const TEXTS: [&str; 18] = [
    "malformed JSON",
    "database disk image is malformed",
    "interrupted",
    "deadlock detected",
    "database is locked",
    "database table is locked",
    "attempt to write a readonly database",
    "database or disk is full",
    "could not serialize access due to concurrent update",
    "cached plan must not change result type",
    "cannot execute INSERT in a read-only transaction",
    "terminating connection due to administrator command",
    "server closed the connection unexpectedly",
    "sorry, too many clients already",
    "canceling statement due to lock timeout",
    "mismatched types; it is not compatible with SQL type",
    "pool timed out while waiting for an open connection",
    "Verklemmung entdeckt (40P01)",
];
/// Rows 1 to 3 are good. Each following row has one of the texts.
const GOOD: i64 = 3;

fn text_of(id: i64) -> Option<&'static str> {
    usize::try_from(id - GOOD - 1).ok().and_then(|at| TEXTS.get(at)).copied()
}

/// Makes the database refuse a statement for each row with a text, with this text.
async fn refuse(bench: &Bench, timing: &str, table: &str, event: &str, condition: impl Fn(i64) -> String) {
    if bench.is_postgres() {
        let function = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                        $$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$";
        bench.db.execute_unprepared(function).await.unwrap();
    }
    for (id, text) in (GOOD + 1..).zip(TEXTS) {
        let condition = condition(id);
        let (kind, end) = if timing.starts_with("AFTER") && bench.is_postgres() {
            ("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED")
        } else {
            ("TRIGGER", "")
        };
        let sql = if bench.is_postgres() {
            format!(
                "CREATE {kind} refuse_{id} {timing} {event} ON {table} {end} FOR EACH ROW WHEN ({condition}) \
                 EXECUTE FUNCTION refuse('{text}')"
            )
        } else {
            format!(
                "CREATE TRIGGER refuse_{id} {timing} {event} ON {table} WHEN {condition} BEGIN SELECT RAISE(ABORT, '{text}'); END"
            )
        };
        bench.db.execute_unprepared(&sql).await.unwrap();
    }
}

/// How the text becomes an error.
const WAYS: [&str; 8] = [
    "an error of the user",
    "a database error that the user made",
    "an error of the system",
    "a statement",
    "a statement whose error became a text",
    "a statement in a savepoint",
    "the update to completed",
    "the commit",
];

async fn process(how: &str, job: &job::Model, tx: &Transaction) -> Result<()> {
    let Some(text) = text_of(job.id) else { return Ok(effect(tx, job.id).await?) };
    match how {
        "an error of the user" => Err(Error::msg(text)),
        "a database error that the user made" if job.id % 2 == 0 => Err(DbErr::Custom(text.to_owned()).into()),
        "a database error that the user made" => Err(DbErr::Exec(RuntimeErr::Internal(text.to_owned())).into()),
        "an error of the system" => Err(Error::new(std::io::Error::new(std::io::ErrorKind::ConnectionReset, text))),
        "a statement whose error became a text" => {
            effect(tx, job.id).await.map_err(|error| Error::msg(error.to_string()))
        }
        "a statement in a savepoint" => {
            let inner = sea_orm::TransactionTrait::begin(tx).await?;
            effect(&inner, job.id).await?;
            Ok(inner.commit().await?)
        }
        _ => Ok(effect(tx, job.id).await?),
    }
}

pub(crate) async fn a_row_fails_whatever_the_words_of_its_error(bench: Bench) {
    for each in [false, true] {
        for how in WAYS {
            for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"] {
                bench.db.execute_unprepared(sql).await.unwrap();
            }
            jobs(&bench.db, GOOD).await;
            let last = GOOD + i64::try_from(TEXTS.len()).unwrap();
            more_jobs(&bench.db, GOOD + 1..=last).await;
            match how {
                "the update to completed" => {
                    let completes = |id| format!("NEW.status = 'completed' AND NEW.id = {id}");
                    refuse(&bench, "BEFORE", "job", "UPDATE", completes).await;
                }
                "the commit" => {
                    let completes = |id| format!("NEW.status = 'completed' AND NEW.id = {id}");
                    refuse(&bench, "AFTER", "job", "UPDATE", completes).await;
                }
                _ => refuse(&bench, "BEFORE", "effect", "INSERT", |id| format!("NEW.job = {id}")).await,
            }
            let service_db = service_db(&bench);
            let failures = run_to_the_end(&service_db, each, async |job, tx| process(how, job, tx).await).await;
            let context = format!("{how}, {each}");
            // A batch of `claim` that cannot commit fails its run, and its rows are then claimed one by one.
            let tolerated = if !each && how.starts_with("the ") { 3 } else { 0 };
            assert!(failures <= tolerated, "{context}: {failures} runs failed");
            for row in job::Entity::find().all(&bench.db).await.unwrap() {
                let message = row.error_message.clone().unwrap_or_default();
                match text_of(row.id) {
                    None => assert_eq!((&*row.status, row.attempts, &*message), ("completed", 1, ""), "{context}"),
                    Some(text) => {
                        assert!(message.contains(text), "{context}: {row:?}");
                        assert_eq!((&*row.status, row.attempts), ("pending", 1), "{context}: {row:?}");
                        assert!(row.due.is_some(), "{context}: {row:?}");
                    }
                }
            }
            assert_eq!(effects(&bench.db).await, [1, 2, 3], "{context}");
        }
    }
}

/// Fails with one of the texts, in one of the ways.
struct Failing {
    text: &'static str,
    how: &'static str,
}

#[service(interval = "20ms", retry_delay = "5ms", max_failures = 2, discover = false)]
impl Failing {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        match self.how {
            "statement" => {
                let id = (GOOD + 1..).zip(TEXTS).find(|(_, text)| *text == self.text).map_or(0, |(id, _)| id);
                let tx = cx.begin().await?;
                effect(&tx, id).await?;
                tx.commit().await
            }
            "database" => Err(DbErr::Custom(self.text.to_owned()).into()),
            _ => {
                // The database was used before.
                cx.store().set("seen", &true).await?;
                Err(Error::msg(self.text))
            }
        }
    }
}

/// The failures of a service count, whatever the words.
pub(crate) async fn a_service_fails_whatever_the_words_of_its_error(bench: Bench) {
    jobs(&bench.db, 0).await;
    refuse(&bench, "BEFORE", "effect", "INSERT", |id| format!("NEW.job = {id}")).await;
    let mut builder = ServiceRegistry::builder().without_discovered().database_url(&bench.url);
    for (at, text) in TEXTS.into_iter().enumerate() {
        for how in ["statement", "database", "text"] {
            builder = builder.service_fn(format!("{how}_{at}"), move || Failing { text, how });
        }
    }
    let services = builder.build().await.unwrap();
    for id in services.list() {
        // An error if it fails at once.
        let _ = services.get(&id).unwrap().start().await;
    }
    for id in services.list() {
        until("it has failed", || health(&services, &id).state == ServiceState::Failed).await;
        let found = health(&services, &id);
        assert!(found.reason.as_ref().is_none_or(|why| !why.contains("down for")), "{found:?}");
    }
    // Its error names the failed services.
    let _ = services.shutdown().await;
}

struct Unsuccessful;

#[service(interval = 60, discover = false)]
impl Unsuccessful {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.claim::<job::Entity>(1).for_each(async |_| Err::<(), _>("not yet")).await
    }
}

/// Also those that are no warnings.
#[tokio::test(start_paused = true)]
async fn the_lines_about_an_item_have_the_labels_of_its_service() {
    let bed = crate::bed::Bed::memory().await.unwrap();
    jobs(&bed.db, 1).await;
    let (log, _listening) = crate::log::Log::listen();
    let services = bed.bed.services().await;
    services.register("unsuccessful", Unsuccessful).label("tenant", "acme").start().await.unwrap();
    bed.bed.run_for(std::time::Duration::from_secs(1)).await;
    let lines: Vec<_> = log.lines().into_iter().filter(|line| line.contains("will be tried again")).collect();
    assert!(matches!(&lines[..], [line] if line.contains("service.labels=tenant=acme ")), "{lines:?}");
}

struct Holding;

#[service(interval = 60, discover = false)]
impl Holding {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let mut batch = cx.claim_each::<job::Entity>(1).lease(std::time::Duration::from_secs(9)).await?;
        let _item = batch.next().await?;
        cx.sleep(std::time::Duration::from_secs(8)).await;
        Ok(())
    }
}

/// Those of the tables' watcher, and of the renewal of claims, which are not logged by its loop.
#[tokio::test(start_paused = true)]
async fn the_lines_of_others_about_a_service_have_its_labels() {
    let bed = crate::bed::Bed::memory().await.unwrap();
    jobs(&bed.db, 1).await;
    let (log, _listening) = crate::log::Log::listen();
    let services = bed.bed.services().await;
    services.register("holding", Holding).label("tenant", "acme").start().await.unwrap();
    bed.bed.run_for(std::time::Duration::from_secs(1)).await;
    bed.execute("INSERT INTO service_config VALUES ('holding', 'interval', '\"often\"')").await;
    bed.execute(
        "INSERT INTO service_override VALUES ('holding', 'timeout', '5', 'ann', '', '2020-01-31 12:00:00Z', '2020-02-01 12:00:00Z')",
    )
    .await;
    bed.execute("ALTER TABLE service_claim RENAME TO away").await;
    bed.bed.run_for(std::time::Duration::from_secs(7)).await;
    bed.execute("ALTER TABLE away RENAME TO service_claim").await;
    for text in ["row ignored", "the override of `timeout` by ann has expired", "could not be renewed"] {
        let lines: Vec<_> = log.lines().into_iter().filter(|line| line.contains(text)).collect();
        assert!(!lines.is_empty(), "no `{text}` in {:?}", log.lines());
        assert!(lines.iter().all(|line| line.contains("service.labels=tenant=acme ")), "{lines:?}");
    }
}
