//! Services in a program with a web server. After Ctrl-C or SIGTERM the services stop first; the server answers until
//! the last one has stopped.
//!
//! `cargo run --example inside_axum`

use axum::extract::State;
use axum::routing::get;
use service_core::prelude::*;
use tokio::net::TcpListener;

#[derive(Default)]
struct Indexer;

#[service(interval = "1h")]
impl Indexer {
    async fn update(&mut self) -> Outcome {
        Outcome::processed(12)
    }

    async fn cleanup(&mut self) {
        println!("the indexer stops");
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        println!("the indexer has stopped");
    }
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
    println!("http://{}/index", listener.local_addr()?);

    let closing = services.clone();
    // A signal begins the shutdown of the services. A critical service that fails does, too.
    let closed = async move { drop(closing.closed().await) };
    axum::serve(listener, app).with_graceful_shutdown(closed).await?;
    println!("the server has stopped");
    services.closed().await
}
