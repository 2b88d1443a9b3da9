//! When the interface is served, and when it cannot be.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use service_core::prelude::*;

use crate::site::{Site, Steady, builder, eventually, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_an_error_of_the_start_and_no_service_runs() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let services = builder().admin(address).build().await.unwrap();
    let error = services.start().await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("admin"), "{error}");
    assert!(services.health().services.iter().all(|service| !service.running));
    drop(taken);
    // Processes that other tests start may hold the port until they execute their program.
    eventually(async || services.start().await.is_ok()).await;
    assert_eq!(services.admin_address(), Some(address));
}

#[tokio::test]
#[should_panic(expected = "the service cannot be started: ")]
async fn a_taken_port_ends_the_test_of_a_bed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let bed = TestBed::new().with(|builder| builder.admin(address));
    bed.start(Last { address: Arc::default(), answered: Arc::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_others_can_reach_needs_a_token() {
    let error = builder().admin("0.0.0.0:0").build().await.unwrap_err().to_string();
    assert!(error.contains("0.0.0.0:0") && error.contains("ADMIN_TOKEN"), "{error}");
    let error = builder().admin("nowhere").build().await.unwrap_err().to_string();
    assert!(error.contains("`nowhere`"), "{error}");
    builder().admin("0.0.0.0:0").admin_token("s3cret").build().await.unwrap();
}

/// Asks for its own health while it is cleaned up.
struct Last {
    address: Arc<Mutex<Option<SocketAddr>>>,
    answered: Arc<Mutex<Vec<u16>>>,
}

#[service(interval = 60, discover = false)]
impl Last {
    async fn update(&mut self) {}

    async fn cleanup(&mut self) {
        let address = self.address.lock().unwrap().unwrap();
        let answer = send(address, "GET", "/health/ready", &[], "").await;
        self.answered.lock().unwrap().push(answer.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_interface_answers_until_the_end_of_the_shutdown_and_again_after_the_next_start() {
    let (address, answered) = (Arc::<Mutex<Option<SocketAddr>>>::default(), Arc::<Mutex<Vec<u16>>>::default());
    let last = {
        let (address, answered) = (address.clone(), answered.clone());
        move || Last { address: address.clone(), answered: answered.clone() }
    };
    let services = ServiceRegistry::builder().without_discovered().service_fn("last", last).admin("127.0.0.1:0");
    let services = services.service("once", Steady);
    let site = Site::of(services).await;
    *address.lock().unwrap() = Some(site.address);
    assert_eq!(site.get("/health/ready").await.status, 200);
    site.services.shutdown().await.unwrap();
    assert_eq!(*answered.lock().unwrap(), [503]);
    assert_eq!(site.services.admin_address(), None);
    // The port is free.
    drop(TcpListener::bind(site.address).unwrap());
    site.services.start().await.unwrap();
    let address = site.services.admin_address().unwrap();
    assert_eq!(send(address, "GET", "/health/ready", &[], "").await.status, 200);
    // A start that is refused opens nothing.
    site.services.shutdown().await.unwrap();
    site.services.get("once").unwrap().start().await.unwrap_err();
    assert_eq!(site.services.admin_address(), None);
    site.services.start().await.unwrap();
    // The start of one service reopens the registry, too.
    site.services.shutdown().await.unwrap();
    site.services.get("last").unwrap().start().await.unwrap();
    let address = site.services.admin_address().unwrap();
    assert_eq!(send(address, "GET", "/health/ready", &[], "").await.status, 200);
}
