//! `service_config` and `service_override` in a registry that runs: on both engines, in real time.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TransactionTrait};
use serde_json::{Value, json};
use service_core::__private::database as internal;
use service_core::database::{self, Override};
use service_core::prelude::*;
use service_core::{Explanation, Layer};

use crate::Bench;

/// Counts how often it was built, and reports its batch size as processed.
struct Batcher {
    size: u64,
}

#[derive(serde::Deserialize)]
struct Settings {
    #[serde(default)]
    batch_size: u64,
}

#[service(interval = "1h", discover = false)]
impl Batcher {
    fn configure(cx: &Context, settings: Settings) -> Self {
        cx.metrics().add("built", 1);
        Self { size: settings.batch_size }
    }

    async fn update(&mut self, cx: &Context) -> Outcome {
        cx.metrics().set("size", u32::try_from(self.size).unwrap_or_default());
        Outcome::processed(self.size)
    }
}

async fn start(bench: &Bench) -> ServiceRegistry {
    let builder = ServiceRegistry::builder().without_discovered().service_of::<Batcher>("batcher");
    builder.database_url(&bench.url).start_all().await.unwrap()
}

fn batcher(services: &ServiceRegistry) -> ServiceHandle {
    services.get("batcher").unwrap()
}

async fn configure(db: &DatabaseConnection, key: &str, value: &str) {
    let sql = format!(
        "INSERT INTO service_config (service_id, key, value) VALUES ('batcher', '{key}', '{value}') \
         ON CONFLICT (service_id, key) DO UPDATE SET value = excluded.value"
    );
    db.execute_unprepared(&sql).await.unwrap();
}

/// The documentation says "within seconds"; the tests allow a minute, because the machine may be busy.
async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn option(explained: &Explanation, key: &str) -> (String, String) {
    let found = explained.options.iter().find(|option| option.key == key).unwrap();
    (found.value.clone(), found.place.clone())
}

pub(crate) async fn rows_of_service_config_take_effect_and_wrong_ones_are_reported(bench: Bench) {
    let services = start(&bench).await;
    let service = batcher(&services);
    let metric = |name: &str| service.health().metrics.get(name).copied();
    until("the first run", || service.health().runs == 1).await;
    configure(&bench.db, "interval", "\"200ms\"").await;
    until("it takes effect during the wait of an hour", || service.health().runs > 2).await;
    configure(&bench.db, "batch_size", "7").await;
    until("a changed setting leads to a fresh instance", || metric("size") == Some(7.0)).await;
    assert_eq!(metric("built"), Some(2.0));

    configure(&bench.db, "batch_size", "\"many\"").await;
    configure(&bench.db, "interval", "\"no time\"").await;
    configure(&bench.db, "needs", "[\"databaze\"]").await;
    let rejected = || service.explain().rejected;
    until("all are reported", || rejected().len() == 3).await;
    let reported = rejected().join("\n");
    for part in ["service_config", "\"no time\"", "\"many\"", "names the probe `databaze`", "did you mean `database`?"]
    {
        assert!(reported.contains(part), "{part} in {reported}");
    }
    assert!(service.explain().to_string().contains("rejected"), "{}", service.explain());
    let runs = service.health().runs;
    until("it keeps running", || service.health().runs > runs + 2).await;
    assert_eq!(metric("size"), Some(7.0), "with the last good values");
    assert_eq!(option(&service.explain(), "interval").0, "200ms");
    assert_eq!(service.health().error_count, 0);
    services.shutdown().await.unwrap();
}

