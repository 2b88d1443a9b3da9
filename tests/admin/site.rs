//! A program with an admin interface, and a client that writes requests by hand, so that it can write wrong ones.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use service_core::prelude::*;
use service_core::{Exhausted, RegistryBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs once a minute, and succeeds.
#[derive(Default)]
pub(crate) struct Steady;

#[service(interval = 60, discover = false)]
impl Steady {
    async fn update(&mut self, cx: &Context) -> Outcome {
        cx.metrics().set("queue_depth", 7);
        Outcome::processed(3)
    }
}

/// Fails each time, with a text that is dangerous in a page.
#[derive(Default)]
pub(crate) struct Broken;

pub(crate) const DANGEROUS: &str = r#"<script>alert("1")</script><img src=x onerror='alert(2)'>"#;

#[service(interval = 60, retry_delay = 3600, max_retry_delay = 3600, discover = false)]
impl Broken {
    async fn update(&mut self) -> Result<()> {
        Err(Error::msg(DANGEROUS))
    }
}

/// Runs until a test lets it end.
pub(crate) struct Gated(pub(crate) std::sync::Arc<tokio::sync::Semaphore>);

#[service(interval = 3600, drain_timeout = 20, discover = false)]
impl Gated {
    async fn update(&mut self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// Has metrics that are no numbers, as of a division by zero.
#[derive(Default)]
pub(crate) struct Ratio;

#[service(interval = 60, discover = false)]
impl Ratio {
    async fn update(&mut self, cx: &Context) {
        cx.metrics().set("ratio", f64::NAN);
        cx.metrics().set("speed", f64::INFINITY);
        cx.metrics().set("queue_depth", 7);
    }
}

/// Its outcome is in its settings.
#[derive(Default)]
pub(crate) struct Ticker;

#[service(interval = 0.05, discover = false)]
impl Ticker {
    async fn update(&mut self) {}
}

pub(crate) const TOKEN: &str = "correct horse / battery=staple; ✓";

/// A program whose admin interface has an address of its own.
pub(crate) struct Site {
    pub(crate) services: ServiceRegistry,
    pub(crate) address: SocketAddr,
}

pub(crate) fn builder() -> RegistryBuilder {
    ServiceRegistry::builder()
        .without_discovered()
        .service_of::<Steady>("steady")
        .service_of::<Broken>("broken")
        .options_of("broken", ServiceOptions::new().exhausted(Exhausted::Fail))
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::of(builder().admin("127.0.0.1:0")).await
    }

    pub(crate) async fn of(builder: RegistryBuilder) -> Self {
        let services = builder.build().await.unwrap();
        services.start().await.unwrap();
        let address = services.admin_address().unwrap();
        Self { services, address }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[("Content-Type", "application/json")], body).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        send(self.address, method, path, headers, body).await
    }

    /// Waits until the service has made this many runs.
    pub(crate) async fn runs(&self, id: &str, runs: u64) {
        eventually(async || self.services.get(id).unwrap().health().runs >= runs).await;
    }
}

/// Waits until this is true.
pub(crate) async fn eventually(is: impl AsyncFn() -> bool) {
    eventually_for(Duration::from_secs(20), is).await;
}

/// Waits until this is true, at most for this long.
pub(crate) async fn eventually_for(limit: Duration, is: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it is never true");
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The text of an error.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }
}

/// Sends a request. A header with the name `Host` replaces the usual one.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    raw(address, request.as_bytes()).await
}

/// Sends bytes, and reads the answer to its end.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer, and close, before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("no answer");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
