//! Services in a program with a web server. After Ctrl-C or SIGTERM the server stops first, so that no request meets a
//! stopped service.
//!
//! `cargo run --example axum_stops_first`

use axum::extract::State;
use axum::routing::get;
use service_core::prelude::*;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Default)]
struct Indexer;

#[service(interval = "1h")]
impl Indexer {
    async fn update(&mut self) -> Outcome {
        Outcome::processed(12)
    }

    async fn cleanup(&mut self) {
        println!("the indexer has stopped");
    }
}

async fn index(State(services): State<ServiceRegistry>) -> String {
    println!("a request begins");
    // The shutdown waits for it.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let Some(indexer) = services.get("indexer") else { return "there is no indexer\n".into() };
    match indexer.run_now().await {
        Ok(run) => format!("indexed {} pages\n", run.processed()),
        Err(error) => format!("{error}\n"),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // After `build`, the registry does not listen for signals.
    let services = ServiceRegistry::builder().build().await?;
    services.start().await?;
    let app = axum::Router::new().route("/index", get(index)).with_state(services.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/index", listener.local_addr()?);

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopping = services.clone();
    let ends = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            // A critical service has failed.
            () = stopping.stopping() => {}
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(ends).await?;
    println!("the server has stopped");
    services.shutdown().await
}
