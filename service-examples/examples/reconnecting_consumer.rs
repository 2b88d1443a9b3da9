//! A consumer of a stream: it connects again when the connection breaks, at growing intervals, and never gives up.
//!
//! `cargo run --example reconnecting_consumer`

use std::net::SocketAddr;

use service_core::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

struct Feed {
    address: SocketAddr,
    last: Option<String>,
}

// A connection that is silent for two minutes is broken, too. After `stable_after` (60 s) in one connection, the
// intervals begin anew.
#[service(
    discover = false,
    max_failures = "unlimited",
    retry_delay = "10ms",
    retry_backoff = 2.0,
    max_retry_delay = "1m",
    idle_timeout = "2m"
)]
impl Feed {
    async fn run(&mut self, cx: &Context) -> Result<()> {
        let mut lines = BufReader::new(TcpStream::connect(self.address).await?).lines();
        cx.ready();
        while let Some(line) = cx.unless_stopping(lines.next_line()).await {
            let Some(event) = line? else { return Err(Error::msg("the server closed the connection")) };
            println!("run {}: {event}", cx.run_number());
            self.last = Some(event);
            cx.processed(1);
        }
        Ok(())
    }

    async fn cleanup(&mut self) {
        println!("the last event was {:?}", self.last);
    }
}

/// A server that closes each connection after two events.
async fn unreliable_server(listener: TcpListener) -> std::io::Result<()> {
    for event in (1..).step_by(2) {
        let (mut connection, _peer) = listener.accept().await?;
        connection.write_all(format!("event {event}\nevent {}\n", event + 1).as_bytes()).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(unreliable_server(listener));
    let services =
        ServiceRegistry::builder().service_fn("feed", move || Feed { address, last: None }).start_all().await?;
    let feed = services.get("feed").ok_or_else(|| Error::msg("not registered"))?;
    while feed.health().total_processed < 6 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    services.shutdown().await
}
