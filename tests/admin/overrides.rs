//! Overrides and the audit with a database.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait};
use serde_json::json;
use service_core::database;
use service_core::prelude::*;

use crate::site::{Site, Ticker, builder};

async fn site() -> (Site, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(&dir).await, dir)
}

fn url(dir: &tempfile::TempDir) -> String {
    format!("sqlite:{}", dir.path().join("admin.db").display())
}

async fn open(dir: &tempfile::TempDir) -> Site {
    Site::of(builder().admin("127.0.0.1:0").database_url(url(dir))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_applies_at_once_and_is_shown_with_author_reason_and_expiry() {
    let (site, _dir) = site().await;
    let body = r#"{"value": 5, "by": "ann", "why": "a backlog", "until": "2h"}"#;
    let answer = site.send("PUT", "/services/steady/overrides/interval", &[], body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let explained = site.get("/services/steady/explain").await.json();
    let interval = explained["options"].as_array().unwrap().iter().find(|option| option["key"] == "interval").unwrap();
    assert_eq!((&interval["value"], &interval["layer"]), (&"5s".into(), &"override".into()));
    assert!(interval["place"].as_str().unwrap().contains("ann"), "{interval}");
    let listed = site.get("/services/steady/overrides").await.json();
    assert_eq!(
        (&listed[0]["key"], &listed[0]["value"], &listed[0]["by"]),
        (&"interval".into(), &5.into(), &"ann".into())
    );
    assert!(listed[0]["until"].is_string());
    let removed = site.send("DELETE", "/services/steady/overrides/interval", &[], r#"{"by": "bob"}"#).await;
    assert_eq!(removed.status, 200);
    assert!(!site.get("/services/steady/explain").await.body.contains("\"override\""));
    assert_eq!(site.send("DELETE", "/services/steady/overrides/interval", &[], "").await.status, 404);
    let audit = site.get("/audit?subject=steady").await.json();
    assert_eq!((&audit[0]["action"], &audit[0]["by"]), (&"remove override".into(), &"bob".into()));
    assert!(audit[1]["detail"].as_str().unwrap().starts_with("interval = 5 until 2"), "{audit}");
}

/// A trigger refuses the deletion of entries, also of those that are too old to be kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_that_only_grows_takes_new_entries() {
    let (site, dir) = site().await;
    let db = database::connect(&url(&dir)).await.unwrap();
    let trigger = "CREATE TRIGGER kept BEFORE DELETE ON service_audit BEGIN SELECT RAISE(ABORT, 'kept'); END";
    db.execute_unprepared(trigger).await.unwrap();
    let old = "INSERT INTO service_audit VALUES ('2020-01-01T00:00:00.000Z', '2020-01-01T00:00:00Z', 'steady', 'wake', '', 'ann', '')";
    db.execute_unprepared(old).await.unwrap();
    assert_eq!(site.post("/services/steady/wake", r#"{"by": "bob"}"#).await.status, 200);
    let count = Statement::from_string(DbBackend::Sqlite, "SELECT count(*) AS n FROM service_audit");
    let count: i64 = db.query_one_raw(count).await.unwrap().unwrap().try_get("", "n").unwrap();
    assert_eq!(count, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_that_cannot_be_used_is_refused_and_not_written() {
    let (site, _dir) = site().await;
    for (key, body, why) in [
        ("interval", json!({"value": "often"}), "interval"),
        ("intervall", json!({"value": 5}), "interval"),
        ("paused", json!({"value": "yes"}), "true or false"),
        ("max_failures", json!({"value": -1}), "max_failures"),
        ("needs", json!({"value": ["broker"]}), "the probe `broker`"),
        ("depends_on", json!({"value": ["databaze"]}), "`databaze`, which is not registered"),
        ("depends_on", json!({"value": ["broken", "steady"]}), "in a cycle: steady -> steady"),
        ("interval", json!({"value": 5, "until": "yesterday"}), "until"),
        // In other programs this is 30 months.
        ("interval", json!({"value": 5, "until": "30M"}), "units: ms, s, m, h, d"),
        ("interval", json!({"value": 5, "until": "2020-01-01T00:00:00Z"}), "over"),
        ("interval", json!({"by": "ann"}), "value"),
    ] {
        let path = format!("/services/steady/overrides/{key}");
        let answer = site.send("PUT", &path, &[], &body.to_string()).await;
        assert_eq!(answer.status, 422, "{key} {body}: {answer:?}");
        assert!(answer.error().contains(why), "{key} {body}: {answer:?}");
    }
    assert_eq!(site.get("/services/steady/overrides").await.json(), json!([]));
    assert_eq!(site.get("/audit").await.json(), json!([]));
}

#[derive(serde::Deserialize)]
struct Settings {
    address: String,
    #[serde(default)]
    size: u8,
}

/// Its `address` is not set.
struct Caller(Settings);

#[service(interval = 60, discover = false)]
impl Caller {
    fn configure(_cx: &Context, settings: Settings) -> Self {
        Self(settings)
    }

    async fn update(&mut self) -> Outcome {
        Outcome::processed(u64::from(self.0.size) + self.0.address.len() as u64)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_is_not_refused_because_of_another_mistake_in_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let builder = builder().service_of::<Caller>("caller");
    let site = Site::of(builder.admin("127.0.0.1:0").database_url(url(&dir))).await;
    let put = async |key: &str, value: &str| {
        let body = format!(r#"{{"value": {value}}}"#);
        site.send("PUT", &format!("/services/caller/overrides/{key}"), &[], &body).await
    };
    let (interval, size) = (put("interval", "5").await, put("size", "7").await);
    assert_eq!((interval.status, size.status), (200, 200), "{interval:?} {size:?}");
    let wrong = put("size", "700").await;
    assert!(wrong.status == 422 && wrong.error().contains("`size`"), "{wrong:?}");
    let address = put("address", "\"localhost\"").await;
    assert_eq!(address.status, 200, "{address:?}");
}

/// The form has one field for values of all types.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_sets_a_text_that_reads_as_a_number_or_a_truth_value() {
    let dir = tempfile::tempdir().unwrap();
    let builder = builder().service_of::<Caller>("caller");
    let site = Site::of(builder.admin("127.0.0.1:0").database_url(url(&dir))).await;
    let set = async |key: &str, value: &str| {
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let body = format!("key={key}&value={value}&until=&by=ann&why=a+test");
        site.send("POST", "/ui/services/caller/overrides", &form, &body).await
    };
    let db = database::connect(&url(&dir)).await.unwrap();
    let stored = async |key: &str| {
        let sql = format!("SELECT value FROM service_override WHERE key = '{key}'");
        let rows = db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap();
        rows.iter().map(|row| row.try_get::<String>("", "value").unwrap()).collect::<Vec<_>>()
    };
    for (key, value, json) in [
        ("address", "5", r#""5""#),
        ("address", "true", r#""true""#),
        ("address", "null", r#""null""#),
        ("address", "host", r#""host""#),
        ("size", "7", "7"),
        ("interval", "5", "5"),
        ("interval", "5m", r#""5m""#),
    ] {
        let answer = set(key, value).await;
        assert_eq!(answer.status, 303, "{key} = {value}: {answer:?}");
        assert_eq!(stored(key).await, [json], "{key} = {value}");
    }
    let wrong = set("size", "700").await;
    assert_eq!(wrong.status, 422, "{wrong:?}");
    assert!(wrong.body.contains("found 700, expected a whole number") && stored("size").await == ["7"], "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_all_services_or_of_those_of_a_type_is_set_shown_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let builder = builder().service_of::<Ticker>("fast").service_of::<Ticker>("faster");
    let site = Site::of(builder.admin("127.0.0.1:0").database_url(url(&dir))).await;
    let paused = || {
        let all = site.services.health().services;
        all.into_iter().filter(|health| health.paused).map(|health| health.service_id).collect::<Vec<_>>()
    };
    for (name, concerned) in
        [("ticker", &["fast", "faster"][..]), ("defaults", &["broken", "fast", "faster", "steady"])]
    {
        let path = format!("/services/{name}/overrides/paused");
        for (key, value, why) in [("paused", "3", "true or false"), ("interval", "5", "can only be `paused`")] {
            let body = format!(r#"{{"value": {value}}}"#);
            let answer = site.send("PUT", &format!("/services/{name}/overrides/{key}"), &[], &body).await;
            assert!(answer.status == 422 && answer.error().contains(why), "{answer:?}");
        }
        let answer = site.send("PUT", &path, &[], r#"{"value": true, "by": "ann", "why": "a move"}"#).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let ids: Vec<_> = answer.json().as_array().unwrap().iter().map(|health| health["service_id"].clone()).collect();
        assert_eq!(ids, concerned);
        assert_eq!(paused(), concerned);
        assert_eq!(site.get(&format!("/services/{name}/overrides")).await.json()[0]["by"], "ann");
        let refused = site.post("/services/fast/resume", "").await;
        assert!(refused.status == 409 && refused.error().ends_with(&format!("(`paused` of `{name}`)")), "{refused:?}");
        assert_eq!(site.send("DELETE", &path, &[], r#"{"by": "bob"}"#).await.status, 200);
        assert!(paused().is_empty());
        assert_eq!(site.send("DELETE", &path, &[], "").await.status, 404);
        // An override that does not pause is not named.
        assert_eq!(site.send("PUT", &path, &[], r#"{"value": false}"#).await.status, 200);
        let refused = site.post("/services/fast/resume", "").await;
        assert!(refused.status == 409 && !refused.error().contains(name), "{refused:?}");
        assert_eq!(site.send("DELETE", &path, &[], r#"{"by": "bob"}"#).await.status, 200);
        let audit = site.get(&format!("/audit?subject={name}")).await.json();
        assert_eq!((&audit[2]["by"], &audit[3]["detail"]), (&"bob".into(), &"paused = true".into()), "{audit}");
    }
    for (method, path) in [("GET", "/services/tickers/overrides"), ("DELETE", "/services/tickers/overrides/paused")] {
        assert_eq!(site.send(method, path, &[], "").await.status, 404, "{path}");
    }
}

/// The service `ticker` has the name of its type as its id, as a service that is discovered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_of_a_service_with_the_name_of_its_type_is_not_one_of_the_others_of_the_type() {
    let dir = tempfile::tempdir().unwrap();
    let builder = builder().service_of::<Ticker>("ticker").service_of::<Ticker>("ticker_eu");
    let site = Site::of(builder.admin("127.0.0.1:0").database_url(url(&dir))).await;
    let paused = || ["ticker", "ticker_eu"].map(|id| site.services.get(id).unwrap().health().paused);
    let schedule = async |id: &str| site.get(&format!("/services/{id}/explain")).await.json()["schedule"].take();
    let steps = [
        ("POST", "ticker/pause", "", [true, false]),
        ("POST", "ticker_eu/pause", "", [true, true]),
        ("POST", "ticker_eu/resume", "", [true, false]),
        ("POST", "ticker/resume", "", [false, false]),
        ("PUT", "ticker/overrides/paused", r#"{"value": true}"#, [true, false]),
        ("DELETE", "ticker/overrides/paused", "", [false, false]),
        ("PUT", "ticker/overrides/interval", r#"{"value": 7}"#, [false, false]),
    ];
    for (method, path, body, are_paused) in steps {
        let answer = site.send(method, &format!("/services/{path}"), &[], body).await;
        assert_eq!((answer.status, paused()), (200, are_paused), "{method} {path}: {answer:?}");
    }
    assert_eq!((schedule("ticker").await, schedule("ticker_eu").await), ("every 7s".into(), "every 50ms".into()));
    // Other programs write for the type.
    let db = database::connect(&url(&dir)).await.unwrap();
    db.execute_unprepared("INSERT INTO service_config VALUES ('ticker', 'paused', 'true')").await.unwrap();
    crate::site::eventually(async || paused() == [true, true]).await;
}

/// On real time, because the registry waits a second for the pool, and then asks again on a connection of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_that_a_busy_database_removes_late_counts_as_removed() {
    let (site, dir) = site().await;
    let set = site.send("PUT", "/services/steady/overrides/interval", &[], r#"{"value": 5, "by": "ann"}"#).await;
    assert_eq!(set.status, 200, "{set:?}");
    let db = database::connect(&url(&dir)).await.unwrap();
    let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode, ..TransactionOptions::default() };
    let writer = db.begin_with_options(options).await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        writer.rollback().await.unwrap();
    };
    let (removed, ()) = tokio::join!(site.send("DELETE", "/services/steady/overrides/interval", &[], ""), release);
    assert_eq!(removed.status, 200, "{removed:?}");
    let audit = site.get("/audit?subject=steady").await.json();
    assert_eq!((&audit[0]["action"], audit.as_array().unwrap().len()), (&"remove override".into(), 2), "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_outlives_the_process_and_a_resume_ends_it() {
    let (site, dir) = site().await;
    site.runs("steady", 1).await;
    let answer = site.post("/services/steady/pause", r#"{"by": "ann", "why": "the provider is down"}"#).await;
    assert_eq!((answer.status, &answer.json()["paused"]), (200, &true.into()), "{answer:?}");
    let reason = answer.json()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("ann") && reason.contains("the provider is down"), "{reason}");
    assert_eq!(site.post("/services/steady/pause", "").await.status, 409);
    // The service `broken` has failed.
    site.services.shutdown().await.ok();
    let site = open(&dir).await;
    assert_eq!(site.get("/services/steady").await.json()["state"], "paused");
    let answer = site.post("/services/steady/resume", r#"{"by": "bob"}"#).await;
    assert_eq!((answer.status, &answer.json()["state"]), (200, &"running".into()), "{answer:?}");
    assert_eq!(site.post("/services/steady/resume", "").await.status, 409);
    let audit = site.get("/audit").await.json();
    let actions: Vec<_> = audit.as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["resume", "pause"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_is_read_by_page_and_forgets_old_entries() {
    let (site, dir) = site().await;
    site.runs("steady", 1).await;
    let db =
        service_core::database::connect(&format!("sqlite:{}", dir.path().join("admin.db").display())).await.unwrap();
    db.execute_unprepared(
        "INSERT INTO service_audit VALUES ('00050000000000-0', '2015-01-01T00:00:00Z', 'steady', 'pause', '', 'old', '')",
    )
    .await
    .unwrap();
    for n in 0..5 {
        assert_eq!(site.post("/services/steady/wake", &format!(r#"{{"by": "{n}"}}"#)).await.status, 200);
    }
    let first = site.get("/audit?limit=2").await.json();
    assert_eq!((&first[0]["by"], &first[1]["by"], &first[2]), (&"4".into(), &"3".into(), &().into()));
    let next = site.get(&format!("/audit?before={}", first[1]["id"].as_str().unwrap())).await.json();
    let by: Vec<_> = next.as_array().unwrap().iter().map(|entry| entry["by"].clone()).collect();
    assert_eq!(by, ["2", "1", "0"], "the entry of 2015 is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_the_database_did_not_take_is_shown_and_written_later() {
    let (site, dir) = site().await;
    site.runs("steady", 1).await;
    let db = database::connect(&url(&dir)).await.unwrap();
    let execute = async |sql: &str| db.execute_unprepared(sql).await.unwrap();
    let refuse = async || {
        let body = "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
        execute(&format!("CREATE TRIGGER refuse BEFORE INSERT ON service_audit {body}")).await
    };
    let written = async || {
        let sql = "SELECT set_by FROM service_audit ORDER BY id DESC";
        let rows = db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap();
        rows.iter().map(|row| row.try_get::<String>("", "set_by").unwrap()).collect::<Vec<_>>()
    };
    let shown = async |query: &str| {
        let entries = site.get(&format!("/audit{query}")).await.json();
        entries.as_array().unwrap().iter().map(|entry| entry["by"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let wake = async |by: &str| {
        let body = format!(r#"{{"by": "{by}"}}"#);
        assert_eq!(site.post("/services/steady/wake", &body).await.status, 200);
    };
    wake("ann").await;
    refuse().await;
    wake("bob").await;
    wake("cyd").await;
    assert_eq!(shown("").await, ["cyd", "bob", "ann"]);
    assert_eq!(written().await, ["ann"]);
    assert_eq!(shown("?limit=2").await, ["cyd", "bob"]);
    let newest = site.get("/audit?limit=1").await.json()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(shown(&format!("?before={newest}")).await, ["bob", "ann"]);
    assert!(shown("?subject=broken").await.is_empty());
    execute("DROP TRIGGER refuse").await;
    for _ in 0..2 {
        assert_eq!(shown("").await, ["cyd", "bob", "ann"]);
        assert_eq!(written().await, ["cyd", "bob", "ann"]);
    }
    // The next change writes them, too.
    refuse().await;
    wake("dan").await;
    execute("DROP TRIGGER refuse").await;
    wake("eve").await;
    assert_eq!(written().await, ["eve", "dan", "cyd", "bob", "ann"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_setting_is_shown_nowhere() {
    #[derive(Default)]
    struct Keyed;
    #[derive(serde::Deserialize)]
    struct KeyedConfig {
        #[allow(dead_code, reason = "only read")]
        api_key: Option<String>,
    }
    #[service(interval = 60, discover = false)]
    impl Keyed {
        fn configure(_cx: &Context, _config: KeyedConfig) -> Self {
            Self
        }
        async fn update(&mut self) {}
    }
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("admin.db").display());
    let site = Site::of(builder().service_of::<Keyed>("keyed").admin("127.0.0.1:0").database_url(url)).await;
    let answer = site.send("PUT", "/services/keyed/overrides/api_key", &[], r#"{"value": "hunter2"}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for path in
        ["/services/keyed", "/services/keyed/explain", "/services/keyed/overrides", "/audit", "/services/keyed/runs"]
    {
        assert!(!site.get(path).await.body.contains("hunter2"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_that_is_refused_changes_nothing_and_is_not_recorded() {
    let (site, dir) = site().await;
    let own = async || site.get("/services/steady/overrides").await.json();
    let set = async |name: &str, value: bool| {
        let body = json!({"value": value, "by": "ann"}).to_string();
        assert_eq!(site.send("PUT", &format!("/services/{name}/overrides/paused"), &[], &body).await.status, 200);
    };
    let is_refused = async |why: &str| {
        let (before, was_paused) = (own().await, site.get("/services/steady").await.json()["paused"].clone());
        let refused = site.post("/services/steady/resume", r#"{"by": "bob"}"#).await;
        assert!(refused.status == 409 && refused.error().contains(why), "{why}: {refused:?}");
        assert_eq!(own().await, before, "{why}");
        assert_eq!(site.get("/services/steady").await.json()["paused"], was_paused, "{why}");
    };
    // A service that is not paused, with an override that says so.
    set("steady", false).await;
    is_refused("it is not paused").await;
    // It is the exception of a pause of all services.
    set("defaults", true).await;
    is_refused("it is not paused").await;
    // Without its own override, the one of `defaults` would pause it.
    set("steady", true).await;
    is_refused("(`paused` of `defaults`)").await;
    // And so would a row that another program wrote.
    assert_eq!(site.send("DELETE", "/services/defaults/overrides/paused", &[], "").await.status, 200);
    let db = database::connect(&url(&dir)).await.unwrap();
    db.execute_unprepared("INSERT INTO service_config VALUES ('steady', 'paused', 'true')").await.unwrap();
    is_refused("service_config, paused of steady").await;
    db.execute_unprepared("DELETE FROM service_config").await.unwrap();
    let resumed = site.post("/services/steady/resume", r#"{"by": "bob"}"#).await;
    assert_eq!((resumed.status, &resumed.json()["paused"]), (200, &false.into()), "{resumed:?}");
    let audit = site.get("/audit").await.json();
    let by_bob: Vec<_> = audit.as_array().unwrap().iter().filter(|entry| entry["by"] == "bob").collect();
    assert_eq!((by_bob.len(), &by_bob[0]["action"]), (1, &"resume".into()), "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_run_is_not_paused_by_its_command() {
    let (site, _dir) = site().await;
    site.runs("steady", 1).await;
    assert_eq!(site.post("/services/steady/stop", "").await.status, 200);
    let refused = site.post("/services/steady/pause", "").await;
    assert!(refused.status == 409 && refused.error().contains("it is stopped; `start` it first"), "{refused:?}");
    assert_eq!(site.get("/services/steady/overrides").await.json(), json!([]));
    assert_eq!(site.get("/audit").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_runs_on_another_replica_only_is_paused_there() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let on = |builder: service_core::RegistryBuilder| Site::of(builder.admin("127.0.0.1:0").database_url(url.clone()));
    let worker = on(builder()).await;
    let web = on(builder().set("steady.enabled", false)).await;
    worker.runs("steady", 1).await;
    for (command, is_paused) in [("pause", true), ("resume", false)] {
        let answer = web.post(&format!("/services/steady/{command}"), r#"{"by": "ann"}"#).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(web.get("/services/steady").await.json()["state"], "created");
        crate::site::eventually(async || worker.get("/services/steady").await.json()["paused"] == is_paused).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_that_ends_a_pause_outweighs_one_that_was_written_by_hand() {
    /// Has a setting of its own with the name `pause`.
    #[derive(Default)]
    struct Rests;
    #[derive(serde::Deserialize)]
    struct RestsConfig {
        #[allow(dead_code, reason = "only read")]
        pause: Option<bool>,
    }
    #[service(interval = 60, discover = false)]
    impl Rests {
        fn configure(_cx: &Context, _config: RestsConfig) -> Self {
            Self
        }
        async fn update(&mut self) {}
    }
    let dir = tempfile::tempdir().unwrap();
    let site = Site::of(builder().service_of::<Rests>("rests").admin("127.0.0.1:0").database_url(url(&dir))).await;
    let db = database::connect(&url(&dir)).await.unwrap();
    let paused = async |id: &str| site.get(&format!("/services/{id}")).await.json()["paused"].clone();
    for id in ["steady", "rests"] {
        let values = format!("'{id}', 'pause', 'true', 'eve', '', '2026-01-01T00:00:00Z'");
        let insert = "INSERT INTO service_override (service_id, key, value, set_by, why, set_at) VALUES";
        db.execute_unprepared(&format!("{insert} ({values})")).await.unwrap();
    }
    for (value, is_paused) in [(true, true), (false, false)] {
        for id in ["steady", "rests"] {
            let (path, body) = (format!("/services/{id}/overrides/paused"), json!({"value": value}).to_string());
            assert_eq!(site.send("PUT", &path, &[], &body).await.status, 200);
            assert_eq!(paused(id).await, is_paused, "{id}");
        }
    }
    assert_eq!(site.send("DELETE", "/services/rests/overrides/paused", &[], "").await.status, 200);
    let keys = async |id: &str| {
        let all = site.get(&format!("/services/{id}/overrides")).await.json();
        all.as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("steady").await, ["paused"]);
    assert_eq!(keys("rests").await, ["pause"], "it is an own setting of the service");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_the_audit_without_a_valid_time_is_shown_with_the_others() {
    let (site, dir) = site().await;
    site.runs("steady", 1).await;
    assert_eq!(site.post("/services/steady/wake", r#"{"by": "ann"}"#).await.status, 200);
    let db = database::connect(&url(&dir)).await.unwrap();
    let insert = "INSERT INTO service_audit VALUES ('zz', 'yesterday', 'steady', 'moved', X'ff', 'eve', 'by hand')";
    db.execute_unprepared(insert).await.unwrap();
    let audit = site.get("/audit").await;
    assert_eq!(audit.status, 200, "{audit:?}");
    let audit = audit.json();
    assert_eq!((&audit[0]["action"], &audit[1]["by"]), (&"moved".into(), &"ann".into()), "{audit}");
    assert!(audit[0]["detail"].as_str().unwrap().contains("`yesterday`"), "{audit}");
    assert_eq!(site.get("/ui/audit").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_does_not_hide_the_entries_of_the_audit_in_memory() {
    let (site, dir) = site().await;
    site.runs("steady", 1).await;
    let db = database::connect(&url(&dir)).await.unwrap();
    db.execute_unprepared("ALTER TABLE service_audit RENAME TO away").await.unwrap();
    assert_eq!(site.get("/audit").await.status, 503, "nothing is in memory");
    assert_eq!(site.post("/services/steady/wake", r#"{"by": "ann"}"#).await.status, 200);
    let shown = site.get("/audit").await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert!(shown.header("warning").is_some_and(|warning| warning.contains("only the entries in memory")), "{shown:?}");
    assert!(site.get("/ui/audit").await.body.contains("Only the entries in memory"));
    assert_eq!((&shown.json()[0]["by"], &shown.json()[1]), (&"ann".into(), &().into()));
    assert_eq!(site.get("/audit?subject=broken").await.status, 503);
    db.execute_unprepared("ALTER TABLE away RENAME TO service_audit").await.unwrap();
    assert_eq!(site.get("/audit?subject=broken").await.status, 200);
}

/// The overrides cannot be read again right after the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_stored_and_not_in_effect_is_in_the_audit() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let site = Site::of(builder().admin("127.0.0.1:0").database_url(url.clone())).await;
    site.runs("steady", 1).await;
    let db = database::connect(&url).await.unwrap();
    for sql in [
        // The write takes long enough for another session to queue up behind it.
        "CREATE FUNCTION slow() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER slow BEFORE INSERT ON service_override FOR EACH ROW EXECUTE FUNCTION slow()",
    ] {
        db.execute_unprepared(sql).await.unwrap();
    }
    let writes = "SELECT count(*) AS n FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database \
                  WHERE datname = current_database() AND relation = 'service_override'::regclass AND mode = 'RowExclusiveLock'";
    let locks = async {
        crate::site::eventually(async || {
            let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, writes)).await.unwrap().unwrap();
            row.try_get::<i64>("", "n").unwrap() > 0
        })
        .await;
        let migration = db.begin().await.unwrap();
        migration.execute_unprepared("LOCK TABLE service_override IN ACCESS EXCLUSIVE MODE").await.unwrap();
        migration
    };
    let body = r#"{"value": 7, "by": "ann", "why": "a backlog"}"#;
    let put = site.send("PUT", "/services/steady/overrides/interval", &[], body);
    let (answer, migration) = tokio::join!(put, locks);
    assert!(answer.status == 503 && answer.error().contains("stored, but not in effect yet"), "{answer:?}");
    migration.rollback().await.unwrap();
    let audit = site.get("/audit?subject=steady").await.json();
    assert_eq!((&audit[0]["action"], &audit[0]["by"]), (&"override".into(), &"ann".into()), "{audit}");
    crate::site::eventually(async || site.get("/services/steady/explain").await.body.contains("\"7s\"")).await;
}
