//! Tables that refuse to complete rows: how they differ from a row that is refused, and what such a row costs.

use std::sync::atomic::{AtomicUsize, Ordering};

use service_core::database::Transaction;
use service_core::prelude::*;

use crate::Bench;
use crate::promises::{execute, run, service_db};
use crate::tables::{effect, job, jobs, more_jobs, statuses};

const RESET: [&str; 4] = [
    "DROP TABLE IF EXISTS job",
    "DROP TABLE IF EXISTS effect",
    "DROP TABLE IF EXISTS gate",
    "DELETE FROM service_claim",
];

async fn work_well(job: &job::Model, tx: &Transaction) -> Result<()> {
    Ok(effect(tx, job.id).await?)
}

/// Creates a trigger before updates of rows that meet a condition; `effect` is what it does then.
async fn before_update(bench: &Bench, name: &str, condition: &str, effect: &str) {
    if bench.is_postgres() {
        let effect = match effect {
            "ignore" => "RETURN NULL;".to_owned(),
            code => format!("RAISE EXCEPTION 'not so' USING ERRCODE = '{code}';"),
        };
        let body = format!("BEGIN IF {condition} THEN {effect} END IF; RETURN NEW; END");
        let function = format!("CREATE OR REPLACE FUNCTION {name}() RETURNS trigger AS $$ {body} $$ LANGUAGE plpgsql");
        let trigger = format!("CREATE TRIGGER {name} BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION {name}()");
        execute(bench, &[&function, &trigger]).await;
    } else {
        let effect = if effect == "ignore" { "RAISE(IGNORE)" } else { "RAISE(ABORT, 'not so')" };
        let trigger = format!("CREATE TRIGGER {name} BEFORE UPDATE ON job WHEN {condition} BEGIN SELECT {effect}; END");
        execute(bench, &[&trigger]).await;
    }
}

/// Completed rows stay completed, by an error or without one. So they cannot show that the table accepts completions.
pub(crate) async fn completed_rows_that_must_not_change_prove_nothing(bench: Bench) {
    for each in [false, true] {
        for (name, condition, effect) in [
            ("final", "OLD.status = 'completed' AND NEW.status <> 'completed'", "P0001"),
            ("final", "OLD.status = 'completed' AND NEW.status <> 'completed'", "ignore"),
            // The row becomes pending, and then stays so.
            ("once", "OLD.id <= 2 AND NEW.status = 'completed'", "ignore"),
        ] {
            execute(&bench, &RESET).await;
            jobs(&bench.db, 2).await;
            let service_db = service_db(&bench);
            assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(2));
            before_update(&bench, name, condition, effect).await;
            let refuses = "OLD.id > 2 AND OLD.status <> NEW.status AND NEW.status = 'completed'";
            before_update(&bench, "refuses", refuses, "P0001").await;
            more_jobs(&bench.db, 3..=5).await;
            for _ in 0..10 {
                let _ = run(&service_db, each, work_well).await;
            }
            for id in 3..=5 {
                let row = job(&bench.db, id).await;
                assert_eq!((&*row.status, row.attempts), ("pending", 0), "{each} {name} {effect}: {row:?}");
            }
            assert_eq!(statuses(&bench.db).await[..2], ["completed"; 2], "{each} {name} {effect}");
        }
    }
}

/// A table that refuses, accepts and refuses again: the second time, too, the table is the cause.
pub(crate) async fn a_table_that_refuses_for_the_second_time_costs_no_attempt(bench: Bench) {
    for each in [false, true] {
        execute(&bench, &RESET).await;
        jobs(&bench.db, 1).await;
        execute(&bench, &["CREATE TABLE gate (n INT)"]).await;
        let service_db = service_db(&bench);
        assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(1));
        let shut = "NEW.status = 'completed' AND EXISTS (SELECT 1 FROM gate)";
        before_update(&bench, "shut", shut, "P0001").await;
        more_jobs(&bench.db, 2..=4).await;
        for more in [5, 6] {
            execute(&bench, &["INSERT INTO gate VALUES (1)"]).await;
            for _ in 0..8 {
                let _ = run(&service_db, each, work_well).await;
            }
            for id in 2..=4 {
                let row = job(&bench.db, id).await;
                assert_eq!((&*row.status, row.attempts), ("pending", 0), "{each} {more}: {row:?}");
            }
            execute(&bench, &["DELETE FROM gate"]).await;
            if more == 5 {
                // Only this one is claimed: the others are left out.
                more_jobs(&bench.db, more..=more).await;
                assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(1), "{each}");
            }
        }
    }
}

