//! What an item fails for: errors that are not its own cost it no attempt, and neither do those of its neighbours.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DbBackend, Statement, TransactionTrait};
use service_core::database::Transaction;
use service_core::prelude::*;

use crate::Bench;
use crate::away::{health, until};
use crate::promises::{execute, jobs_that_cannot_fail, run, run_to_the_end, service_db};
use crate::tables::{create, effect, effects, job, jobs, more_jobs, statuses};

async fn attempts(bench: &Bench) -> Vec<i32> {
    let mut attempts = Vec::new();
    for id in 1..=statuses(&bench.db).await.len() {
        attempts.push(job(&bench.db, id as i64).await.attempts);
    }
    attempts
}

async fn empty(bench: &Bench) {
    execute(bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"]).await;
}

/// Processes rows as the loop of a service does, each with its effect.
async fn work_well(job: &job::Model, tx: &Transaction) -> Result<()> {
    Ok(effect(tx, job.id).await?)
}

/// The driver gives the error of a statement whose future was dropped to the next statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_the_error_of_a_dropped_statement_is_that_of_its_own_item() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for returns_error in [false, true] {
            empty(&bench).await;
            jobs(&bench.db, 4).await;
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                effect(tx, job.id).await?;
                if job.id == 2 {
                    let fails = tx.execute_unprepared("SELECT 1 / (pg_sleep(0.3) IS NULL)::int");
                    tokio::time::timeout(Duration::from_millis(50), fails).await.unwrap_err();
                    if returns_error {
                        return Err(Error::msg("it takes too long"));
                    }
                }
                Ok(())
            };
            let outcome = run(&service_db(&bench), each, process).await.unwrap();
            assert_eq!(outcome, Outcome::processed(3).failed(1), "{each} {returns_error}");
            assert_eq!((effects(&bench.db).await, attempts(&bench).await), (vec![1, 3, 4], vec![1; 4]));
            assert_eq!(statuses(&bench.db).await[1], "pending", "{each} {returns_error}");
        }
    }
}

/// The same in a savepoint of the item. Its rollback undoes the statement, so the item can succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_the_error_of_a_statement_that_is_dropped_in_a_savepoint_does_not_end_the_batch() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for returns_error in [true, false] {
            empty(&bench).await;
            jobs(&bench.db, 4).await;
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                effect(tx, job.id).await?;
                if job.id == 2 {
                    // The error of the last one is not taken before the item ends.
                    for _ in 0..if returns_error { 1 } else { 3 } {
                        let savepoint = TransactionTrait::begin(tx).await?;
                        let fails = savepoint.execute_unprepared("SELECT 1 / (pg_sleep(0.3) IS NULL)::int");
                        tokio::time::timeout(Duration::from_millis(50), fails).await.unwrap_err();
                    }
                    if returns_error {
                        return Err(Error::msg("it takes too long"));
                    }
                }
                Ok(())
            };
            let outcome = run(&service_db(&bench), each, process).await.unwrap();
            let failed = u64::from(returns_error);
            assert_eq!(outcome, Outcome::processed(4 - failed).failed(failed), "{each} {returns_error}");
            let effect_of: Vec<i64> = (1..=4).filter(|id| !returns_error || *id != 2).collect();
            assert_eq!((effects(&bench.db).await, attempts(&bench).await), (effect_of, vec![1; 4]));
        }
    }
}

/// A statement that was dropped, and has no error, changes nothing for the item.
pub(crate) async fn an_item_continues_after_a_statement_that_it_has_dropped(bench: Bench) {
    for each in [false, true] {
        empty(&bench).await;
        jobs(&bench.db, 3).await;
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            let slow = match tx.get_database_backend() {
                sea_orm::DbBackend::Postgres => "SELECT pg_sleep(0.2)",
                _ => {
                    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n"
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(5), tx.execute_unprepared(slow)).await;
            Ok(effect(tx, job.id).await?)
        };
        assert_eq!(run(&service_db(&bench), each, process).await.unwrap(), Outcome::processed(3), "{each}");
        assert_eq!((effects(&bench.db).await, attempts(&bench).await), (vec![1, 2, 3], vec![1; 3]));
    }
}

