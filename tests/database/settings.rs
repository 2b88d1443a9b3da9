//! The store of a service, and the tables that change a service from outside.

use chrono::{Duration, Utc};
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, Schema};
use serde_json::json;
use service_core::__private::database as internal;
use service_core::__private::database::{LastRun, ServiceDb, WallClock};
use service_core::database::{self, Override};

use crate::Bench;
use crate::tables::job;

pub(crate) async fn the_store_keeps_typed_values(bench: Bench) {
    let service_db = ServiceDb::new(bench.db.clone(), "reader");
    let (mine, other) = (service_db.store(), ServiceDb::new(bench.db.clone(), "other").store());
    assert_eq!(mine.get::<u64>("cursor").await.unwrap(), None);
    mine.set("cursor", &41u64).await.unwrap();
    mine.set("cursor", &42u64).await.unwrap();
    mine.set("seen", &["a", "b"]).await.unwrap();
    assert_eq!(mine.get::<u64>("cursor").await.unwrap(), Some(42));
    assert_eq!(mine.get::<Vec<String>>("seen").await.unwrap(), Some(vec!["a".into(), "b".into()]));
    assert_eq!(other.get::<u64>("cursor").await.unwrap(), None);

    let error = mine.get::<Vec<u8>>("cursor").await.unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("`cursor`") && message.contains("`reader`") && message.contains("Vec<u8>"), "{message}");
    assert!(mine.remove("cursor").await.unwrap());
    assert!(!mine.remove("cursor").await.unwrap());
}

pub(crate) async fn a_value_set_in_a_transaction_is_committed_or_rolled_back_with_it(bench: Bench) {
    let service_db = ServiceDb::new(bench.db.clone(), "reader");
    let store = service_db.store();
    store.set("cursor", &1).await.unwrap();
    let tx = service_db.begin().await.unwrap();
    store.set_in(&tx, "cursor", &2).await.unwrap();
    assert_eq!(store.get_in::<i32>(&tx, "cursor").await.unwrap(), Some(2));
    drop(tx);
    assert_eq!(store.get::<i32>("cursor").await.unwrap(), Some(1));
    let tx = service_db.begin().await.unwrap();
    store.set_in(&tx, "cursor", &3).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.get::<i32>("cursor").await.unwrap(), Some(3));
}

pub(crate) async fn settings_that_are_not_json_are_reported_with_their_key(bench: Bench) {
    bench
        .db
        .execute_unprepared(
            "INSERT INTO service_config VALUES ('mailer', 'batch_size', '10'), ('mailer', 'sender', 'me@example.org'), \
             ('defaults', 'interval', '\"5m\"')",
        )
        .await
        .unwrap();
    let rows = internal::read_config(&bench.db).await.unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[0].service_id.as_str(), rows[0].value.clone()), ("defaults", Ok(json!("5m"))));
    assert_eq!((rows[1].key.as_str(), rows[1].value.clone()), ("batch_size", Ok(json!(10))));
    let bad = rows[2].value.clone().unwrap_err();
    assert_eq!(bad.text, "me@example.org");
    assert!(!bad.to_string().contains("me@example.org") && bad.to_string().contains("quotes"), "{bad}");
}

/// Resolving a configuration copies its values many times, so one of megabytes is not even read.
pub(crate) async fn a_value_that_is_too_long_is_reported_with_its_key(bench: Bench) {
    let long = format!("\"{}\"", "x".repeat(3_000_000));
    for sql in [
        format!("INSERT INTO service_config VALUES ('mailer', 'sender', '{long}'), ('mailer', 'size', '1')"),
        format!(
            "INSERT INTO service_override VALUES ('mailer', 'sender', '{long}', 'ann', 'by hand', CURRENT_TIMESTAMP, NULL)"
        ),
    ] {
        bench.db.execute_unprepared(&sql).await.unwrap();
    }
    let rows = internal::read_config(&bench.db).await.unwrap();
    let bad = rows[0].value.clone().unwrap_err();
    assert!(bad.to_string().contains("longer than 65536") && bad.text.is_empty(), "{bad}");
    assert_eq!(rows[1].value, Ok(json!(1)));
    let overrides = internal::read_overrides(&bench.db, Utc::now()).await.unwrap();
    let bad = overrides[0].clone().unwrap_err().to_string();
    assert!(bad.contains("`sender`") && bad.contains("longer than"), "{bad}");
}

