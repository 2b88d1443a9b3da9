//! The page of all replicas, and the pages and commands of a service that another replica runs.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection};
use service_core::database;
use service_core::prelude::*;

use crate::postgres::Postgres;
use crate::site::{DANGEROUS, Site, builder, eventually};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
/// The time of SQLite by which heartbeats are compared, in milliseconds.
const NOW: &str = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)";

/// Runs on one replica at a time. Every second run fails, with a text that is dangerous in a page.
#[derive(Default)]
struct Invoices;

#[service(on_demand = true, scope = "cluster", retry_delay = 3600, max_retry_delay = 3600, discover = false)]
impl Invoices {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        if cx.run_number().is_multiple_of(2) { Err(Error::msg(DANGEROUS)) } else { Ok(()) }
    }
}

/// Runs until it is stopped, on one replica at a time.
#[derive(Default)]
struct Feed;

#[service(scope = "cluster", discover = false)]
impl Feed {
    async fn run(&mut self, cx: &Context) {
        cx.stopping().await;
    }
}

/// Two replicas on one database, of which the first runs the service.
struct Two {
    holder: Site,
    standby: Site,
}

impl Two {
    async fn start(url: &str) -> Self {
        let replica = || builder().admin("127.0.0.1:0").database_url(url).service_of::<Invoices>("invoices");
        let holder = Site::of(replica()).await;
        eventually(async || state(&holder) == ServiceState::Running).await;
        let standby = Site::of(replica()).await;
        eventually(async || state(&standby) == ServiceState::Standby).await;
        Self { holder, standby }
    }

    async fn on_sqlite() -> (Self, DatabaseConnection, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("admin.db").display());
        let two = Self::start(&url).await;
        let db = database::connect(&url).await.unwrap();
        (two, db, dir)
    }

    /// Waits until the page of the second replica has all of these texts. Returns the page.
    async fn page(&self, path: &str, texts: &[&str]) -> String {
        // The rows of replicas are written by processes on real time.
        for _ in 0..200 {
            let page = self.standby.get(path).await;
            assert_eq!(page.status, 200, "{page:?}");
            if texts.iter().all(|text| page.body.contains(text)) {
                return page.body;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path} never has {texts:?}: {}", self.standby.get(path).await.body);
    }
}

fn state(site: &Site) -> ServiceState {
    site.services.get("invoices").unwrap().state()
}

fn label() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    format!("{} (pid {})", host.trim(), std::process::id())
}