/// The first statement of an item also sets its savepoint. Dropped at once, it is executed in part or not at all.
pub(crate) async fn an_item_continues_after_a_first_statement_that_it_has_dropped_at_once(bench: Bench) {
    for each in [false, true] {
        for _ in 0..30 {
            empty(&bench).await;
            jobs(&bench.db, 4).await;
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                let _ = tokio::time::timeout(Duration::ZERO, tx.execute_unprepared("SELECT 1")).await;
                Ok(effect(tx, job.id).await?)
            };
            assert_eq!(run(&service_db(&bench), each, process).await.unwrap(), Outcome::processed(4), "{each}");
            assert_eq!((effects(&bench.db).await, attempts(&bench).await), (vec![1, 2, 3, 4], vec![1; 4]));
        }
    }
}

/// A function that fails as a statement does that has a conflict with another transaction.
const CONFLICT: &str = "CREATE OR REPLACE FUNCTION conflict() RETURNS int AS $$ BEGIN \
                        RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$ LANGUAGE plpgsql";

/// Whatever is returned after a conflict with another transaction, the conflict is the cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_an_error_that_follows_from_a_conflict_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        empty(&bench).await;
        jobs(&bench.db, 3).await;
        execute(&bench, &[CONFLICT]).await;
        let has_failed = AtomicBool::new(false);
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            if job.id == 2 && !has_failed.swap(true, Ordering::Relaxed) {
                let _ = tx.execute_unprepared("SELECT conflict()").await;
            }
            // Refused after the conflict, because the transaction has failed.
            Ok(effect(tx, job.id).await?)
        };
        run_to_the_end(&service_db(&bench), each, process).await;
        assert_eq!((effects(&bench.db).await, attempts(&bench).await), (vec![1, 2, 3], vec![1; 3]), "{each}");
    }
}

/// The same if the item ignores the conflict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_conflict_that_an_item_ignores_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        empty(&bench).await;
        jobs(&bench.db, 3).await;
        execute(&bench, &[CONFLICT]).await;
        let has_failed = AtomicBool::new(false);
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            effect(tx, job.id).await?;
            if job.id == 2 && !has_failed.swap(true, Ordering::Relaxed) {
                let _ = tx.execute_unprepared("SELECT conflict()").await;
            }
            Ok(())
        };
        run_to_the_end(&service_db(&bench), each, process).await;
        assert_eq!((effects(&bench.db).await, attempts(&bench).await), (vec![1, 2, 3], vec![1; 3]), "{each}");
    }
}

/// Deferred triggers run when the framework has completed the rows: their errors have kinds, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_conflict_of_a_deferred_trigger_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for (each, count) in [(false, 4), (true, 4), (false, 1), (true, 1)] {
        empty(&bench).await;
        jobs(&bench.db, count).await;
        execute(
            &bench,
            &[
                "DROP TABLE IF EXISTS gate",
                "CREATE TABLE gate (n INT)",
                "INSERT INTO gate VALUES (1)",
                "CREATE OR REPLACE FUNCTION wait() RETURNS trigger AS $$ BEGIN IF EXISTS (SELECT FROM gate) THEN \
                 RAISE EXCEPTION 'not now' USING ERRCODE = '55P03'; END IF; RETURN NULL; END $$ LANGUAGE plpgsql",
                "CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON job DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
                 EXECUTE FUNCTION wait()",
            ],
        )
        .await;
        let service_db = service_db(&bench);
        let _ = run(&service_db, each, work_well).await;
        execute(&bench, &["DELETE FROM gate"]).await;
        run_to_the_end(&service_db, each, work_well).await;
        let all: Vec<i64> = (1..=count).collect();
        assert_eq!((effects(&bench.db).await, attempts(&bench).await), (all, vec![1; count as usize]), "{each}");
    }
}