/// Each row is copied for each service that it is for.
pub(crate) async fn a_text_that_is_too_long_is_reported_with_its_key(bench: Bench) {
    // PostgreSQL compresses it for the index of the primary key.
    let long = "x".repeat(70_000);
    let insert = async |table: &str, values: &[String]| {
        bench.db.execute_unprepared(&format!("INSERT INTO {table} VALUES ({})", values.join(", "))).await.unwrap();
    };
    const CONFIG: [&str; 3] = ["service_id", "key", "value"];
    const OVERRIDE: [&str; 7] = ["service_id", "key", "value", "set_by", "why", "set_at", "until"];
    let text = |column: &str, too_long: &str| match column {
        _ if column == too_long => format!("'{long}'"),
        "service_id" => "'mailer'".to_owned(),
        "key" => format!("'with_{too_long}'"),
        "value" => "'5'".to_owned(),
        "set_at" | "until" => "'2999-01-31 12:00:00Z'".to_owned(),
        _ => "'ann'".to_owned(),
    };
    for too_long in ["none", "service_id", "key"] {
        insert("service_config", &CONFIG.map(|column| text(column, too_long))).await;
    }
    for too_long in ["none", "service_id", "key", "set_by", "why", "set_at", "until"] {
        insert("service_override", &OVERRIDE.map(|column| text(column, too_long))).await;
    }
    let rows = internal::read_config(&bench.db).await.unwrap();
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert!(row.service_id.len() < 100 && row.key.len() < 100, "{row:?}");
        match row.key.as_str() {
            "with_none" => assert_eq!(row.value, Ok(json!(5))),
            key => {
                let bad = row.value.clone().unwrap_err().to_string();
                let column = if key == "with_service_id" { "`service_id`" } else { "`key`" };
                assert!(bad.contains(column) && bad.contains("longer than 65536"), "{bad}");
            }
        }
    }
    let (good, bad): (Vec<_>, Vec<_>) =
        internal::read_overrides(&bench.db, Utc::now()).await.unwrap().into_iter().partition(|row| row.is_ok());
    // Who and why are cut, and the override applies.
    assert_eq!((good.len(), bad.len()), (3, 4), "{good:?} {bad:?}");
    for good in good.into_iter().flatten() {
        assert!(good.by.len() < 100 && good.why.len() < 100, "{good:?}");
    }
    for bad in bad {
        let bad = bad.unwrap_err();
        let column = bad.key.strip_prefix("with_").unwrap_or("key").to_owned();
        assert!(bad.reason.contains(&format!("`{column}` is longer than 65536")), "{bad:?}");
        assert!(bad.to_string().len() < 500 && bad.until.is_none() == (column == "until"), "{bad:?}");
    }
    // One whose key was cut cannot be found, and keeps no other from being removed.
    let end = "2999-02-01T00:00:00Z".parse().unwrap();
    let expired = internal::expire_overrides(&bench.db, end).await.unwrap();
    assert_eq!(
        expired.into_iter().map(|expired| expired.key).collect::<Vec<_>>(),
        ["with_none", "with_set_by", "with_why"]
    );
    assert_eq!(internal::read_overrides(&bench.db, Utc::now()).await.unwrap().len(), 4);
}