/// A value that is no JSON, no time or neither `true` nor `false` is reported with its key; the value before it stays.
pub(crate) async fn rows_that_cannot_be_parsed_are_reported_and_the_last_good_value_stays(bench: Bench) {
    let services = start(&bench).await;
    let service = batcher(&services);
    let metric = |name: &str| service.health().metrics.get(name).copied();
    configure(&bench.db, "interval", "\"200ms\"").await;
    configure(&bench.db, "batch_size", "7").await;
    until("a changed setting leads to a fresh instance", || metric("size") == Some(7.0)).await;

    configure(&bench.db, "interval", "often").await;
    configure(&bench.db, "batch_size", "").await;
    for (key, value, until) in [("paused", "\"yes\"", "NULL"), ("max_failures", "9", "'tomorrow'")] {
        let sql = format!(
            "INSERT INTO service_override VALUES ('batcher', '{key}', '{value}', 'ann', '', '2026-01-01T00:00:00Z', {until})"
        );
        bench.db.execute_unprepared(&sql).await.unwrap();
    }
    let rejected = || service.explain().rejected;
    until("all are reported", || rejected().len() == 4).await;
    let reported = rejected().join("\n");
    for part in
        ["`interval`", "`batch_size`", "`paused`", "`max_failures`", "`tomorrow` is not a time", "true or false"]
    {
        assert!(reported.contains(part), "{part} in {reported}");
    }
    let runs = service.health().runs;
    until("it keeps running", || service.health().runs > runs + 2).await;
    assert_eq!(option(&service.explain(), "interval").0, "200ms");
    assert_eq!((metric("size"), service.health().paused), (Some(7.0), false));

    // An operator may well write `pause`.
    let pause =
        "INSERT INTO service_override VALUES ('batcher', 'pause', 'true', 'ann', '', '2026-01-01T00:00:00Z', NULL)";
    bench.db.execute_unprepared(pause).await.unwrap();
    until("`pause` has the effect of `paused`", || service.health().paused).await;
    // An override that was removed does not return because of a row that is wrong.
    assert!(database::remove_override(&bench.db, "batcher", "paused").await.unwrap());
    until("it is resumed", || !service.health().paused).await;
    let wrong = "INSERT INTO service_override VALUES ('batcher', 'paused', '\"false\"', 'ann', '', '2026-01-01T00:00:00Z', NULL)";
    bench.db.execute_unprepared(wrong).await.unwrap();
    until("it is reported", || rejected().join("\n").contains("\"false\"")).await;
    assert!(!service.health().paused);
    services.shutdown().await.unwrap();
}