/// A completed row may violate a rule that was added later. It must not protect a new row that does, too.
pub(crate) async fn an_old_row_that_violates_a_new_rule_protects_no_other(bench: Bench) {
    for each in [false, true] {
        execute(&bench, &RESET).await;
        jobs(&bench.db, 1).await;
        let service_db = service_db(&bench);
        assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(1));
        before_update(&bench, "rule", "NEW.status = 'completed' AND NEW.id <= 2", "P0001").await;
        more_jobs(&bench.db, 2..=2).await;
        run(&service_db, each, work_well).await.unwrap_err();
        more_jobs(&bench.db, 3..=3).await;
        assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(1), "{each}");
        for _ in 0..4 {
            let _ = run(&service_db, each, work_well).await;
        }
        let attempts = (job(&bench.db, 2).await.attempts, job(&bench.db, 3).await.attempts);
        assert_eq!(attempts, (1, 1), "{each}");
    }
}

/// The trial of a completion meets a limit on the time of statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_trial_that_takes_too_long_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for code in ["57014", "55P03", "0A000"] {
            execute(&bench, &RESET).await;
            jobs(&bench.db, 1).await;
            let service_db = service_db(&bench);
            assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(1));
            before_update(&bench, "cancelled", "OLD.status = 'completed'", code).await;
            before_update(&bench, "refuses", "NEW.status = 'completed'", "P0001").await;
            more_jobs(&bench.db, 2..=2).await;
            let error = run(&service_db, each, work_well).await.unwrap_err().to_string();
            assert!(error.contains("refuses to complete rows"), "{each} {code}: {error}");
            let row = job(&bench.db, 2).await;
            assert_eq!((&*row.status, row.attempts), ("pending", 0), "{each} {code}: {row:?}");
        }
    }
}

/// A single row that is refused may be the cause itself. While it is left out, the service is not at fault.
pub(crate) async fn a_refused_row_fails_one_run_and_two_fail_each_run(bench: Bench) {
    for each in [false, true] {
        execute(&bench, &RESET).await;
        jobs(&bench.db, 1).await;
        before_update(&bench, "refuses", "NEW.status = 'completed'", "P0001").await;
        let service_db = service_db(&bench);
        run(&service_db, each, work_well).await.unwrap_err();
        for _ in 0..3 {
            assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::idle(), "{each}");
        }
        more_jobs(&bench.db, 2..=2).await;
        for _ in 0..3 {
            let error = run(&service_db, each, work_well).await.unwrap_err().to_string();
            assert!(error.contains("refuses to complete rows"), "{each}: {error}");
        }
        assert_eq!((job(&bench.db, 1).await.attempts, job(&bench.db, 2).await.attempts), (0, 0), "{each}");
    }
}

/// The code of a row runs before its completion is refused, so that of the next rows does not run for nothing.
pub(crate) async fn after_a_refused_completion_no_further_row_is_lent(bench: Bench) {
    for closure in [false, true] {
        execute(&bench, &RESET).await;
        jobs(&bench.db, 6).await;
        before_update(&bench, "refuses", "NEW.status = 'completed'", "P0001").await;
        let (service_db, lent) = (service_db(&bench), AtomicUsize::new(0));
        let count = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            lent.fetch_add(1, Ordering::Relaxed);
            work_well(job, tx).await
        };
        if closure {
            let each = service_db.claim_each::<job::Entity>(10);
            each.for_each(async |item| count(item.model(), item.tx()).await).await.unwrap_err();
        } else {
            run(&service_db, true, count).await.unwrap_err();
        }
        assert_eq!((lent.load(Ordering::Relaxed), crate::each::claims(&bench).await), (1, 0), "{closure}");
        assert_eq!(statuses(&bench.db).await, ["pending"; 6], "{closure}");
    }
}

/// The error names the cause, and not the number of rows that are left out for it.
#[tokio::test]
async fn on_sqlite_a_table_that_has_refused_many_rows_is_named_as_the_cause() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 205).await;
    before_update(&bench, "refuses", "NEW.status = 'completed'", "P0001").await;
    let service_db = service_db(&bench);
    for _ in 0..205 {
        let mut batch = match service_db.claim_each::<job::Entity>(1).await {
            Ok(batch) => batch,
            Err(_) => break,
        };
        while let Some(item) = batch.next().await.unwrap() {
            item.settle(Ok::<_, Error>(())).await.unwrap();
        }
        batch.commit().await.unwrap_err();
    }
    let error = service_db.claim_each::<job::Entity>(1).await.unwrap_err().to_string();
    assert!(error.contains("refuses to complete rows"), "{error}");
}
