//! `/events`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::site::{Site, Ticker, builder};

struct Reader(BufReader<TcpStream>);

impl Reader {
    async fn connect(site: &Site, path: &str) -> Self {
        Self::connect_to(site.address, path).await
    }

    async fn connect_to(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer s3cret\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reader = Self(BufReader::new(stream));
        while !reader.line().await.unwrap_or_default().starts_with(':') {}
        reader
    }

    /// The next line; `None`: the server has closed the connection.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), self.0.read_line(&mut line)).await;
        (read.expect("nothing arrives").is_ok_and(|read| read > 0)).then(|| line.trim_end().to_owned())
    }

    /// The data of the next message.
    async fn message(&mut self) -> Value {
        loop {
            let line = self.line().await.expect("the stream has ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_get_the_events_of_services() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    let mut all = Reader::connect(&site, "/events").await;
    let mut one = Reader::connect(&site, "/events?service=steady&health=true").await;
    site.services.get("steady").unwrap().pause().await.unwrap();
    for (reader, has_health) in [(&mut all, false), (&mut one, true)] {
        let message = reader.message().await;
        assert_eq!(
            (&message["service_id"], &message["event"], &message["to"]),
            (&"steady".into(), &"state_changed".into(), &"paused".into())
        );
        assert_eq!(message["health"]["paused"] == true, has_health, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_asked_to_pass_on_each_event_at_once() {
    let site = Site::start().await;
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", site.address);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reader = Reader(BufReader::new(stream));
    let mut head = Vec::new();
    while let Some(line) = reader.line().await.filter(|line| !line.is_empty()) {
        head.push(line.to_lowercase());
    }
    assert!(head.iter().any(|line| line == "x-accel-buffering: no"), "{head:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_runs_often_sends_at_most_one_message_a_second() {
    let site = Site::of(builder().admin("127.0.0.1:0").service_of::<Ticker>("ticker")).await;
    let mut reader = Reader::connect(&site, "/events?service=ticker").await;
    let (began, mut messages, mut runs) = (Instant::now(), 0, BTreeMap::new());
    while began.elapsed() < Duration::from_secs(3) {
        let message = reader.message().await;
        messages += 1;
        let earlier = message["earlier"].as_array().cloned().unwrap_or_default();
        for event in earlier.iter().chain([&message]).filter(|event| event["event"] == "run_finished") {
            *runs.entry(event["run"].as_u64().unwrap()).or_insert(0) += 1;
        }
    }
    assert!((2..=5).contains(&messages), "{messages}");
    assert!(runs.len() > 20 && runs.values().all(|times| *times == 1), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_end_when_the_server_stops() {
    let site = Site::start().await;
    let mut reader = Reader::connect(&site, "/events").await;
    let began = Instant::now();
    site.services.shutdown().await.ok();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    while reader.line().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_mounted_router_does_not_keep_the_applications_server() {
    let services = builder().admin_token("s3cret").build().await.unwrap();
    services.start().await.unwrap();
    let app = axum::Router::new().nest("/admin", service_core::admin::router(&services));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stopping = services.clone();
    let served = axum::serve(listener, app).with_graceful_shutdown(async move { stopping.stopping().await });
    let served = tokio::spawn(async move { served.await });
    let mut reader = Reader::connect_to(address, "/admin/events").await;
    services.shutdown().await.ok();
    while reader.line().await.is_some() {}
    drop(reader);
    tokio::time::timeout(Duration::from_secs(5), served).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_mounted_interface_connect_less_often_after_the_shutdown() {
    let services = builder().admin_token("s3cret").build().await.unwrap();
    services.start().await.unwrap();
    let app = service_core::admin::router(&services);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut reader = Reader::connect_to(address, "/events").await;
    let lines = async |reader: &mut Reader| {
        let mut lines = Vec::new();
        // The connection stays open; the last chunk is empty.
        while let Some(line) = reader.line().await.filter(|line| line != "0") {
            lines.push(line);
        }
        lines
    };
    services.shutdown().await.ok();
    assert!(lines(&mut reader).await.iter().any(|line| line.contains("retry: 500")));
    let mut late = Reader::connect_to(address, "/events").await;
    assert!(lines(&mut late).await.iter().any(|line| line.contains("retry: 5000")));
    served.abort();
}

/// Takes about ten seconds of real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_mounted_router_does_not_keep_a_server_that_stops_before_the_services() {
    let services = builder().admin_token("s3cret").build().await.unwrap();
    services.start().await.unwrap();
    let app = axum::Router::new().nest("/admin", service_core::admin::router(&services));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let served = axum::serve(listener, app).with_graceful_shutdown(async move { drop(stopping.await) });
    let served = tokio::spawn(async move { served.await });
    let reader = Reader::connect_to(address, "/admin/events").await;
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(15), served).await.expect("the server ends").unwrap().unwrap();
    drop(reader);
    services.shutdown().await.ok();
}