/// A deferred constraint is checked after the row was completed. What the item itself wrote is the item's error; a
/// constraint that refuses `completed` is an error of the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_deferred_constraint_that_an_item_violates_is_its_own_error() {
    let Some(bench) = Bench::postgres().await else { return };
    execute(
        &bench,
        &[
            "CREATE TABLE parent (id BIGINT PRIMARY KEY)",
            "CREATE TABLE child (parent BIGINT REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
            "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'never completed'; END $$ LANGUAGE plpgsql",
            "CREATE FUNCTION is_completed() RETURNS trigger AS $$ BEGIN IF NOT EXISTS (SELECT FROM job WHERE id = NEW.job AND \
             status = 'completed') THEN RAISE EXCEPTION 'not completed'; END IF; RETURN NULL; END $$ LANGUAGE plpgsql",
        ],
    )
    .await;
    let trigger = |name: &str, on: &str, sql: &str| {
        format!(
            "CREATE CONSTRAINT TRIGGER {name} AFTER {on} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {sql} EXECUTE FUNCTION {name}()"
        )
    };
    for each in [false, true] {
        for by_item in [true, false] {
            empty(&bench).await;
            jobs(&bench.db, 1).await;
            let refuses = if by_item { "WHEN (NEW.id = 99)" } else { "WHEN (NEW.status = 'completed')" };
            execute(&bench, &[&trigger("refuse", "UPDATE ON job", refuses)]).await;
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                effect(tx, job.id).await?;
                if by_item {
                    tx.execute_unprepared("INSERT INTO child VALUES (7)").await?;
                }
                Ok(())
            };
            let done = run(&service_db(&bench), each, process).await;
            let expected = by_item.then(|| Outcome::processed(0).failed(1));
            assert_eq!(done.ok(), expected, "{each}");
            assert_eq!(attempts(&bench).await, [i32::from(by_item)], "{each}");
        }
        // A constraint may require that the row is completed.
        empty(&bench).await;
        jobs(&bench.db, 1).await;
        let triggers =
            [trigger("refuse", "UPDATE ON job", "WHEN (NEW.id = 99)"), trigger("is_completed", "INSERT ON effect", "")];
        execute(&bench, &[&triggers[0], &triggers[1]]).await;
        assert_eq!(run(&service_db(&bench), each, work_well).await.unwrap(), Outcome::processed(1), "{each}");
    }
}

/// Rows that refer to a claimed row can be inserted while it is processed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_rows_may_refer_to_a_row_in_flight() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 2).await;
    execute(&bench, &["CREATE TABLE line (job BIGINT REFERENCES job (id))"]).await;
    for each in [false, true] {
        execute(&bench, &["UPDATE job SET status = 'pending'"]).await;
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            tx.execute_unprepared("SELECT 1").await?;
            let insert = format!("INSERT INTO line VALUES ({})", job.id);
            let inserted = tokio::time::timeout(Duration::from_secs(20), bench.db.execute_unprepared(&insert)).await;
            inserted.expect("it does not wait for the batch")?;
            Ok(())
        };
        assert_eq!(run(&service_db(&bench), each, process).await.unwrap(), Outcome::processed(2), "{each}");
        // A row with an uncommitted reference is claimed as well.
        let tx = bench.db.begin().await.unwrap();
        execute(&bench, &["UPDATE job SET status = 'pending'"]).await;
        tx.execute_unprepared("INSERT INTO line VALUES (1)").await.unwrap();
        let nothing = async |_: &job::Model, _: &Transaction| -> Result<()> { Ok(()) };
        assert_eq!(run(&service_db(&bench), each, nothing).await.unwrap(), Outcome::processed(2), "{each}");
        tx.rollback().await.unwrap();
    }
}

/// Processes rows in a loop. In the first run, another connection of its own breaks while a row is in flight.
struct Looping {
    url: String,
    runs: AtomicUsize,
}

