//! Tables of work: counts, failed rows, retry.

use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::json;

use crate::site::{Site, builder};

mod parcel {
    use sea_orm::entity::prelude::*;
    use service_core::WorkItem;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "admin_parcel")]
    #[work_item(
        status = "status",
        error = "error_message",
        attempts = "attempts",
        available_at = "due",
        updated_at = "updated_at"
    )]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i32,
        pub(crate) status: String,
        pub(crate) error_message: Option<String>,
        pub(crate) attempts: i32,
        pub(crate) due: Option<DateTimeUtc>,
        pub(crate) updated_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

async fn site(url: &str) -> Site {
    Site::of(builder().admin("127.0.0.1:0").database(parcels(url).await)).await
}

/// Creates the table with 70 failed rows, 30 pending and 20 completed ones.
async fn parcels(url: &str) -> DatabaseConnection {
    let db = service_core::database::connect(url).await.unwrap();
    let schema = sea_orm::Schema::new(db.get_database_backend());
    db.execute(&schema.create_table_from_entity(parcel::Entity)).await.unwrap();
    for n in 1..=120 {
        let (status, error) = match n {
            1..=70 => ("failed", format!("'<b>{n}</b> is too heavy'")),
            71..=100 => ("pending", "NULL".to_owned()),
            _ => ("completed", "NULL".to_owned()),
        };
        // Ten are due in an hour, ten have been due for an hour, ten have no time.
        let due = match n % 3 {
            0 => "'2999-01-01T00:00:00Z'",
            1 => "'2026-01-01T00:00:00Z'",
            _ => "NULL",
        };
        let sql =
            format!("INSERT INTO admin_parcel VALUES ({n}, '{status}', {error}, 3, {due}, '2026-01-01T00:00:00Z')");
        db.execute_unprepared(&sql).await.unwrap();
    }
    db
}

