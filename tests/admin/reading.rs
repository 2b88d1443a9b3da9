//! What can be read: health, services, runs, explanations.

use std::sync::Arc;

use service_core::prelude::*;
use tokio::sync::Semaphore;

use crate::site::{DANGEROUS, Gated, Ratio, Site, builder, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_of_all_services_and_of_one_is_what_the_registry_says() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    site.runs("broken", 1).await;
    crate::site::eventually(async || site.services.get("broken").unwrap().health().error_count == 1).await;
    let all: Vec<ServiceHealth> = serde_json::from_str(&site.get("/services").await.body).unwrap();
    assert_eq!(all.iter().map(|health| health.service_id.as_str()).collect::<Vec<_>>(), ["broken", "steady"]);
    let answer = site.get("/services/steady").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let one: ServiceHealth = serde_json::from_str(&answer.body).unwrap();
    let health = site.services.get("steady").unwrap().health();
    assert_eq!((one.runs, one.state, &one.metrics), (health.runs, health.state, &health.metrics));
    assert_eq!(site.get("/services/steady/explain").await.json()["options"][0]["key"], "interval");
    for path in ["/services/nothing", "/services/nothing/runs", "/services/nothing/explain"] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.error().contains("`nothing`"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metric_that_is_not_a_number_is_null_and_health_reads_it() {
    let site = Site::of(builder().admin("127.0.0.1:0").service_of::<Ratio>("ratio")).await;
    crate::site::eventually(async || site.services.get("ratio").unwrap().health().metrics.len() == 3).await;
    let answer = site.get("/services").await;
    let shown = serde_json::json!({"queue_depth": 7.0, "ratio": null, "speed": null});
    assert_eq!(answer.json()[1]["metrics"], shown, "{answer:?}");
    let all: Vec<ServiceHealth> = serde_json::from_str(&answer.body).unwrap();
    assert!(all[1].metrics["ratio"].is_nan() && all[1].metrics["queue_depth"] == 7.0, "{:?}", all[1]);
    let schema = &site.get("/openapi.json").await.json()["components"]["schemas"]["ServiceHealth"];
    assert_eq!(
        schema["properties"]["metrics"]["additionalProperties"]["type"],
        serde_json::json!(["number", "null"]),
        "{schema}"
    );
    let metrics = site.get("/metrics").await.body;
    assert!(metrics.contains("service_custom{service=\"ratio\",name=\"ratio\"} NaN\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_fifty_runs_have_their_results_the_newest_first() {
    let site = Site::start().await;
    let steady = site.services.get("steady").unwrap();
    site.runs("steady", 1).await;
    for _ in 0..60 {
        steady.run_now().await.unwrap();
    }
    let runs = site.get("/services/steady/runs").await.json();
    let runs = runs.as_array().unwrap();
    assert_eq!(runs.len(), 50);
    assert_eq!((&runs[0]["run"], &runs[49]["run"]), (&61.into(), &12.into()));
    assert_eq!(
        (&runs[0]["succeeded"], &runs[0]["processed"], &runs[0]["error"]),
        (&true.into(), &3.into(), &().into())
    );
    assert!(runs[0]["duration_ms"].as_f64().unwrap() >= 0.0 && runs[0]["started_at"].as_str().unwrap().ends_with('Z'));
    crate::site::eventually(async || site.services.get("broken").unwrap().health().error_count == 1).await;
    let failed = &site.get("/services/broken/runs").await.json()[0];
    assert_eq!((&failed["run"], &failed["succeeded"], &failed["failure"]), (&1.into(), &false.into(), &"error".into()));
    assert_eq!(failed["error"], DANGEROUS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_address_nothing_is_served() {
    let services = builder().build().await.unwrap();
    services.start().await.unwrap();
    assert_eq!(services.admin_address(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_is_ready_from_the_end_of_its_start_to_its_shutdown() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let builder = builder().admin("127.0.0.1:0").service_fn("gated", move || Gated(held.clone()));
    let services = builder.build().await.unwrap();
    services.start().await.unwrap();
    let site = Site { address: services.admin_address().unwrap(), services };
    let ready = site.get("/health/ready").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()));
    let listed = ready.json()["services"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 3);
    site.runs("gated", 1).await;
    let stopping = tokio::spawn({
        let services = site.services.clone();
        async move { services.shutdown().await }
    });
    site.services.stopping().await;
    let ready = site.get("/health/ready").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &false.into()));
    assert!(ready.json()["reason"].as_str().unwrap().contains("stopped"), "{ready:?}");
    // A shutdown in progress is no reason to kill the process.
    assert_eq!(site.get("/health/live").await.status, 200);
    gate.add_permits(10);
    stopping.await.unwrap().unwrap();
    assert_eq!(site.services.admin_address(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_critical_service_makes_the_program_unready_and_another_does_not() {
    let site = Site::start().await;
    crate::site::eventually(async || site.services.get("broken").unwrap().health().error_count == 1).await;
    assert_eq!(site.get("/health/ready").await.status, 200);
    let other = builder().admin("127.0.0.1:0").options_of(
        "broken",
        ServiceOptions::new().critical(true).exhausted(service_core::Exhausted::NextRun).max_failures(0),
    );
    let site = Site::of(other).await;
    crate::site::eventually(async || site.get("/health/ready").await.status == 503).await;
    let ready = site.get("/health/ready").await.json();
    assert!(ready["reason"].as_str().unwrap().contains("`broken`"), "{ready}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blocked_runtime_is_not_alive_and_is_still_answered() {
    let site = Site::start().await;
    assert_eq!(site.get("/health/live").await.json()["live"], true);
    let address = site.address;
    // The only worker thread of the services is blocked; this client has a runtime of its own.
    let (end, blocked) = std::sync::mpsc::channel::<()>();
    let worker = tokio::spawn(async move { blocked.recv() });
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let live = runtime.block_on(send(address, "GET", "/health/live", &[], ""));
        let services = runtime.block_on(send(address, "GET", "/services", &[], ""));
        end.send(()).unwrap();
        (live, services)
    });
    let (live, services) = client.join().unwrap();
    assert_eq!((live.status, &live.json()["live"]), (503, &false.into()));
    assert_eq!(services.status, 200);
    worker.await.unwrap().unwrap();
    assert_eq!(site.get("/health/live").await.status, 200);
}

/// Takes about four seconds of real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn on_a_blocked_runtime_with_a_database_the_pages_are_still_answered() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("admin.db").display());
    let site = Site::of(builder().admin("127.0.0.1:0").database_url(url)).await;
    assert_eq!(site.get("/ui/services/steady").await.status, 200);
    let address = site.address;
    let (end, blocked) = std::sync::mpsc::channel::<()>();
    let worker = tokio::spawn(async move { blocked.recv() });
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let get = async |path: &'static str| send(address, "GET", path, &[], "").await;
        let answers = runtime.block_on(async {
            tokio::join!(
                get("/ui/services/steady"),
                get("/ui/audit"),
                get("/audit"),
                get("/services/steady/overrides"),
                get("/services/steady/explain"),
            )
        });
        end.send(()).unwrap();
        answers
    });
    let (page, audit_page, audit, overrides, explained) = client.join().unwrap();
    assert_eq!(page.status, 200, "{page:?}");
    let reasons = page.body.matches("no answer within 2 s").count();
    assert_eq!(reasons, 2, "for the overrides and for the audit: {}", page.body);
    assert_eq!((audit_page.status, audit.status, overrides.status), (503, 503, 503));
    assert!(audit_page.body.contains("no answer within 2 s"), "{audit_page:?}");
    assert!(audit.error().contains("no answer within 2 s"), "{audit:?}");
    assert_eq!(explained.status, 200);
    worker.await.unwrap().unwrap();
    assert_eq!(site.get("/audit").await.status, 200);
}

/// Counts items, and fails.
#[derive(Default)]
struct Halfway;

#[service(interval = 60, discover = false)]
impl Halfway {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.processed(3);
        cx.failed(1);
        Err(Error::msg("the connection is lost"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_run_has_the_items_that_its_code_counted() {
    let site = Site::of(builder().admin("127.0.0.1:0").service_of::<Halfway>("halfway")).await;
    crate::site::eventually(async || site.services.get("halfway").unwrap().health().error_count == 1).await;
    let runs = site.get("/services/halfway/runs").await.json();
    assert_eq!((&runs[0]["processed"], &runs[0]["failed"]), (&3.into(), &1.into()), "{runs}");
    assert_eq!((&runs[0]["succeeded"], &runs[0]["error"]), (&false.into(), &"the connection is lost".into()));
    let report = &site.post("/services/halfway/run", "").await.json()["report"];
    assert_eq!((&report["processed"], &report["failed"]), (&3.into(), &1.into()), "{report}");
}