/// SQLite stores any bytes in any column.
pub(crate) async fn a_row_that_is_not_text_is_reported_and_the_others_are_read(bench: Bench) {
    if bench.db.get_database_backend() != DbBackend::Sqlite {
        return;
    }
    // A text that is not UTF-8, and bytes that would be the key `size`.
    for (key, value) in [("'sender'", "CAST(X'22ff22' AS TEXT)"), ("X'73697a65'", "'5'"), ("'size'", "'10'")] {
        for (table, rest) in
            [("service_config", ""), ("service_override", ", 'ann', 'by hand', CURRENT_TIMESTAMP, NULL")]
        {
            let sql = format!("INSERT INTO {table} VALUES ('mailer', {key}, {value}{rest})");
            bench.db.execute_unprepared(&sql).await.unwrap();
        }
    }
    let rows = internal::read_config(&bench.db).await.unwrap();
    let of = |key: &str| rows.iter().find(|row| row.key == key).unwrap().value.clone();
    assert_eq!((rows.len(), of("size")), (3, Ok(json!(10))));
    assert!(of("sender").unwrap_err().to_string().contains("`value` is not text"));
    assert!(of("size\u{fffd}").unwrap_err().to_string().contains("`key` is not text"));
    let overrides = internal::read_overrides(&bench.db, Utc::now()).await.unwrap();
    let (good, bad): (Vec<_>, Vec<_>) = overrides.into_iter().partition(|row| row.is_ok());
    assert_eq!((good.len(), bad.len()), (1, 2), "{good:?} {bad:?}");
    assert_eq!(good[0].as_ref().unwrap().value, json!(10));
    assert!(internal::expire_overrides(&bench.db, Utc::now()).await.unwrap().is_empty());
}

pub(crate) async fn overrides_are_recorded_and_end_by_themselves(bench: Bench) {
    let now = WallClock::new(Utc::now).now();
    let new = |key: &str, until| {
        let mut new = Override::new("mailer", key, 60).by("ann").why("the server is slow");
        (new.at, new.until) = (now, until);
        new
    };
    let (lasting, short) = (new("interval", None), new("max_failures", Some(now + Duration::hours(1))));
    database::set_override(&bench.db, &new("interval", Some(now))).await.unwrap();
    database::set_override(&bench.db, &lasting).await.unwrap();
    database::set_override(&bench.db, &short).await.unwrap();
    bench
        .db
        .execute_unprepared(
            "INSERT INTO service_override VALUES ('mailer', 'timeout', '5', 'bob', 'by hand', 'yesterday', NULL)",
        )
        .await
        .unwrap();
    let found = internal::read_overrides(&bench.db, now).await.unwrap();
    // When they were set, the database says.
    let as_set = |found: &Override, given: &Override| {
        let differ = (found.at - given.at).num_seconds().abs();
        assert!(differ < 60, "{found:?}");
        let mut given = given.clone();
        given.at = found.at;
        assert_eq!(*found, given);
    };
    as_set(found[0].as_ref().unwrap(), &lasting);
    as_set(found[1].as_ref().unwrap(), &short);
    let bad = found[2].clone().unwrap_err().to_string();
    assert!(bad.contains("`timeout`") && bad.contains("`mailer`") && bad.contains("`yesterday`"), "{bad}");

    let later = now + Duration::hours(2);
    assert_eq!(internal::read_overrides(&bench.db, later).await.unwrap().len(), 2);
    let expired = internal::expire_overrides(&bench.db, later).await.unwrap();
    assert_eq!(expired.len(), 1);
    as_set(&expired[0], &short);
    assert_eq!(internal::expire_overrides(&bench.db, later).await.unwrap(), []);
    assert!(database::remove_override(&bench.db, "mailer", "interval").await.unwrap());
    assert!(!database::remove_override(&bench.db, "mailer", "interval").await.unwrap());
}

/// Many end at the same time: each removal takes part of them, so that it ends in time on a slow network.
pub(crate) async fn many_overrides_that_have_expired_are_removed_in_parts(bench: Bench) {
    for n in 0..50 {
        let insert = format!(
            "INSERT INTO service_override VALUES ('mailer_{n}', 'interval', '5', 'ann', '', '2026-01-31 12:00:00Z', '2026-02-01 12:00:00Z')"
        );
        bench.db.execute_unprepared(&insert).await.unwrap();
    }
    let mut parts = Vec::new();
    loop {
        match internal::expire_overrides(&bench.db, Utc::now()).await.unwrap().len() {
            0 => break,
            part => parts.push(part),
        }
    }
    assert_eq!((parts.iter().sum::<usize>(), parts.iter().all(|part| *part <= 20)), (50, true), "{parts:?}");
}

