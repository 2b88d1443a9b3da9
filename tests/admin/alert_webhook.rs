//! Alerts that a webhook, or a closure of the application, receives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use service_core::admin::ServiceAlert;
use service_core::prelude::*;
use service_core::{Exhausted, RegistryBuilder};

use crate::site::{Site, Steady, eventually};

/// A service that fails while this is true.
#[derive(Clone, Default)]
struct Switched(Arc<AtomicBool>);

#[service(interval = 0.05, max_failures = 0, discover = false)]
impl Switched {
    async fn update(&mut self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(Error::msg("the provider is down")) } else { Ok(()) }
    }
}

impl Switched {
    fn switch(&self, broken: bool) {
        self.0.store(broken, Ordering::SeqCst);
    }
}

/// A receiver of alerts.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<Value>>>,
    /// How many requests are refused first.
    refuse: Arc<AtomicUsize>,
    /// The status of these answers; 0 is 503.
    status: Arc<AtomicU16>,
    refused: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = self.clone();
        let receive = async move |headers: HeaderMap, Json(alert): Json<Value>| {
            assert_eq!(headers["idempotency-key"], alert["id"].as_str().unwrap());
            let is_refused =
                receiver.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            let log = if is_refused { &receiver.refused } else { &receiver.got };
            log.lock().unwrap().push(alert);
            let status = StatusCode::from_u16(receiver.status.load(Ordering::SeqCst));
            if is_refused { status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE) } else { StatusCode::NO_CONTENT }
        };
        let app = Router::new().route("/alerts/{token}", post(receive));
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    /// What was received: the event, and the service or the resource.
    fn events(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let got = self.got.lock().unwrap();
        got.iter()
            .map(|alert| (text(&alert["event"]), text(&alert["service_id"]) + &text(&alert["resource"])))
            .collect()
    }

    async fn expect(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(event, id)| ((*event).to_owned(), (*id).to_owned())).collect();
        eventually(async || self.events().len() >= expected.len()).await;
        assert_eq!(self.events(), expected);
    }
}