async fn tables_are_counted_and_their_failed_rows_are_retried(url: &str) {
    let site = site(url).await;
    // The first request begins the counting, and waits for it.
    let parcel = async || {
        let tables = site.get("/work").await.json();
        let found = tables.as_array().unwrap().iter().find(|table| table["table"] == "admin_parcel").cloned();
        found.unwrap_or_else(|| panic!("{tables}"))
    };
    let counts = parcel().await;
    assert!(counts["sampled_at"].is_string(), "{counts}");
    let expected = json!({"pending": 30, "due": 20, "in_flight": 0, "failed": 70});
    for (name, count) in expected.as_object().unwrap() {
        assert_eq!(&counts[name], count, "{name}: {counts}");
    }
    assert!(counts["oldest_due_seconds"].as_f64().unwrap() > 3600.0 * 24.0, "{counts}");
    let metrics = site.get("/metrics").await.body;
    assert!(metrics.contains("service_work_rows{table=\"admin_parcel\",state=\"failed\"} 70"), "{metrics}");
    let first = site.get("/work/admin_parcel/failed?limit=2").await.json();
    assert_eq!((&first[0]["key"], &first[1]["key"], &first[2]), (&json!(["70"]), &json!(["69"]), &json!(null)));
    assert_eq!((&first[0]["error"], &first[0]["attempts"]), (&json!("<b>70</b> is too heavy"), &json!(3)));
    let last = site.get("/work/admin_parcel/failed?offset=69").await.json();
    assert_eq!(last.as_array().unwrap().len(), 1);
    let page = site.get("/ui/work/admin_parcel").await;
    assert!(
        page.body.contains("&lt;b&gt;70&lt;/b&gt; is too heavy") && page.body.contains("?offset=50"),
        "{}",
        page.body
    );

    let retry = async |body: serde_json::Value| site.post("/work/admin_parcel/retry", &body.to_string()).await;
    for wrong in [json!({}), json!({"keys": []}), json!({"keys": [["1"]], "all": true}), json!({"keys": [["1", "2"]]})]
    {
        assert_eq!(retry(wrong).await.status, 422);
    }
    let answer =
        retry(json!({"keys": [["70"], ["1"], ["5000"], ["80"], ["1\u{0}"], ["1' OR '1'='1"]], "by": "ann"})).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"retried": 2})));
    assert_eq!(parcel().await["failed"], 68);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let body = "key=%5B%2269%22%5D&key=%5B%2268%22%5D&by=ann&why=lighter&which=chosen";
    let answer = site.send("POST", "/ui/work/admin_parcel/retry", &form, body).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("../../work?done=2")), "{answer:?}");
    let page = site.get("/ui/work?done=2").await.body;
    assert!(page.contains("Done: rows set back to pending: 2."), "{page}");
    assert!(!site.get("/ui/work").await.body.contains("Done"));
    let answer = retry(json!({"all": true, "by": "bob", "why": "a larger van"})).await;
    assert_eq!(answer.json(), json!({"retried": 66}));
    assert_eq!((&parcel().await["failed"], &parcel().await["pending"]), (&json!(0), &json!(100)));
    let audit = site.get("/audit?subject=admin_parcel").await.json();
    assert_eq!(
        (&audit[0]["action"], &audit[0]["by"], &audit[0]["why"]),
        (&"retry".into(), &"bob".into(), &"a larger van".into())
    );
    assert_eq!(audit.as_array().unwrap().len(), 3);
    assert_eq!(site.get("/audit?subject=a%00b&before=%00").await.status, 200);
    assert_eq!(site.send("DELETE", "/services/steady/overrides/a%00b", &[], "").await.status, 404);
    assert_eq!(site.post("/work/other/retry", r#"{"all": true}"#).await.status, 404);
    assert_eq!(site.get("/work/other/failed").await.status, 404);
}

/// Another program has written bytes that are not text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_is_not_text_hides_no_failed_row() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("admin.db").display());
    let site = site(&url).await;
    let db = service_core::database::connect(&url).await.unwrap();
    db.execute_unprepared("UPDATE admin_parcel SET error_message = CAST(x'ff41' AS TEXT) WHERE id = 70").await.unwrap();
    let failed = site.get("/work/admin_parcel/failed?limit=2").await;
    assert_eq!(failed.status, 200, "{failed:?}");
    assert_eq!((&failed.json()[0]["key"], &failed.json()[0]["error"]), (&json!(["70"]), &json!("\u{fffd}A")));
    assert_eq!(site.get("/ui/work/admin_parcel").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pager_leads_to_the_next_rows_also_after_a_retry_that_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(&format!("sqlite:{}", dir.path().join("admin.db").display())).await;
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let retry = "/ui/work/admin_parcel/retry";
    let page = site.send("POST", retry, &form, "by=ann&which=chosen").await;
    assert_eq!(page.status, 422, "{page:?}");
    let links = page.body.split("href=\"").filter_map(|rest| rest.split('"').next());
    let next = links.into_iter().find(|link| link.ends_with("?offset=50")).unwrap();
    // As a browser does it: relative to the folder of the page, and a query alone is of the same page.
    let mut folder: Vec<&str> = retry.split('/').collect();
    if !next.starts_with('?') {
        folder.pop();
    }
    let mut rest = next;
    while let Some(below) = rest.strip_prefix("../") {
        rest = below;
        folder.pop();
    }
    let separator = if next.starts_with('?') { "" } else { "/" };
    let answer = site.get(&format!("{}{separator}{rest}", folder.join("/"))).await;
    assert_eq!(answer.status, 200, "{next}: {answer:?}");
    assert!(answer.body.contains("&lt;b&gt;20&lt;/b&gt; is too heavy"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_scrape_and_the_first_page_have_the_counts() {
    for (path, text) in [
        ("/metrics", "service_work_rows{table=\"admin_parcel\",state=\"failed\"} 70\n"),
        ("/ui/work", "<dt>Failed</dt><dd>70</dd>"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let site = site(&format!("sqlite:{}", dir.path().join("admin.db").display())).await;
        let answer = site.get(path).await;
        assert!(answer.body.contains(text), "{path}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_due_rows_without_a_time_is_unknown_and_not_zero() {
    for (change, oldest) in [
        ("SET due = NULL", None),
        // None is due.
        ("SET due = '2999-01-01T00:00:00Z'", Some("service_work_oldest_due_seconds{table=\"admin_parcel\"} 0\n")),
        ("SET due = '2026-01-01T00:00:00Z'", Some("service_work_oldest_due_seconds{table=\"admin_parcel\"} ")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let db = parcels(&format!("sqlite:{}", dir.path().join("admin.db").display())).await;
        db.execute_unprepared(&format!("UPDATE admin_parcel {change}")).await.unwrap();
        let site = Site::of(builder().admin("127.0.0.1:0").database(db)).await;
        let metrics = site.get("/metrics").await.body;
        assert!(metrics.contains("service_work_rows{table=\"admin_parcel\",state=\"due\"} "), "{metrics}");
        match oldest {
            Some(series) => assert!(metrics.contains(series), "{change}: {metrics}"),
            None => assert!(!metrics.contains("service_work_oldest_due_seconds{"), "{change}: {metrics}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_counted_and_their_failed_rows_are_retried_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("admin.db").display());
    tables_are_counted_and_their_failed_rows_are_retried(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_counted_and_their_failed_rows_are_retried_on_postgresql() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    tables_are_counted_and_their_failed_rows_are_retried(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_fails_is_unavailable_and_what_it_has_changed_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("admin.db").display());
    let db = parcels(&url).await;
    // With the 70 failed rows that are there, more than one portion.
    let more = "WITH RECURSIVE n(n) AS (SELECT 121 UNION ALL SELECT n + 1 FROM n WHERE n < 1620) INSERT INTO admin_parcel \
                SELECT n, 'failed', NULL, 3, NULL, '2026-01-01T00:00:00Z' FROM n";
    db.execute_unprepared(more).await.unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON admin_parcel WHEN OLD.id = 1600 \
                  BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    db.execute_unprepared(refuse).await.unwrap();
    let site = Site::of(builder().admin("127.0.0.1:0").database(db.clone())).await;
    let answer = site.post("/work/admin_parcel/retry", r#"{"all": true, "by": "ann"}"#).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.error().contains("the disk is full"), "{answer:?}");
    let audit = site.get("/audit?subject=admin_parcel").await.json();
    assert_eq!((&audit[0]["by"], audit.as_array().unwrap().len()), (&"ann".into(), 1), "{audit}");
    assert_eq!(audit[0]["detail"], "1000 rows (all failed rows), then it failed");
    // What changes nothing is not recorded.
    db.execute_unprepared("ALTER TABLE admin_parcel RENAME TO away").await.unwrap();
    assert_eq!(site.post("/work/admin_parcel/retry", r#"{"all": true}"#).await.status, 503);
    assert_eq!(site.get("/audit?subject=admin_parcel").await.json().as_array().unwrap().len(), 1);
    let documented = site.get("/openapi.json").await.json();
    assert!(documented["paths"]["/work/{table}/retry"]["post"]["responses"]["503"].is_object(), "{documented}");
}

/// Takes about four seconds of real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_that_are_quick_open_no_connections() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let db = parcels(&url).await;
    let site = Site::of(builder().admin("127.0.0.1:0").database_url(&url)).await;
    let sessions = async || {
        // The server counts a session a second after it began, at the latest.
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        let sql = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
        let sql = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql);
        db.query_one_raw(sql).await.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap()
    };
    assert_eq!(site.get("/work").await.json()[0]["failed"], 70);
    let before = sessions().await;
    for key in 1..=9 {
        let answer = site.post("/work/admin_parcel/retry", &json!({"keys": [[key.to_string()]]}).to_string()).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"retried": 1})));
    }
    assert_eq!(site.get("/work").await.json()[0]["failed"], 61, "it was counted after each retry");
    // The pool itself may open one.
    let opened = sessions().await - before;
    assert!(opened < 9, "{opened} for 10 counts");
}

/// Takes about twenty seconds of real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_that_takes_too_long_ends_at_the_server_too() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let db = parcels(&url).await;
    let slow = "ALTER TABLE admin_parcel RENAME TO parcels; \
                CREATE VIEW admin_parcel AS SELECT * FROM parcels \
                WHERE CASE status WHEN 'pending' THEN pg_sleep(9) IS NOT NULL ELSE true END";
    db.execute_unprepared(slow).await.unwrap();
    let site = Site::of(builder().admin("127.0.0.1:0").database_url(&url)).await;
    let active = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                   AND wait_event = 'PgSleep'";
        let sql = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql);
        db.query_one_raw(sql).await.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap()
    };
    site.get("/work").await;
    assert!(active().await > 0);
    // The first attempt has one second, and the second one has fifteen.
    tokio::time::sleep(std::time::Duration::from_secs(19)).await;
    assert_eq!(active().await, 0);
}

/// Takes about five seconds of real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_failed_rows_that_takes_too_long_is_unavailable() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let db = parcels(&url).await;
    let slow = "ALTER TABLE admin_parcel RENAME TO parcels; \
                CREATE VIEW admin_parcel AS SELECT * FROM parcels \
                WHERE CASE status WHEN 'failed' THEN pg_sleep(1) IS NOT NULL ELSE true END";
    db.execute_unprepared(slow).await.unwrap();
    let site = Site::of(builder().admin("127.0.0.1:0").database_url(&url)).await;
    let began = std::time::Instant::now();
    let answer = site.get("/work/admin_parcel/failed").await;
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("CREATE INDEX ON \"admin_parcel\""), "{answer:?}");
}

/// Takes about five seconds of real time. The log is that of its only thread.
#[tokio::test]
async fn failed_rows_that_take_too_long_to_count_leave_the_other_counts() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let db = parcels(&tokio::task::spawn_blocking(|| server.database()).await.unwrap()).await;
    let slow = "ALTER TABLE admin_parcel RENAME TO parcels; \
                CREATE VIEW admin_parcel AS SELECT * FROM parcels \
                WHERE CASE status WHEN 'failed' THEN pg_sleep(1) IS NOT NULL ELSE true END";
    db.execute_unprepared(slow).await.unwrap();
    let (log, _guard) = crate::log::Log::listen();
    let site = Site::of(builder().admin("127.0.0.1:0").database(db)).await;
    let tables = loop {
        let tables = site.get("/work").await.json();
        if tables[0]["sampled_at"].is_string() {
            break tables;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let counts = &tables[0];
    assert_eq!((&counts["pending"], &counts["due"], &counts["failed"]), (&json!(30), &json!(20), &json!(null)));
    let error = counts["error"].as_str().unwrap();
    let index = "CREATE INDEX ON \"admin_parcel\" (\"id\") WHERE \"status\" = 'failed'";
    assert!(error.contains(index), "{error}");
    let warnings = log.warnings();
    assert_eq!(warnings.iter().filter(|line| line.contains(index)).count(), 1, "{warnings:?}");
    let metrics = site.get("/metrics").await.body;
    assert!(
        metrics.contains("state=\"pending\"} 30") && !metrics.contains("admin_parcel\",state=\"failed\""),
        "{metrics}"
    );
    assert!(site.get("/ui/work").await.body.contains("<dt>Failed</dt><dd>–</dd>"));
}