/// A person may write `CURRENT_TIMESTAMP`, and times in forms that the framework itself does not write.
pub(crate) async fn overrides_that_are_written_by_hand_apply_and_end(bench: Bench) {
    for (key, set_at, until) in [
        ("interval", "CURRENT_TIMESTAMP", "NULL"),
        ("jitter", "'2026-01-31T12:00:00+02:00'", "'2026-02-01 12:00:00'"),
        ("timeout", "'2026-01-31 12:00:00.25+02'", "'2026-02-01T12:00:00Z'"),
    ] {
        let insert = format!(
            "INSERT INTO service_override VALUES ('mailer', '{key}', '5', 'ann', 'by hand', {set_at}, {until})"
        );
        bench.db.execute_unprepared(&insert).await.unwrap();
    }
    let (end, before) = ("2026-02-01T12:00:00Z".parse().unwrap(), "2026-02-01T11:59:59Z".parse().unwrap());
    let found = internal::read_overrides(&bench.db, before).await.unwrap();
    let keys: Vec<String> = found.into_iter().map(|found| found.unwrap().key).collect();
    assert_eq!(keys, ["interval", "jitter", "timeout"]);
    assert_eq!(internal::expire_overrides(&bench.db, before).await.unwrap(), []);
    let ended = internal::expire_overrides(&bench.db, end).await.unwrap();
    let times: Vec<_> = ended.iter().map(|ended| (ended.key.as_str(), ended.at.to_rfc3339())).collect();
    let expected = [("jitter", "2026-01-31T10:00:00+00:00"), ("timeout", "2026-01-31T10:00:00.250+00:00")];
    assert_eq!(times, expected.map(|(key, at)| (key, at.to_owned())));
    assert_eq!(internal::expire_overrides(&bench.db, end).await.unwrap(), [], "they are gone");
}

pub(crate) async fn the_last_run_is_stored(bench: Bench) {
    let (now, db) = (WallClock::new(Utc::now).now(), &bench.db);
    assert_eq!(internal::last_run(db, "mailer").await.unwrap(), LastRun::default());
    let mut last = LastRun::default();
    last.run = Some(now);
    internal::set_last_run(db, "mailer", &last).await.unwrap();
    let mut fire = LastRun::default();
    fire.fire = Some(now - Duration::seconds(1));
    internal::set_last_run(db, "mailer", &fire).await.unwrap();
    last.fire = fire.fire;
    assert_eq!(internal::last_run(db, "mailer").await.unwrap(), last, "a stored fire does not delete the stored run");
}

pub(crate) async fn a_delayed_process_does_not_set_the_last_run_back(bench: Bench) {
    let (now, db) = (WallClock::new(Utc::now).now(), &bench.db);
    let at = |time| {
        let mut last = LastRun::default();
        (last.run, last.fire) = (Some(time), Some(time));
        last
    };
    let [early, late, ahead] = [-60, -1, 86_400].map(|seconds| at(now + Duration::seconds(seconds)));
    internal::set_last_run(db, "mailer", &late).await.unwrap();
    internal::set_last_run(db, "mailer", &early).await.unwrap();
    assert_eq!(internal::last_run(db, "mailer").await.unwrap(), late);
    internal::set_last_run(db, "mailer", &ahead).await.unwrap();
    internal::set_last_run(db, "mailer", &early).await.unwrap();
    assert_eq!(
        internal::last_run(db, "mailer").await.unwrap(),
        early,
        "a time of a clock that was a day ahead is replaced"
    );
    internal::set_last_run(db, "mailer", &late).await.unwrap();
    assert_eq!(internal::last_run(db, "mailer").await.unwrap(), late);
}