#[service(interval = "50ms", retry_delay = "50ms", max_failures = 5, discover = false)]
impl Looping {
    async fn update(&self, cx: &Context) -> Result<Outcome> {
        let first = self.runs.fetch_add(1, Ordering::Relaxed) == 0;
        let each = cx.service_id() == "each";
        let mut batch =
            if each { cx.claim_each::<job::Entity>(10).await? } else { cx.claim::<job::Entity>(10).await? };
        while let Some(item) = batch.next().await? {
            effect(item.tx(), item.model().id).await?;
            if first {
                let other = Database::connect(ConnectOptions::new(self.url.clone())).await?;
                other.execute_unprepared("SELECT pg_terminate_backend(pg_backend_pid())").await?;
            }
            item.settle(Ok::<_, Error>(())).await?;
        }
        batch.commit().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_an_outage_that_another_statement_of_the_run_meets_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for id in ["each", "together"] {
        empty(&bench).await;
        jobs(&bench.db, 3).await;
        let builder = ServiceRegistry::builder().without_discovered().database_url(&bench.url);
        let url = bench.url.clone();
        let looping = move || Looping { url: url.clone(), runs: AtomicUsize::new(0) };
        let services = builder.service_fn(id, looping).start_all().await.unwrap();
        until("the rows are processed", || health(&services, id).total_processed == 3).await;
        services.shutdown().await.unwrap();
        assert_eq!((effects(&bench.db).await, attempts(&bench).await), (vec![1, 2, 3], vec![1; 3]), "{id}");
    }
}

/// A row that cannot be read, and whose status `failed` is refused only at the commit.
pub(crate) async fn an_unreadable_row_that_is_refused_at_the_commit_blocks_no_other(bench: Bench) {
    for each in [false, true] {
        execute(
            &bench,
            &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DROP TABLE IF EXISTS job_status"],
        )
        .await;
        jobs_that_cannot_fail(&bench, 4).await;
        if bench.is_postgres() {
            execute(&bench, &["ALTER TABLE job ALTER COLUMN payload DROP NOT NULL"]).await;
            execute(&bench, &["UPDATE job SET payload = NULL WHERE id = 2"]).await;
        } else {
            execute(&bench, &["UPDATE job SET updated_at = 'never' WHERE id = 2"]).await;
        }
        let service_db = service_db(&bench);
        run_to_the_end(&service_db, each, work_well).await;
        assert_eq!(effects(&bench.db).await, [1, 3, 4], "{each}");
        more_jobs(&bench.db, 11..=13).await;
        assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(3), "{each}");
    }
}

/// A row that cannot be read, and that another program cancels when it is claimed.
pub(crate) async fn an_unreadable_row_that_another_program_has_changed_is_left_alone(bench: Bench) {
    jobs(&bench.db, 3).await;
    if bench.is_postgres() {
        let function = "CREATE FUNCTION cancel() RETURNS trigger AS $$ BEGIN UPDATE job SET status = 'cancelled' WHERE id = 2; \
                        RETURN NULL; END $$ LANGUAGE plpgsql";
        let trigger = "CREATE TRIGGER cancel AFTER INSERT ON service_claim FOR EACH ROW WHEN (NEW.row_key = '2') EXECUTE FUNCTION cancel()";
        let nullable = "ALTER TABLE job ALTER COLUMN payload DROP NOT NULL";
        execute(&bench, &[function, trigger, nullable, "UPDATE job SET payload = NULL WHERE id = 2"]).await;
    } else {
        let trigger = "CREATE TRIGGER cancel AFTER INSERT ON service_claim WHEN NEW.row_key = '2' \
                       BEGIN UPDATE job SET status = 'cancelled' WHERE id = 2; END";
        execute(&bench, &[trigger, "UPDATE job SET updated_at = 'never' WHERE id = 2"]).await;
    }
    let service_db = service_db(&bench);
    assert_eq!(run(&service_db, true, work_well).await.unwrap(), Outcome::processed(2));
    assert_eq!(statuses(&bench.db).await, ["completed", "cancelled", "completed"]);
}

/// PostgreSQL has times that the driver cannot hold, at which it panics.
#[tokio::test]
async fn an_infinite_time_fails_only_its_row() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect"]).await;
        jobs(&bench.db, 4).await;
        execute(&bench, &["UPDATE job SET updated_at = 'infinity' WHERE id = 2"]).await;
        execute(&bench, &["UPDATE job SET due = '-infinity' WHERE id = 3"]).await;
        run_to_the_end(&service_db(&bench), each, work_well).await;
        assert_eq!(effects(&bench.db).await, [1, 4], "{each}");
        let sql = "SELECT id FROM job WHERE status = 'failed' AND error_message LIKE '%cannot be read%' ORDER BY id";
        let rows = bench.db.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
        let failed: Vec<i64> = rows.iter().map(|row| row.try_get("", "id").unwrap()).collect();
        assert_eq!(failed, [2, 3], "{each}");
    }
}

