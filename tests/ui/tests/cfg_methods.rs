//! Lifecycle methods under `#[cfg]`.

#![deny(warnings)]

use service_core::__private::{Cleanup, Lifecycle};
use service_core::prelude::*;

#[derive(Default)]
struct Gone;

#[service]
impl Gone {
    async fn update(&mut self) {}

    #[cfg(any())]
    fn on_failure(&mut self, failure: &NotThere) -> NotThere {
        failure
    }

    #[cfg(any())]
    async fn cleanup(&mut self, cx: &NotThere) {}

    #[cfg(any())]
    fn configure() -> NotThere {}
}

#[derive(Default)]
struct Either;

#[service]
impl Either {
    #[cfg(all())]
    fn update(&mut self) {}

    #[cfg(not(all()))]
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        Ok(Outcome::idle())
    }

    #[cfg(all())]
    async fn cleanup(&mut self) {}

    #[cfg(not(all()))]
    fn cleanup(&mut self) {}
}

struct Built;

#[service]
impl Built {
    #[cfg(any())]
    fn configure() -> NotThere {}

    #[cfg(not(any()))]
    #[cfg(all())]
    fn configure() -> Self {
        Self
    }

    async fn update(&self, #[cfg_attr(all(), allow(unused))] cx: &Context) {}
}

#[derive(Default)]
struct ByAttribute;

#[service]
impl ByAttribute {
    #[cfg_attr(all(), inline, cfg(any()))]
    fn update(&mut self) {}

    #[cfg_attr(any(), cfg(any()))]
    #[cfg_attr(all(), doc = "One run.", cfg(all()))]
    async fn update(&mut self) -> impl IntoOutcome {
        Outcome::idle()
    }

    #[cfg_attr(true, cfg(false))]
    async fn cleanup(&mut self, cx: &NotThere) {}
}

#[derive(Default)]
struct Never;

#[service]
#[cfg(any())]
impl Never {
    async fn update(&mut self) {}
}

#[service]
#[cfg(any())]
async fn never() {}

#[test]
fn methods_that_are_left_out_are_not_there() {
    assert_eq!(Gone.__shape().cleanup, Cleanup::None);
    assert!(Either.__shape().blocking_update);
    assert_eq!(Either.__shape().cleanup, Cleanup::Async);
    assert!(!ByAttribute.__shape().blocking_update);
    assert_eq!(ByAttribute.__shape().cleanup, Cleanup::None);
    let _ = (Built, Never);
    assert_eq!(inventory::iter::<service_core::__private::Discovered>().count(), 4);
}
