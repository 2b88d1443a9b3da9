//! Services in a program with a web server: handlers use the registry, and both end together.
//!
//! `cargo run --example inside_axum`

use axum::extract::State;
use axum::routing::get;
use service_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[service(interval = "1h")]
async fn indexer() -> Outcome {
    Outcome::processed(12)
}

async fn index(State(services): State<ServiceRegistry>) -> String {
    let Some(indexer) = services.get("indexer") else { return "there is no indexer\n".into() };
    match indexer.run_now().await {
        Ok(run) => format!("indexed {} pages\n", run.processed()),
        Err(error) => format!("{error}\n"),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let services = ServiceRegistry::start_all().await?;
    let app = axum::Router::new().route("/index", get(index)).with_state(services.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;

    let shutdown = services.clone();
    let server = tokio::spawn(async move {
        // Ctrl-C or SIGTERM begins a shutdown, too. The server then finishes its open requests.
        axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.stopping().await }).await
    });

    let mut browser = TcpStream::connect(address).await?;
    browser.write_all(b"GET /index HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await?;
    println!("{}", answer.lines().last().unwrap_or_default());

    // A real program waits here with `services.closed().await`.
    services.shutdown().await?;
    server.await??;
    Ok(())
}