/// Its type panics at a value that it does not know.
mod graded {
    use sea_orm::entity::prelude::*;
    use sea_orm::sea_query::{ArrayType, ValueType, ValueTypeErr};
    use sea_orm::{ColIdx, QueryResult, TryGetError, TryGetable};
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Grade(char);

    impl From<Grade> for Value {
        fn from(grade: Grade) -> Self {
            grade.0.to_string().into()
        }
    }

    impl TryGetable for Grade {
        fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
            Ok(Self(String::try_get_by(row, index)?.chars().next().expect("a grade has a letter")))
        }
    }

    impl ValueType for Grade {
        fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
            let text = <String as ValueType>::try_from(value)?;
            Ok(Self(text.chars().next().ok_or(ValueTypeErr)?))
        }

        fn type_name() -> String {
            "Grade".into()
        }

        fn array_type() -> ArrayType {
            ArrayType::String
        }

        fn column_type() -> ColumnType {
            ColumnType::Text
        }
    }

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "graded")]
    #[work_item(status = "status", error = "error")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) grade: Grade,
        pub(crate) status: String,
        pub(crate) error: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// As the driver at an infinite time, a type of the application may panic.
pub(crate) async fn a_type_that_panics_fails_only_its_row(bench: Bench) {
    create(&bench.db, graded::Entity).await;
    for each in [false, true] {
        let rows = "(1, 'a', 'pending'), (2, '', 'pending'), (3, 'b', 'pending')";
        execute(&bench, &["DELETE FROM graded", &format!("INSERT INTO graded (id, grade, status) VALUES {rows}")])
            .await;
        let service_db = service_db(&bench);
        for _ in 0..3 {
            let mut batch = match each {
                true => service_db.claim_each::<graded::Entity>(10).await.unwrap(),
                false => service_db.claim::<graded::Entity>(10).await.unwrap(),
            };
            while let Some(item) = batch.next().await.unwrap() {
                item.settle(Ok::<_, Error>(())).await.unwrap();
            }
            let _ = batch.commit().await.unwrap();
        }
        let sql = "SELECT status, error FROM graded ORDER BY id";
        let rows = bench.db.query_all_raw(Statement::from_string(bench.db.get_database_backend(), sql)).await.unwrap();
        let column =
            |name: &str| rows.iter().map(|row| row.try_get("", name).unwrap()).collect::<Vec<Option<String>>>();
        assert_eq!(column("status"), ["completed", "failed", "completed"].map(|status| Some(status.into())), "{each}");
        let error = column("error")[1].clone().unwrap();
        assert!(error.contains("a grade has a letter"), "{each}: {error}");
    }
}

/// A row that cannot be read, by claims of one row: the rows after it show that the table fits.
pub(crate) async fn an_unreadable_row_fails_also_if_it_is_claimed_alone(bench: Bench) {
    jobs(&bench.db, 3).await;
    if bench.is_postgres() {
        execute(&bench, &["ALTER TABLE job ALTER COLUMN payload DROP NOT NULL"]).await;
        execute(&bench, &["UPDATE job SET payload = NULL WHERE id = 1"]).await;
    } else {
        execute(&bench, &["UPDATE job SET updated_at = 'never' WHERE id = 1"]).await;
    }
    let service_db = service_db(&bench);
    for each in [false, true, false, true] {
        let batch = match each {
            true => service_db.claim_each::<job::Entity>(1).await,
            false => service_db.claim::<job::Entity>(1).await,
        };
        let mut batch = batch.unwrap();
        while let Some(item) = batch.next().await.unwrap() {
            item.settle(Ok::<_, Error>(())).await.unwrap();
        }
        let _ = batch.commit().await.unwrap();
    }
    assert_eq!(statuses(&bench.db).await, ["failed", "completed", "completed"]);
}

