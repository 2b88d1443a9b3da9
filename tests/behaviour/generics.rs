//! A generic service: each concrete type is registered by hand, under an id of its own.

use service_core::prelude::*;

use crate::support::secs;

trait Step: Default + Send + 'static {
    const ITEMS: u64;
}

#[derive(Default)]
struct Small;

impl Step for Small {
    const ITEMS: u64 = 1;
}

#[derive(Default)]
struct Large;

impl Step for Large {
    const ITEMS: u64 = 100;
}

#[derive(Default)]
struct Counter<S> {
    step: S,
}

#[service(interval = 1, discover = false)]
impl<S: Step> Counter<S> {
    fn update(&mut self) -> Outcome {
        let _ = &self.step;
        Outcome::processed(S::ITEMS)
    }
}

#[tokio::test(start_paused = true)]
async fn each_type_of_a_generic_service_runs_under_its_own_id() {
    let services = ServiceRegistry::builder()
        .without_discovered()
        .service_fn("small", Counter::<Small>::default)
        .service_of::<Counter<Large>>("large")
        .start_all()
        .await
        .unwrap();
    tokio::time::sleep(secs(2) + secs(1) / 2).await;
    for (id, processed) in [("small", 3), ("large", 300)] {
        let health = services.get(id).unwrap().health();
        assert_eq!(health.total_processed, processed, "{id}");
    }
    assert_eq!(services.list(), ["large", "small"]);
    services.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_type_of_a_generic_service_may_have_the_name_of_all_in_any_order() {
    for first in ["counter", "other"] {
        let builder = ServiceRegistry::builder().without_discovered();
        let builder = match first {
            "counter" => builder.service_of::<Counter<Small>>("counter").service_of::<Counter<Large>>("other"),
            _ => builder.service_of::<Counter<Large>>("other").service_of::<Counter<Small>>("counter"),
        };
        let services = builder.build().await.unwrap();
        services.register_of::<Counter<Large>>("third").await.unwrap();
        assert_eq!(services.list(), ["counter", "other", "third"]);
    }
}

#[derive(Default)]
struct Sender<M> {
    mailer: M,
}

/// The bounds do not imply `Default`.
#[service(interval = 1, discover = false)]
impl<M: Send + 'static> Sender<M> {
    fn update(&mut self) {
        let _ = &self.mailer;
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_explains_which_default_counts_in_a_generic_impl() {
    let services = TestBed::new().services().await;
    let error = services.register_of::<Sender<u8>>("sender").await.unwrap_err().to_string();
    assert!(error.contains("`service_fn`") && error.contains("only if the bounds of the impl imply it"), "{error}");
}