fn builder(switched: &Switched) -> RegistryBuilder {
    let service = switched.clone();
    ServiceRegistry::builder()
        .without_discovered()
        .requester_id("tests")
        .service_fn("mail", move || service.clone())
        .service_of::<Steady>("steady")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_sent_once_although_the_receiver_fails_first_and_its_end_is_sent_too() {
    let (switched, receiver) = (Switched::default(), Receiver::default());
    switched.switch(true);
    receiver.refuse.store(2, Ordering::SeqCst);
    let url = format!("http://{}/alerts/s3cret", receiver.start().await);
    let site = Site::of(builder(&switched).alert_webhook(url).admin("127.0.0.1:0")).await;
    receiver.expect(&[("failed", "mail")]).await;
    let alert = receiver.got.lock().unwrap()[0].clone();
    assert_eq!(alert["summary"], "service `mail`: failed: the provider is down");
    assert_eq!((&alert["requester_id"], &alert["health"]["state"]), (&"tests".into(), &"failed".into()));
    assert!(alert["at"].as_str().unwrap().ends_with('Z'), "{alert}");
    {
        let refused = receiver.refused.lock().unwrap();
        assert_eq!(refused.len(), 2);
        assert!(refused.iter().all(|other| *other == alert), "{refused:?}");
    }
    switched.switch(false);
    site.services.get("mail").unwrap().reset().await.unwrap();
    receiver.expect(&[("failed", "mail"), ("recovered", "mail")]).await;
    // It counts when the answer has arrived.
    eventually(async || site.get("/metrics").await.body.contains("service_alerts_total{result=\"delivered\"} 2")).await;
    site.services.shutdown().await.unwrap();
    assert_eq!(receiver.events().len(), 2);
}

/// A proxy redirects while it is configured; a receiver that is gone answers 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_answer_that_refuses_the_alert_itself_is_final() {
    for (status, is_final) in [(302, false), (429, false), (404, true)] {
        let (switched, receiver) = (Switched::default(), Receiver::default());
        switched.switch(true);
        receiver.refuse.store(1, Ordering::SeqCst);
        receiver.status.store(status, Ordering::SeqCst);
        let url = format!("http://{}/alerts/s3cret", receiver.start().await);
        let site = Site::of(builder(&switched).alert_webhook(url).admin("127.0.0.1:0")).await;
        let result = if is_final { "dropped" } else { "delivered" };
        let counted = format!("service_alerts_total{{result=\"{result}\"}} 1");
        eventually(async || site.get("/metrics").await.body.contains(&counted)).await;
        assert_eq!(receiver.events().len(), usize::from(!is_final), "{status}");
        // The service has failed.
        site.services.shutdown().await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runs_that_are_given_up_are_one_alert() {
    let (switched, receiver) = (Switched::default(), Receiver::default());
    switched.switch(true);
    let url = format!("http://{}/alerts/1", receiver.start().await);
    let options = ServiceOptions::new().exhausted(Exhausted::NextRun);
    let services = builder(&switched).options_of("mail", options).alert_webhook(url).build().await.unwrap();
    services.start().await.unwrap();
    let mail = services.get("mail").unwrap();
    receiver.expect(&[("given_up", "mail")]).await;
    let errors = mail.health().error_count;
    eventually(async || mail.health().error_count >= errors + 20).await;
    receiver.expect(&[("given_up", "mail")]).await;
    switched.switch(false);
    receiver.expect(&[("given_up", "mail"), ("recovered", "mail")]).await;
    services.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_a_resource_is_sent_and_its_end() {
    let (down, receiver) = (Arc::new(AtomicBool::new(true)), Receiver::default());
    let url = format!("http://{}/alerts/1", receiver.start().await);
    let checked = down.clone();
    let check = async move || match checked.load(Ordering::SeqCst) {
        true => Err(std::io::Error::other("connection refused")),
        false => Ok(()),
    };
    let services = builder(&Switched::default())
        .probe("broker", Duration::from_millis(500), check)
        .alert_webhook(url)
        .build()
        .await
        .unwrap();
    services.start().await.unwrap();
    receiver.expect(&[("outage", "broker")]).await;
    let summary = receiver.got.lock().unwrap()[0]["summary"].to_string();
    assert!(
        summary.contains("the probe `broker` has failed for") && summary.contains("connection refused"),
        "{summary}"
    );
    down.store(false, Ordering::SeqCst);
    receiver.expect(&[("outage", "broker"), ("outage_over", "broker")]).await;
    services.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_failure_that_ends_the_program_is_delivered_before_its_end() {
    let (switched, receiver) = (Switched::default(), Receiver::default());
    let url = format!("http://{}/alerts/1", receiver.start().await);
    let options = ServiceOptions::new().critical(true);
    let services = builder(&switched).options_of("mail", options).alert_webhook(url).build().await.unwrap();
    services.start().await.unwrap();
    switched.switch(true);
    services.closed().await.unwrap_err();
    assert_eq!(receiver.events(), [("failed".to_owned(), "mail".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_never_answers_delays_neither_services_nor_for_long_a_shutdown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let connected = Arc::new(AtomicUsize::new(0));
    let count = connected.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let switched = Switched::default();
    switched.switch(true);
    let services = builder(&switched)
        .options_of("steady", ServiceOptions::new().interval(Duration::from_millis(20)))
        .alert_webhook(url)
        .build()
        .await
        .unwrap();
    services.start().await.unwrap();
    eventually(async || connected.load(Ordering::SeqCst) == 1).await;
    let steady = services.get("steady").unwrap();
    let runs = steady.health().runs;
    eventually(async || steady.health().runs > runs + 10).await;
    let began = Instant::now();
    // The failed service is in its result.
    services.shutdown().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_that_blocks_delays_a_shutdown_by_seconds_only() {
    for on_its_thread in [false, true] {
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let send = async move |_alert: ServiceAlert| {
            begun.send(()).unwrap();
            let block = move || {
                let _ = blocked.lock().unwrap().recv();
            };
            match on_its_thread {
                true => block(),
                false => tokio::task::spawn_blocking(block).await.unwrap(),
            }
            Ok::<_, Error>(())
        };
        let switched = Switched::default();
        switched.switch(true);
        let services = builder(&switched).alert_with(send).build().await.unwrap();
        services.start().await.unwrap();
        tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
        services.shutdown().await.unwrap_err();
        // It still blocks.
        drop(release);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_gets_the_alerts_and_may_fail_and_panic_first() {
    let (switched, receiver, calls) = (Switched::default(), Receiver::default(), Arc::new(AtomicUsize::new(0)));
    switched.switch(true);
    let got = receiver.got.clone();
    let send = async move |alert: ServiceAlert| {
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => panic!("the first call"),
            1 => return Err("not yet"),
            _ => got.lock().unwrap().push(serde_json::to_value(&alert).unwrap()),
        }
        Ok(())
    };
    let services = builder(&switched).alert_with(send).build().await.unwrap();
    services.start().await.unwrap();
    receiver.expect(&[("failed", "mail")]).await;
    services.shutdown().await.unwrap_err();
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_errors_of_the_build_that_name_the_fix() {
    let build = builder(&Switched::default()).alert_webhook("https://hooks.example.org/s3cret").build();
    let error = build.await.unwrap_err().to_string();
    assert!(error.contains("has no TLS") && error.contains("`.alert_with(…)`") && !error.contains("s3cret"), "{error}");
}
