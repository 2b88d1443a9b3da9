//! Every form of `run`.

#![deny(warnings)]

use service_core::__private::Lifecycle;
use service_core::prelude::*;

#[derive(Default)]
struct Plain;

#[service]
impl Plain {
    async fn run(&self) {}
}

#[derive(Default)]
struct WithContext;

#[service(
    retry_delay = 1,
    retry_backoff = 2.0,
    max_failures = "unlimited",
    idle_timeout = "2m",
    on_end = "again",
    stable_after = 5,
    readiness = "explicit"
)]
impl WithContext {
    async fn run(&mut self, cx: &Context) -> Result<()> {
        cx.stopping().await;
        Ok(())
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }
}

#[derive(Default)]
struct Blocking;

#[service]
impl Blocking {
    fn run(&mut self, _cx: &Context) -> std::io::Result<()> {
        Ok(())
    }
}

#[service(long_running = true)]
async fn follow(cx: &Context) -> std::result::Result<(), String> {
    cx.stopping().await;
    Ok(())
}

#[derive(Default)]
struct ByCfg;

#[service]
impl ByCfg {
    #[cfg(any())]
    async fn update(&mut self) {}

    #[cfg(not(any()))]
    async fn run(&mut self) {}
}

#[derive(Default)]
struct UpdateByCfg;

#[service]
impl UpdateByCfg {
    #[cfg(not(any()))]
    async fn update(&mut self) {}

    #[cfg(any())]
    async fn run(&mut self) {}
}

/// A helper of the name `run` belongs into another impl.
#[derive(Default)]
struct Helped;

#[service]
impl Helped {
    async fn update(&mut self) {
        self.run();
    }
}

impl Helped {
    fn run(&mut self) {}
}

#[test]
fn the_descriptor_says_which_services_have_run() {
    assert!(Plain::DESCRIPTOR.long_running());
    assert!(WithContext::DESCRIPTOR.long_running());
    assert!(Blocking::DESCRIPTOR.long_running());
    assert!(FollowService::DESCRIPTOR.long_running());
    assert!(ByCfg::DESCRIPTOR.long_running());
    assert!(!UpdateByCfg::DESCRIPTOR.long_running());
    assert!(!Helped::DESCRIPTOR.long_running());
    assert!(Blocking.__shape().blocking_update && !Plain.__shape().blocking_update);
}
