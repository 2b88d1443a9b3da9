//! Commands without a database: what they do, and what is recorded.

use std::sync::Arc;
use std::time::Duration;

use service_core::prelude::*;
use tokio::sync::Semaphore;

use crate::site::{Gated, Site, builder};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_acts_and_answers_with_the_new_health() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    for (command, state, is_paused) in [
        ("pause", "paused", true),
        ("resume", "running", false),
        ("stop", "stopped", false),
        ("start", "running", false),
        ("run", "running", false),
        ("wake", "running", false),
    ] {
        let answer = site.post(&format!("/services/steady/{command}"), r#"{"by": "ann", "why": "a test"}"#).await;
        assert_eq!(answer.status, 200, "{command}: {answer:?}");
        let health = answer.json();
        assert_eq!((&health["state"], &health["paused"]), (&state.into(), &is_paused.into()), "{command}");
    }
    let audit = site.get("/audit").await.json();
    let actions: Vec<_> = audit.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["wake", "run", "start", "stop", "resume", "pause"]);
    assert_eq!(
        (&audit[0]["by"], &audit[0]["why"], &audit[0]["subject"]),
        (&"ann".into(), &"a test".into(), &"steady".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_the_state_does_not_allow_says_why_and_is_not_recorded() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    for (command, why) in [("start", "running already"), ("resume", "not paused"), ("reset", "not failed")] {
        let answer = site.post(&format!("/services/steady/{command}"), "").await;
        assert_eq!(answer.status, 409, "{command}");
        assert!(answer.error().contains(why), "{command}: {answer:?}");
    }
    assert_eq!(site.post("/services/steady/explode", "").await.status, 404);
    assert_eq!(site.post("/services/nothing/pause", "").await.status, 404);
    assert_eq!(site.get("/services/steady/pause").await.status, 405);
    let stopped = site.post("/services/steady/stop", "").await;
    assert_eq!(stopped.json()["state"], "stopped");
    for command in ["run", "wake", "pause"] {
        assert_eq!(site.post(&format!("/services/steady/{command}"), "").await.status, 409, "{command}");
    }
    assert_eq!(site.get("/audit").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_service_is_reset() {
    let failing = builder().admin("127.0.0.1:0").options_of("broken", ServiceOptions::new().max_failures(0));
    let site = Site::of(failing).await;
    crate::site::eventually(async || site.services.get("broken").unwrap().state() == ServiceState::Failed).await;
    let answer = site.post("/services/broken/reset", r#"{"by":"ann"}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    site.runs("broken", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_wrong_are_refused_with_the_reason() {
    let site = Site::start().await;
    let long = format!(r#"{{"by": "{}"}}"#, "a".repeat(101));
    for (body, status, why) in [
        ("{", 400, "JSON"),
        ("[]", 422, "object"),
        (r#"["ann", "why"]"#, 422, "object"),
        (r#"{"who": "ann"}"#, 422, "who"),
        (r#"{"by": 3}"#, 422, "string"),
        (&long, 422, "100 characters"),
    ] {
        let answer = site.post("/services/steady/pause", body).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.error().contains(why), "{body}: {answer:?}");
    }
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    // As `curl -d` sends it.
    assert_eq!(site.send("POST", "/services/steady/wake", &form, r#"{"by": "ann"}"#).await.status, 200);
    assert_eq!(site.get("/audit").await.json()[0]["by"], "ann");
    let answer = site.send("POST", "/services/steady/pause", &form, "by=ann&why=a+form").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(site.get("/audit").await.json()[0]["why"], "a form");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_client_leaves_is_carried_out_and_recorded() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let site = Site::of(builder().admin("127.0.0.1:0").service_fn("gated", move || Gated(held.clone()))).await;
    site.runs("gated", 1).await;
    let left = tokio::time::timeout(Duration::from_secs(2), site.post("/services/gated/stop", r#"{"by":"ann"}"#));
    left.await.unwrap_err();
    assert_eq!(site.services.get("gated").unwrap().state(), ServiceState::Draining);
    gate.add_permits(10);
    crate::site::eventually(async || site.get("/audit").await.json()[0]["action"] == "stop").await;
    assert_eq!(site.services.get("gated").unwrap().state(), ServiceState::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overrides_need_a_database_and_the_answer_says_so() {
    let site = Site::start().await;
    let answer = site.send("PUT", "/services/steady/overrides/interval", &[], r#"{"value": 5}"#).await;
    assert_eq!(answer.status, 409);
    assert!(answer.error().contains("database"), "{answer:?}");
    assert_eq!(site.send("DELETE", "/services/steady/overrides/interval", &[], "").await.status, 409);
    assert_eq!(site.send("PUT", "/services/nothing/overrides/interval", &[], r#"{"value": 5}"#).await.status, 404);
}

/// Continues until a stop is requested.
#[derive(Default)]
struct Stream;

#[service(discover = false)]
impl Stream {
    async fn run(&mut self, cx: &Context) {
        cx.stopping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_that_would_be_dropped_is_refused_and_not_recorded() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let gated = builder().service_fn("gated", move || Gated(held.clone())).service_of::<Stream>("stream");
    let site = Site::of(gated.admin("127.0.0.1:0")).await;
    site.runs("stream", 1).await;
    site.runs("gated", 1).await;
    let stopping = site.services.get("gated").unwrap();
    let stopping = tokio::spawn(async move { stopping.stop().await });
    crate::site::eventually(async || site.services.get("gated").unwrap().state() == ServiceState::Draining).await;
    for (id, why) in [("stream", "its `run` continues until a stop is requested"), ("gated", "it is stopping")] {
        let refused = site.post(&format!("/services/{id}/wake"), "").await;
        assert!(refused.status == 409 && refused.error().contains(why), "{id}: {refused:?}");
    }
    assert_eq!(site.get("/audit").await.json().as_array().unwrap().len(), 0);
    gate.add_permits(1);
    stopping.await.unwrap().unwrap();
}