/// Adds the row of another replica.
async fn add_replica(db: &DatabaseConnection, id: &str, host: &str, seconds_ago: u64, services: &str) {
    let [host, services] = [host, services].map(|text| text.replace('\'', "''"));
    let values =
        format!("'{id}', '{host}', 71, '0.1.0', '2026-01-01T00:00:00Z', {NOW} - {}, '{services}'", seconds_ago * 1_000);
    db.execute_unprepared(&format!("INSERT INTO service_replica VALUES ({values})")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_which_replica_runs_what_and_which_replicas_are_gone() {
    let (two, db, _dir) = Two::on_sqlite().await;
    add_replica(&db, "old", "web-3", 700, "[]").await;
    let page = two.page("/ui/replicas", &["●</span> alive", "1: invoices", "1 standby", "<b>2</b>"]).await;
    assert!(page.contains("web-3 (pid 71)") && page.contains("✖</span> gone"), "{page}");
    assert!(page.contains(&label()) && page.contains("this replica"), "{page}");
    assert!(page.contains("<dt>epoch</dt><dd>1</dd>"), "{page}");
    assert!(page.contains("aria-current=\"page\">Replicas</a>"), "{page}");
    assert!(page.find(&label()) < page.find("web-3"), "replicas that are gone come last");
    // The page of the service, on the replica that stands by.
    let page = two.page("/ui/services/invoices", &["standby: held by", "●</span> alive"]).await;
    assert!(page.contains(&format!("standby: held by {}, epoch 1, renewed ", label())), "{page}");
    assert!(page.contains("runs on <b>") && page.contains("All replicas"), "{page}");
    let list = two.standby.get("/").await.body;
    assert!(list.contains(&format!("standby: held by {}, epoch 1, renewed ", label())), "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_holder_and_a_failure_elsewhere_are_shown_and_texts_of_other_replicas_are_escaped() {
    let (two, db, _dir) = Two::on_sqlite().await;
    let service = |id: &str, state: &str| {
        serde_json::json!([{"service_id": id, "state": state, "status": "unhealthy", "reason": DANGEROUS}]).to_string()
    };
    add_replica(&db, "bad", DANGEROUS, 0, &service("invoices", "failed")).await;
    add_replica(&db, "odd", "web-4", 0, &service(DANGEROUS, "running")).await;
    add_replica(&db, "silent", "web-5", 25, &service("invoices", "running")).await;
    for path in ["/ui/replicas", "/ui/services/invoices"] {
        let page = two.page(path, &["&lt;script&gt;alert", "▲</span> degraded"]).await;
        assert!(!page.contains(DANGEROUS) && !page.contains("<img"), "{path}: {page}");
    }
    let page = two.standby.get("/ui/services/invoices").await.body;
    assert!(page.contains("value=\"reset\""), "the service has failed on another replica: {page}");
    // It holds the lease of the service from now on, and the two others stand by.
    let lease = "owner = 'silent', label = 'web-5 (pid 71)', epoch = 8, expires_at = expires_at + 10000";
    db.execute_unprepared(&format!("UPDATE service_lease SET {lease}")).await.unwrap();
    let page = two.page("/ui/replicas", &["▲</span> silent", "its holder has been silent for 2"]).await;
    assert!(page.contains("<dt>epoch</dt><dd>8</dd>") && page.contains("web-5 (pid 71)"), "{page}");
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is not in {page}"));
    assert!(place("▲</span> silent") < place("●</span> alive"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buttons_on_a_standby_reach_the_holder_or_say_on_which_replicas_they_act() {
    let (two, _db, _dir) = Two::on_sqlite().await;
    let page = two.standby.get("/ui/services/invoices").await.body;
    for button in ["Run now", "Wake", "Pause on all replicas", "Stop on this replica"] {
        assert!(page.contains(&format!(">{button}</button>")), "{button}: {page}");
    }
    assert!(!page.contains("value=\"reset\"") && !page.contains("value=\"start\""), "{page}");
    let send = async |command: &str| {
        let body = format!("command={command}&by=ann&why=a+test");
        two.standby.send("POST", "/ui/services/invoices/commands", &[FORM], &body).await
    };
    // The first run, at the start of the holder, succeeded or is still to come.
    let runs = || two.holder.services.get("invoices").unwrap().health().runs;
    let before = runs();
    let answers = [send("run").await, send("run").await];
    assert!(runs() >= before + 2, "the holder has made them");
    assert_eq!(two.standby.services.get("invoices").unwrap().health().runs, 0);
    let [done, failed] = if answers[0].status == 303 {
        answers
    } else {
        let [a, b] = answers;
        [b, a]
    };
    assert_eq!((done.status, done.header("location")), (303, Some("../invoices?done=run")), "{done:?}");
    assert_eq!(failed.status, 200, "{failed:?}");
    assert!(failed.body.contains("The run failed: &lt;script&gt;") && !failed.body.contains(DANGEROUS), "{failed:?}");
    // An override, so it reaches all replicas.
    assert_eq!(send("pause").await.status, 303);
    eventually(async || state(&two.holder) == ServiceState::Paused).await;
    let page = two.standby.get("/ui/services/invoices").await.body;
    assert!(page.contains(">Resume on all replicas</button>"), "{page}");
    assert_eq!(send("resume").await.status, 303);
    eventually(async || state(&two.holder) != ServiceState::Paused).await;
    // A stop is for one replica.
    assert_eq!(send("stop").await.status, 303);
    assert_eq!(state(&two.standby), ServiceState::Stopped);
    assert_ne!(state(&two.holder), ServiceState::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_a_service_with_run_is_refused_on_every_replica_and_not_recorded() {
    let mut sites = Vec::new();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("admin.db").display());
    for expected in [ServiceState::Running, ServiceState::Standby] {
        let site = Site::of(builder().admin("127.0.0.1:0").database_url(&url).service_of::<Feed>("feed")).await;
        let feed = site.services.get("feed").unwrap();
        eventually(async || feed.state() == expected).await;
        let refused = site.post("/services/feed/run", "").await;
        assert!(refused.status == 409 && refused.error().contains("its `run` continues"), "{refused:?}");
        assert_eq!(site.get("/audit").await.json(), serde_json::json!([]));
        sites.push(site);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_paused_in_the_process_of_a_standby_can_be_paused_for_all() {
    let (two, _db, _dir) = Two::on_sqlite().await;
    two.standby.services.get("invoices").unwrap().pause().await.unwrap();
    let answer = two.standby.post("/services/invoices/pause", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually(async || state(&two.holder) == ServiceState::Paused).await;
    let again = two.standby.post("/services/invoices/pause", "").await;
    assert!(again.status == 409 && again.error().contains("it is paused already"), "{again:?}");
}

/// Requests two runs from a replica that stands by. One of them fails.
async fn two_runs_elsewhere(site: &Site) {
    let mut runs = [site.services("run invoices").await, site.services("run invoices").await];
    runs.sort_by_key(|run| run.status);
    let [done, failed] = runs;
    assert!(done.status == 0 && done.out.starts_with("invoices: the run succeeded in "), "{done:?}");
    assert_eq!((failed.status, failed.err.as_str()), (1, ""));
    assert!(failed.out.starts_with("invoices: the run failed after ") && failed.out.contains(DANGEROUS), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_another_replica_makes_is_reported_with_its_result() {
    let (two, _db, _dir) = Two::on_sqlite().await;
    two_runs_elsewhere(&two.standby).await;
    assert_eq!(two.standby.get("/services/invoices/runs").await.json(), serde_json::json!([]));
    let answer = two.standby.post("/services/invoices/run", "").await.json();
    let report = &answer["report"];
    assert_eq!((&answer["state"], &report["run"]), (&"standby".into(), &().into()), "{answer}");
    assert_eq!(report["succeeded"], report["error"].is_null(), "{answer}");
    assert!(two.standby.post("/services/invoices/wake", "").await.json().get("report").is_none());
    // A replica that has made runs of its own, and stands by now.
    assert_eq!(two.holder.post("/services/invoices/stop", "").await.status, 200);
    eventually(async || state(&two.standby) == ServiceState::Running).await;
    assert_eq!(two.holder.post("/services/invoices/start", "").await.status, 200);
    eventually(async || state(&two.holder) == ServiceState::Standby).await;
    assert!(two.holder.services.get("invoices").unwrap().health().runs > 0);
    two_runs_elsewhere(&two.holder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_without_such_services_has_no_link_to_the_page() {
    let site = Site::start().await;
    assert!(!site.get("/").await.body.contains("ui/replicas"));
    let page = site.get("/ui/replicas").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("it does not know of other replicas"), "{page:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_the_page_shows_what_this_replica_knows() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else { return };
    let url = server.database();
    let two = Two::start(&url).await;
    two.page("/ui/replicas", &["1: invoices"]).await;
    let server = tokio::task::spawn_blocking(|| {
        server.down();
        server
    });
    let server = server.await.unwrap();
    for (site, holder) in [(&two.standby, label()), (&two.holder, "this replica".to_owned())] {
        // Before and after the outage is known.
        eventually(async || {
            let page = site.get("/ui/replicas").await;
            assert_eq!(page.status, 200, "{page:?}");
            assert!(page.body.contains("The database does not answer"), "{page:?}");
            assert!(page.body.contains(&holder) && page.body.contains("<dt>epoch</dt><dd>1</dd>"), "{page:?}");
            page.body.contains("has been down for")
        })
        .await;
        let page = site.get("/ui/services/invoices").await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains("The database does not answer"), "{page:?}");
    }
    drop(server);
}