/// No completed rows are kept, so that a refused row could be taken for a table that refuses all.
pub(crate) async fn a_row_that_is_refused_is_charged_where_completed_rows_are_removed(bench: Bench) {
    for each in [false, true] {
        empty(&bench).await;
        jobs(&bench.db, 3).await;
        let triggers: &[&str] = if bench.is_postgres() {
            &[
                "CREATE OR REPLACE FUNCTION away() RETURNS trigger AS $$ BEGIN DELETE FROM job WHERE id = NEW.id; RETURN NULL; END $$ \
                 LANGUAGE plpgsql",
                "CREATE TRIGGER away AFTER UPDATE ON job FOR EACH ROW WHEN (NEW.status = 'completed') EXECUTE FUNCTION away()",
                "ALTER TABLE job ADD CHECK (status <> 'completed' OR id <> 2)",
            ]
        } else {
            &[
                "CREATE TRIGGER away AFTER UPDATE ON job WHEN NEW.status = 'completed' BEGIN DELETE FROM job WHERE id = NEW.id; END",
                "CREATE TRIGGER strict BEFORE UPDATE ON job WHEN NEW.status = 'completed' AND NEW.id = 2 \
                 BEGIN SELECT RAISE(FAIL, 'not so'); END",
            ]
        };
        execute(&bench, triggers).await;
        let service_db = service_db(&bench);
        for _ in 0..6 {
            let _ = run(&service_db, each, work_well).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(effects(&bench.db).await, [1, 3], "{each}");
        let row = job(&bench.db, 2).await;
        assert!(row.attempts > 0 && row.error_message.is_some(), "{each}: {row:?}");
    }
}

/// A row is refused together with all others, and completes later. When the table refuses it again, the table is the
/// cause again.
pub(crate) async fn a_row_that_was_refused_and_has_completed_is_not_the_cause_later(bench: Bench) {
    for each in [false, true] {
        empty(&bench).await;
        jobs(&bench.db, 2).await;
        execute(&bench, &["DROP TABLE IF EXISTS gate", "CREATE TABLE gate (n INT)"]).await;
        if bench.is_postgres() {
            let function = "CREATE OR REPLACE FUNCTION shut() RETURNS trigger AS $$ BEGIN IF EXISTS (SELECT FROM gate) THEN \
                            RAISE EXCEPTION 'not now'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql";
            let trigger = "CREATE TRIGGER shut BEFORE UPDATE ON job FOR EACH ROW WHEN (NEW.status = 'completed') EXECUTE FUNCTION shut()";
            execute(&bench, &[function, trigger]).await;
        } else {
            let trigger = "CREATE TRIGGER shut BEFORE UPDATE ON job WHEN NEW.status = 'completed' AND EXISTS (SELECT 1 FROM gate) \
                           BEGIN SELECT RAISE(FAIL, 'not now'); END";
            execute(&bench, &[trigger]).await;
        }
        let service_db = service_db(&bench);
        for _ in 0..2 {
            execute(&bench, &["INSERT INTO gate VALUES (1)"]).await;
            execute(&bench, &["UPDATE job SET status = CASE id WHEN 1 THEN 'pending' ELSE 'away' END, attempts = 0"])
                .await;
            run(&service_db, each, work_well).await.unwrap_err();
            assert_eq!(job(&bench.db, 1).await.attempts, 0, "{each}: the table is the cause");
            execute(&bench, &["DELETE FROM gate", "UPDATE job SET status = 'pending'"]).await;
            for _ in 0..2 {
                let _ = run(&service_db, each, work_well).await.unwrap();
            }
            assert_eq!(statuses(&bench.db).await, ["completed"; 2], "{each}");
        }
    }
}

/// A table that has completed rows, and now refuses to: by a history that is gone, or by a constraint for new rows.
pub(crate) async fn a_table_that_refuses_completions_later_fails_the_run_and_no_row(bench: Bench) {
    let (history, refuses, accepts) = if bench.is_postgres() {
        execute(
            &bench,
            &["CREATE FUNCTION note() RETURNS trigger AS $$ BEGIN INSERT INTO history VALUES (NEW.id); RETURN NULL; END $$ \
               LANGUAGE plpgsql"],
        )
        .await;
        (
            "CREATE TRIGGER note AFTER UPDATE ON job FOR EACH ROW WHEN (NEW.status = 'completed') EXECUTE FUNCTION note()",
            "ALTER TABLE job ADD CONSTRAINT never CHECK (status <> 'completed') NOT VALID",
            "ALTER TABLE job DROP CONSTRAINT never",
        )
    } else {
        (
            "CREATE TRIGGER note AFTER UPDATE ON job WHEN NEW.status = 'completed' BEGIN INSERT INTO history VALUES (NEW.id); END",
            "CREATE TRIGGER never BEFORE UPDATE ON job WHEN NEW.status = 'completed' BEGIN SELECT RAISE(FAIL, 'never'); END",
            "DROP TRIGGER never",
        )
    };
    let create_history = "CREATE TABLE IF NOT EXISTS history (job BIGINT)";
    for each in [false, true] {
        for (breaks, mends) in [("DROP TABLE history", create_history), (refuses, accepts)] {
            // One row by itself, and several.
            for last in [5, 8] {
                empty(&bench).await;
                jobs(&bench.db, 4).await;
                execute(&bench, &[create_history, history]).await;
                let service_db = service_db(&bench);
                assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(4), "{each} {breaks}");
                execute(&bench, &[breaks]).await;
                more_jobs(&bench.db, 5..=last).await;
                let mut failures = 0;
                for _ in 0..10 {
                    failures += usize::from(run(&service_db, each, work_well).await.is_err());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert!(failures > 0 || last == 5, "{each} {breaks}");
                for id in 5..=last {
                    let row = job(&bench.db, id).await;
                    assert_eq!((&*row.status, row.attempts), ("pending", 0), "{each} {breaks} {row:?}");
                }
                // The next completion shows that the table accepts them again.
                execute(&bench, &[mends]).await;
                more_jobs(&bench.db, last + 1..=last + 1).await;
                for _ in 0..10 {
                    let _ = run(&service_db, each, work_well).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert_eq!(effects(&bench.db).await, (1..=last + 1).collect::<Vec<_>>(), "{each} {breaks}");
                assert_eq!(attempts(&bench).await, vec![1; last as usize + 1], "{each} {breaks}");
            }
        }
    }
}

/// Rows that this program cannot read, in a table whose older rows it can: the table does not fit the program any more.
pub(crate) async fn new_rows_of_which_none_can_be_read_fail_the_run_and_no_row(bench: Bench) {
    let spoil = if bench.is_postgres() {
        "UPDATE job SET payload = NULL WHERE status = 'pending'"
    } else {
        "UPDATE job SET updated_at = 'never' WHERE status = 'pending'"
    };
    for each in [false, true] {
        empty(&bench).await;
        jobs(&bench.db, 4).await;
        if bench.is_postgres() {
            execute(&bench, &["ALTER TABLE job ALTER COLUMN payload DROP NOT NULL"]).await;
        }
        let service_db = service_db(&bench);
        assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(4), "{each}");
        // Several at once, and then one after the other.
        more_jobs(&bench.db, 5..=8).await;
        execute(&bench, &[spoil]).await;
        run(&service_db, each, work_well).await.unwrap_err();
        assert_eq!(statuses(&bench.db).await[4..], ["pending"; 4], "{each}");
        execute(&bench, &["DELETE FROM job WHERE id > 4"]).await;
        let mut failures = Vec::new();
        for id in 5..=7 {
            more_jobs(&bench.db, id..=id).await;
            execute(&bench, &[spoil]).await;
            failures.push(run(&service_db, each, work_well).await.is_err());
        }
        // The first one can be the only one.
        assert_eq!(statuses(&bench.db).await[4..], ["failed", "pending", "pending"], "{each}");
        assert_eq!(failures, [false, true, true], "{each}");
        // A row that can be read shows that the table fits.
        more_jobs(&bench.db, 8..=8).await;
        let _ = run(&service_db, each, work_well).await.unwrap();
        assert_eq!(statuses(&bench.db).await[4..], ["failed", "failed", "failed", "completed"], "{each}");
    }
}