pub(crate) async fn an_index_that_does_not_serve_the_claims_is_not_taken_for_the_claim_index(bench: Bench) {
    crate::tables::create(&bench.db, job::Entity).await;
    bench.db.execute_unprepared("CREATE INDEX job_claim_idx ON job (payload)").await.unwrap();
    let error = database::create_claim_index::<job::Entity>(&bench.db).await.unwrap_err().to_string();
    assert!(error.contains("`job_claim_idx` exists, and does not serve the claims"), "{error}");
    bench.db.execute_unprepared("DROP INDEX job_claim_idx").await.unwrap();
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    // The index of another table has the name.
    for sql in ["DROP INDEX job_claim_idx", "CREATE TABLE other (id INT)", "CREATE INDEX job_claim_idx ON other (id)"] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let error = format!("{:#}", database::create_claim_index::<job::Entity>(&bench.db).await.unwrap_err());
    assert!(error.contains("job_claim_idx"), "{error}");
    bench.db.execute_unprepared("DROP INDEX job_claim_idx").await.unwrap();
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    if bench.is_postgres() {
        // As a `CREATE INDEX CONCURRENTLY` that has failed.
        let invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'job_claim_idx'::regclass";
        bench.db.execute_unprepared(invalid).await.unwrap();
        database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
        let is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'job_claim_idx'::regclass";
        let is_valid = sea_orm::Statement::from_string(bench.db.get_database_backend(), is_valid);
        assert!(bench.db.query_one_raw(is_valid).await.unwrap().unwrap().try_get_by_index::<bool>(0).unwrap());
    }
}

macro_rules! table_with_a_long_name {
    ($module:ident, $table:literal) => {
        mod $module {
            use sea_orm::entity::prelude::*;
            use service_core::database::WorkItem;

            #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
            #[sea_orm(table_name = $table)]
            #[work_item(status = "status")]
            pub(crate) struct Model {
                #[sea_orm(primary_key)]
                pub(crate) id: i64,
                #[sea_orm(column_name = "The \"Status\"")]
                pub(crate) status: String,
            }

            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub(crate) enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    };
}

table_with_a_long_name!(orders, "größere_bestellungen_der_kunden_aus_der_zeit_vor_2026");
table_with_a_long_name!(returns, "größere_bestellungen_der_kunden_aus_der_zeit_vor_2027");

pub(crate) async fn tables_with_long_names_have_their_own_claim_indices(bench: Bench) {
    crate::tables::create(&bench.db, orders::Entity).await;
    crate::tables::create(&bench.db, returns::Entity).await;
    let (log, _listening) = crate::log::Log::listen();
    for _ in 0..2 {
        database::create_claim_index::<orders::Entity>(&bench.db).await.unwrap();
        database::create_claim_index::<returns::Entity>(&bench.db).await.unwrap();
    }
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let _ = service_db.claim::<orders::Entity>(10).await.unwrap().commit().await.unwrap();
    let _ = service_db.claim::<returns::Entity>(10).await.unwrap().commit().await.unwrap();
    assert_eq!(log.warnings(), Vec::<String>::new());
}

pub(crate) async fn the_claim_index_is_created_once_and_used(bench: Bench) {
    let schema = Schema::new(bench.db.get_database_backend());
    bench.db.execute(&schema.create_table_from_entity(job::Entity)).await.unwrap();
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    crate::tables::more_jobs(&bench.db, 1..=3000).await;
    bench.db.execute_unprepared("UPDATE job SET status = 'completed' WHERE id < 2900").await.unwrap();
    bench.db.execute_unprepared("ANALYZE").await.unwrap();
    let explain = if bench.is_postgres() { "EXPLAIN" } else { "EXPLAIN QUERY PLAN" };
    let select = format!(
        "{explain} SELECT id FROM job WHERE status = 'pending' AND (due <= '2026-01-01' OR due IS NULL) ORDER BY due {}, id LIMIT 10",
        if bench.is_postgres() { "ASC NULLS FIRST" } else { "ASC" }
    );
    let plan =
        bench.db.query_all_raw(sea_orm::Statement::from_string(bench.db.get_database_backend(), select)).await.unwrap();
    let plan: Vec<String> = plan
        .iter()
        .map(|row| row.try_get("", if bench.is_postgres() { "QUERY PLAN" } else { "detail" }).unwrap())
        .collect();
    assert!(plan.join("\n").contains("job_claim_idx"), "{plan:?}");
    assert_eq!(job::Entity::find().all(&bench.db).await.unwrap().len(), 3000);
}