pub(crate) async fn an_override_whose_value_becomes_invalid_ends_at_its_time(bench: Bench) {
    let services = start(&bench).await;
    let service = batcher(&services);
    let end = Utc::now() + Duration::from_secs(20);
    database::set_override(&bench.db, &set("paused", json!(true), Some(end))).await.unwrap();
    until("it is paused", || service.health().paused).await;
    bench.db.execute_unprepared("UPDATE service_override SET value = 'yes, please'").await.unwrap();
    until("it is reported", || !service.explain().rejected.is_empty()).await;
    until("it ends by itself", || !service.health().paused).await;
    assert!(Utc::now() >= end);
    // The row is removed after its end has taken effect.
    let left = async || internal::read_overrides(&bench.db, DateTime::UNIX_EPOCH).await.unwrap();
    while !left().await.is_empty() {
        assert!(Utc::now() < end + Duration::from_secs(60), "it is not removed: {:?}", left().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    services.shutdown().await.unwrap();
}

fn set(key: &str, value: Value, until: Option<DateTime<Utc>>) -> Override {
    let set = Override::new("batcher", key, value).by("ann").why("a busy night");
    match until {
        Some(until) => set.until(until),
        None => set,
    }
}

pub(crate) async fn an_override_applies_to_every_replica_until_its_end(bench: Bench) {
    let replicas = [start(&bench).await, start(&bench).await];
    let end = Utc::now() + Duration::from_secs(15);
    for (key, value) in [
        ("interval", json!("200ms")),
        ("max_failures", json!(9)),
        ("timeout", json!("5m")),
        ("batch_size", json!(11)),
        ("paused", json!(true)),
    ] {
        let until = (key != "interval").then_some(end);
        database::set_override(&bench.db, &set(key, value, until)).await.unwrap();
    }
    for services in &replicas {
        let service = batcher(services);
        until("it is paused", || service.health().paused).await;
        let reason = service.health().reason.unwrap();
        assert!(reason.contains("ann") && reason.contains("a busy night") && reason.contains("until"), "{reason}");
        let explained = service.explain();
        for (key, value) in [("max_failures", "9"), ("timeout", "5m"), ("interval", "200ms")] {
            let (found, place) = option(&explained, key);
            assert_eq!(found, value);
            assert!(place.contains("override by ann at ") && place.contains("a busy night"), "{place}");
            assert_eq!(place.contains("until"), key != "interval", "{place}");
        }
        assert!(explained.settings.iter().any(|s| s.key == "batch_size" && s.place.contains("ann")), "{explained}");
    }
    for services in &replicas {
        let service = batcher(services);
        until("it ends by itself", || !service.health().paused).await;
        assert!(Utc::now() >= end);
        assert_ne!(option(&service.explain(), "max_failures").0, "9");
        let runs = service.health().runs;
        until("the override without an end still applies", || service.health().runs > runs + 2).await;
        assert_eq!(service.health().metrics.get("size"), Some(&0.0));
    }
    let later = start(&bench).await;
    assert_eq!(option(&batcher(&later).explain(), "interval").0, "200ms", "from its first run on, after a restart too");
    later.shutdown().await.unwrap();
    let left = internal::read_overrides(&bench.db, DateTime::UNIX_EPOCH).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    for services in replicas {
        services.shutdown().await.unwrap();
    }
}

/// An override that has expired, and that another connection has locked, delays nothing: it does not apply, and others
/// do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_an_expired_override_that_is_locked_delays_no_other() {
    let Some(bench) = Bench::postgres().await else { return };
    let services = start(&bench).await;
    let service = batcher(&services);
    let end = Utc::now() + Duration::from_secs(5);
    database::set_override(&bench.db, &set("max_failures", json!(9), Some(end))).await.unwrap();
    until("it applies", || option(&service.explain(), "max_failures").0 == "9").await;
    let tx = bench.db.begin().await.unwrap();
    tx.execute_unprepared("UPDATE service_override SET why = 'locked'").await.unwrap();
    until("it has expired", || option(&service.explain(), "max_failures").0 != "9").await;
    database::set_override(&bench.db, &set("paused", json!(true), None)).await.unwrap();
    until("another one applies", || service.health().paused).await;
    let reason = service.health().reason.unwrap();
    assert!(!reason.contains("database"), "{reason}");
    tx.rollback().await.unwrap();
    let begun = std::time::Instant::now();
    while internal::read_overrides(&bench.db, DateTime::UNIX_EPOCH).await.unwrap().len() > 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the expired one is removed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    services.shutdown().await.unwrap();
}

/// Reports its settings as metrics.
struct Mailer(MailerSettings);

#[derive(Clone, serde::Deserialize)]
#[serde(try_from = "Raw")]
struct MailerSettings {
    batch_size: u32,
    min: u32,
    port: u16,
}

#[derive(serde::Deserialize)]
struct Raw {
    #[serde(default)]
    batch_size: u32,
    #[serde(default)]
    min: u32,
    #[serde(default)]
    smtp: Option<Smtp>,
}

#[derive(serde::Deserialize)]
struct Smtp {
    host: String,
    port: u16,
}

impl TryFrom<Raw> for MailerSettings {
    type Error = String;

    fn try_from(raw: Raw) -> std::result::Result<Self, String> {
        if raw.min > 100 {
            return Err("`min` is above 100".to_owned());
        }
        let port = raw.smtp.map_or(0, |smtp| if smtp.host.is_empty() { 0 } else { smtp.port });
        Ok(Self { batch_size: raw.batch_size, min: raw.min, port })
    }
}

#[service(interval = "200ms", discover = false)]
impl Mailer {
    fn configure(_cx: &Context, settings: MailerSettings) -> Self {
        Self(settings)
    }

    async fn update(&mut self, cx: &Context) {
        cx.metrics().set("batch_size", self.0.batch_size);
        cx.metrics().set("min", self.0.min);
        cx.metrics().set("port", self.0.port);
    }
}

/// The error names another key than that of the row, or no key.
pub(crate) async fn a_row_that_makes_the_settings_unreadable_is_left_out(bench: Bench) {
    configure(&bench.db, "smtp.host", "\"mail.example.org\"").await;
    configure(&bench.db, "batch_size", "7").await;
    let builder = || ServiceRegistry::builder().without_discovered().database_url(&bench.url);
    let services = builder().service_of::<Mailer>("batcher").start_all().await.unwrap();
    let service = batcher(&services);
    let is = |name: &str, value: f64| service.health().metrics.get(name) == Some(&value);
    let rejected = || service.explain().rejected.join("\n");
    until("it runs, with the other row", || is("batch_size", 7.0)).await;
    assert!(rejected().contains("smtp.host of batcher") && rejected().contains("`smtp.port`"), "{}", rejected());

    configure(&bench.db, "min", "5").await;
    until("a valid row applies", || is("min", 5.0)).await;
    configure(&bench.db, "min", "500").await;
    configure(&bench.db, "batch_size", "8").await;
    until("a row beside the wrong one applies", || is("batch_size", 8.0)).await;
    until("it is reported", || rejected().contains("`min` is above 100")).await;
    assert!(is("min", 5.0), "the last valid value stays");
    configure(&bench.db, "smtp.port", "25").await;
    until("the two rows apply together", || is("port", 25.0)).await;
    assert!(!rejected().contains("smtp"), "{}", rejected());
    bench.db.execute_unprepared("DELETE FROM service_config WHERE key = 'smtp.port'").await.unwrap();
    until("the row that is left is left out", || is("port", 0.0)).await;
    assert_eq!((service.state(), service.health().error_count), (ServiceState::Running, 0));
    services.shutdown().await.unwrap();

    // A process that starts with wrong rows has no last valid value of them.
    let services = builder().service_of::<Mailer>("batcher").start_all().await.unwrap();
    let service = batcher(&services);
    until("it runs", || service.health().metrics.get("batch_size") == Some(&8.0)).await;
    assert_eq!((service.health().metrics.get("min"), service.health().error_count), (Some(&0.0), 0));
    services.shutdown().await.unwrap();
}

/// Pauses for as long as its settings say, and does not check them.
struct Sleeper(Duration);

#[derive(serde::Deserialize)]
#[serde(from = "SleeperRaw")]
struct SleeperSettings {
    pause: Duration,
}

#[derive(serde::Deserialize)]
struct SleeperRaw {
    #[serde(default)]
    pause_seconds: f64,
}

impl From<SleeperRaw> for SleeperSettings {
    fn from(raw: SleeperRaw) -> Self {
        Self { pause: Duration::from_secs_f64(raw.pause_seconds) }
    }
}

#[service(interval = "1h", discover = false)]
impl Sleeper {
    fn configure(_cx: &Context, settings: SleeperSettings) -> Self {
        Self(settings.pause)
    }

    async fn update(&mut self, cx: &Context) {
        cx.metrics().set("pause", self.0.as_secs_f64());
    }
}

/// The code that reads the settings panics with one of the rows: the others apply, and so does a pause.
pub(crate) async fn a_row_that_makes_the_settings_panic_is_left_out(bench: Bench) {
    configure(&bench.db, "pause_seconds", "-1").await;
    configure(&bench.db, "interval", "\"200ms\"").await;
    database::set_override(&bench.db, &Override::new("batcher", "paused", true).by("ann")).await.unwrap();
    let builder = || ServiceRegistry::builder().without_discovered().service_of::<Sleeper>("batcher");
    let services = builder().database_url(&bench.url).start_all().await.unwrap();
    let service = batcher(&services);
    assert!(service.health().paused, "the pause of the table applies at the start");
    assert!(database::remove_override(&bench.db, "batcher", "paused").await.unwrap());
    until("it is resumed, and the other row applies", || service.health().runs > 2).await;
    assert_eq!(service.health().metrics.get("pause"), Some(&0.0));
    let rejected = service.explain().rejected.join("\n");
    assert!(rejected.contains("pause_seconds of batcher") && rejected.contains("panicked"), "{rejected}");
    configure(&bench.db, "pause_seconds", "2").await;
    until("a valid value applies", || service.health().metrics.get("pause") == Some(&2.0)).await;
    configure(&bench.db, "pause_seconds", "-2").await;
    until("it is reported", || !service.explain().rejected.is_empty()).await;
    database::set_override(&bench.db, &Override::new("batcher", "paused", true).by("ann")).await.unwrap();
    until("it is paused", || service.health().paused).await;
    assert_eq!(service.health().metrics.get("pause"), Some(&2.0), "the last valid value stays");
    services.shutdown().await.unwrap();

    // Code that panics without any row: the service cannot start, and its pause is known all the same.
    bench.db.execute_unprepared("DELETE FROM service_config").await.unwrap();
    let file = ServiceOptions::new().setting("pause_seconds", -1);
    let services = builder().options_of("batcher", file).database_url(&bench.url).start_all().await.unwrap();
    assert!(batcher(&services).health().paused);
    services.shutdown().await.unwrap();
}

/// A ready-made instance cannot be restarted.
pub(crate) async fn a_row_that_does_not_fit_the_service_is_left_out(bench: Bench) {
    configure(&bench.db, "restart", "\"on_failure\"").await;
    configure(&bench.db, "interval", "\"200ms\"").await;
    let builder = ServiceRegistry::builder().without_discovered().service("batcher", Batcher { size: 0 });
    let services = builder.database_url(&bench.url).start_all().await.unwrap();
    let service = batcher(&services);
    until("the other row applies", || service.health().runs > 2).await;
    let rejected = service.explain().rejected.join("\n");
    assert!(rejected.contains("restart of batcher") && rejected.contains("`service_fn`"), "{rejected}");
    services.reload().await.unwrap();
    assert_eq!(option(&service.explain(), "interval").0, "200ms");
    services.shutdown().await.unwrap();
}

pub(crate) async fn a_dependency_that_cannot_be_met_is_left_out(bench: Bench) {
    configure(&bench.db, "depends_on", "[\"databaze\"]").await;
    let builder = ServiceRegistry::builder().without_discovered().service_of::<Batcher>("batcher");
    let builder =
        builder.service_of::<Mailer>("mailer").options_of("mailer", ServiceOptions::new().depends_on(["batcher"]));
    let services = builder.database_url(&bench.url).start_all().await.unwrap();
    let service = batcher(&services);
    let rejected = || service.explain().rejected.join("\n");
    assert_eq!(service.state(), ServiceState::Running);
    assert!(rejected().contains("`databaze`, which is not registered"), "{}", rejected());
    configure(&bench.db, "depends_on", "[\"mailer\"]").await;
    until("a cycle is reported", || rejected().contains("in a cycle: ")).await;
    services.stop_all().await;
    services.start().await.unwrap();
    assert_eq!(service.state(), ServiceState::Running);
    services.shutdown().await.unwrap();
}

/// The service is of the type `batcher` and is registered under another id.
pub(crate) async fn rows_of_defaults_and_of_the_type_are_below_those_of_the_service(bench: Bench) {
    for (service, key, value) in [
        ("defaults", "interval", "\"1s\""),
        ("defaults", "jitter", "1"),
        ("defaults", "max_failures", "9"),
        ("batcher", "max_failures", "8"),
        ("batcher", "retry_delay", "7"),
        ("batcher_2", "retry_delay", "6"),
    ] {
        let sql =
            format!("INSERT INTO service_config (service_id, key, value) VALUES ('{service}', '{key}', '{value}')");
        bench.db.execute_unprepared(&sql).await.unwrap();
    }
    for (service, key, value) in [("defaults", "max_failures", json!(1)), ("defaults", "paused", json!(true))] {
        let mut set = set(key, value, None);
        set.service_id = service.into();
        database::set_override(&bench.db, &set).await.unwrap();
    }
    let builder = ServiceRegistry::builder().without_discovered().service_of::<Batcher>("batcher_2");
    let services = builder.database_url(&bench.url).start_all().await.unwrap();
    let service = services.get("batcher_2").unwrap();
    until("it is paused", || service.health().paused).await;
    let explained = service.explain();
    let found = |key: &str| explained.options.iter().find(|option| option.key == key).unwrap();
    assert_eq!((found("interval").value.as_str(), found("interval").layer), ("1h", Layer::Attribute));
    assert_eq!((found("jitter").value.as_str(), found("jitter").layer), ("1s", Layer::Defaults));
    assert_eq!((found("max_failures").value.as_str(), found("max_failures").layer), ("8", Layer::Table));
    assert_eq!((found("retry_delay").value.as_str(), found("retry_delay").layer), ("6s", Layer::Table));
    let hidden: Vec<&str> = found("retry_delay").hides.iter().map(|hidden| hidden.value.as_str()).collect();
    assert_eq!(hidden, ["7s"]);
    let rejected = explained.rejected.join("\n");
    assert!(rejected.contains("`max_failures`") && rejected.contains("can only be `paused`"), "{rejected}");
    services.shutdown().await.unwrap();
}

pub(crate) async fn without_migration_the_start_requires_the_tables(bench: Bench) {
    for table in ["service_store", "service_claim"] {
        bench.db.execute_unprepared(&format!("DROP TABLE {table}")).await.unwrap();
    }
    let builder = || ServiceRegistry::builder().without_discovered().service_of::<Batcher>("batcher").migrate(false);
    let error = builder().database_url(&bench.url).start_all().await.unwrap_err().to_string();
    assert!(error.contains("service_claim, service_store") && error.contains("schema_sql"), "{error}");
    // First as one text, then statement by statement.
    let sql = database::schema_sql(bench.db.get_database_backend());
    bench.db.execute_unprepared(sql).await.unwrap();
    for statement in &sql {
        bench.db.execute_unprepared(statement).await.unwrap();
    }
    let services = builder().database_url(&bench.url).start_all().await.unwrap();
    assert_eq!(batcher(&services).state(), ServiceState::Running);
    services.shutdown().await.unwrap();
}

/// A pool has at least two connections, and on SQLite each of them has WAL and a busy timeout.
pub(crate) async fn pools_suit_background_work(bench: Bench) {
    let held = [bench.db.begin().await.unwrap(), bench.db.begin().await.unwrap()];
    if bench.is_postgres() {
        return;
    }
    for connection in &held {
        let ask = async |pragma: &str| {
            let select = Statement::from_string(connection.get_database_backend(), format!("PRAGMA {pragma}"));
            connection.query_one_raw(select).await.unwrap().unwrap()
        };
        let mode: String = ask("journal_mode").await.try_get_by_index(0).unwrap();
        let timeout: i32 = ask("busy_timeout").await.try_get_by_index(0).unwrap();
        assert_eq!((mode.as_str(), timeout), ("wal", 5_000));
    }
}

/// PostgreSQL: a replica whose clock is ahead of the database's. Until the end by the database's clock, the override
/// stays in effect and is not deleted.
#[tokio::test]
async fn on_postgres_an_override_ends_by_the_databases_clock() {
    let Some(bench) = Bench::postgres().await else { return };
    let name = Statement::from_string(sea_orm::DbBackend::Postgres, "SELECT current_database() AS name");
    let name: String = bench.db.query_one_raw(name).await.unwrap().unwrap().try_get("", "name").unwrap();
    for sql in [
        "CREATE SCHEMA fake",
        "CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
         $$ SELECT pg_catalog.clock_timestamp() - interval '5 minutes' $$",
        &format!("ALTER DATABASE {name} SET search_path = fake, pg_catalog, public"),
    ] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let ends = |minutes: i64| (Utc::now() + chrono::Duration::minutes(minutes)).to_rfc3339();
    let set = async |key: &str, value: &str, until: &str| {
        let insert = format!(
            "INSERT INTO service_override VALUES ('batcher', '{key}', '{value}', 'ann', 'by hand', CURRENT_TIMESTAMP, '{until}')"
        );
        bench.db.execute_unprepared(&insert).await.unwrap();
    };
    // Three minutes are left, and one has passed since the end.
    set("paused", "true", &ends(-2)).await;
    set("interval", "\"7m\"", &ends(-6)).await;
    let services = start(&bench).await;
    until("it is paused", || batcher(&services).health().paused).await;
    let keys = async || {
        let select = Statement::from_string(sea_orm::DbBackend::Postgres, "SELECT key FROM service_override");
        let rows = bench.db.query_all_raw(select).await.unwrap();
        rows.iter().map(|row| row.try_get::<String>("", "key").unwrap()).collect::<Vec<_>>()
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        assert!(keys().await.contains(&"paused".to_owned()));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(keys().await, ["paused"], "the other has ended");
    assert!(batcher(&services).health().paused);
    services.shutdown().await.unwrap();
}

/// SQLite: the file is removed and made anew, or replaced, while the program runs.
#[tokio::test]
async fn on_sqlite_a_file_that_is_replaced_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.db");
    let url = format!("sqlite:{}", file.display());
    let builder = ServiceRegistry::builder().without_discovered().service_of::<Batcher>("batcher");
    let services = builder.database_url(&url).start_all().await.unwrap();
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    // What another program writes into the new file is seen.
    until("the file is there again", || file.exists()).await;
    let begun = Instant::now();
    let db = loop {
        let db = database::connect(&url).await.unwrap();
        database::migrate(&db).await.unwrap();
        if configure_if_there(&db).await {
            break db;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    until("its rows are read", || batcher(&services).explain().to_string().contains("service_config")).await;
    db.close().await.unwrap();
    services.shutdown().await.unwrap();
}

async fn configure_if_there(db: &DatabaseConnection) -> bool {
    db.execute_unprepared("INSERT INTO service_config VALUES ('batcher', 'interval', '\"41m\"')").await.is_ok()
}

pub(crate) async fn a_service_that_is_registered_again_has_its_rows_again(bench: Bench) {
    let services = ServiceRegistry::builder().without_discovered().database_url(&bench.url).start_all().await.unwrap();
    let mut pause = set("paused", json!(true), None);
    pause.service_id = "again".into();
    database::set_override(&bench.db, &pause).await.unwrap();
    for _ in 0..2 {
        let service = services.register_of::<Batcher>("again").start().await.unwrap();
        until("it is paused", || service.health().paused).await;
        services.unregister("again").await.unwrap();
    }
    services.shutdown().await.unwrap();
}
