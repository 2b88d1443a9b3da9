//! Attributes and doc comments on lifecycle methods.

#![deny(warnings)]

use service_core::prelude::*;

#[derive(Debug, Default)]
struct Sender {
    sent: u64,
}

#[service(interval = 30)]
impl Sender {
    /// One run.
    #[tracing::instrument(skip(cx), err)]
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let _ = cx;
        self.sent += 1;
        Ok(Outcome::processed(self.sent))
    }

    /// Decides.
    #[tracing::instrument]
    #[must_use]
    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }

    /** Cleans up. */
    #[tracing::instrument(skip_all)]
    #[inline]
    async fn cleanup(&mut self) {}
}

#[service]
#[tracing::instrument]
async fn tick() {}

#[test]
fn it_compiles() {}
