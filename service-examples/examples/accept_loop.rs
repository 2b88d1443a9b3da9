//! A server as a service: it accepts connections until a stop is requested, and it stops after all other services. If
//! it ends by itself, the program ends.
//!
//! `cargo run --example accept_loop`, then `nc 127.0.0.1 <port>` in another terminal

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use service_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the services share.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

#[service(interval = "10ms")]
async fn counter(cx: &Context) -> Result<()> {
    cx.state::<Count>()?.0.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

struct CountServer {
    listener: TcpListener,
    count: Count,
}

#[service(on_end = "shutdown", stop_last = true)]
impl CountServer {
    async fn configure(cx: &Context) -> Result<Self> {
        // The port is taken, for example: `configure` fails, and is tried again.
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        Ok(Self { listener, count: cx.state::<Count>()?.clone() })
    }

    async fn run(&mut self, cx: &Context) -> Result<()> {
        cx.ready();
        // On a stop, connections that are open end by themselves; no new one is accepted.
        while let Some(accepted) = cx.unless_stopping(self.listener.accept()).await {
            let (connection, _peer) = accepted?;
            cx.processed(1);
            tokio::spawn(answer(connection, self.count.clone()));
        }
        println!("the server stops after {} counts", self.count.0.load(Ordering::Relaxed));
        Ok(())
    }
}

/// Answers each line with the count.
async fn answer(mut connection: TcpStream, count: Count) -> std::io::Result<()> {
    let mut bytes = [0; 512];
    while connection.read(&mut bytes).await? > 0 {
        let line = format!("{}\n", count.0.load(Ordering::Relaxed));
        connection.write_all(line.as_bytes()).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let services = ServiceRegistry::builder().state(Count::default()).start_all().await?;
    services.until_shutdown().await
}
