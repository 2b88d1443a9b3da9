//! In a crate that denies every warning and wants all documented.

#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    nonstandard_style,
    rust_2018_idioms,
    unused
)]

pub mod services {
    //! Public services.

    use service_core::prelude::*;

    /// Sends.
    #[derive(Debug, Default)]
    pub struct Sender {
        sent: u64,
    }

    #[service(interval = 30)]
    impl Sender {
        /// One run.
        pub async fn update(&mut self) -> Result<Outcome> {
            self.sent += 1;
            Ok(Outcome::processed(self.sent))
        }

        async fn cleanup(&mut self, cx: &Context) {
            let _ = cx;
        }
    }

    /// Public, documented.
    #[service]
    pub async fn tick() {}

    #[derive(Debug, Default)]
    struct Private;

    #[service]
    impl Private {
        fn update(&self) {}

        fn on_failure(&mut self, failure: &Failure) -> Recovery {
            failure.recovery()
        }
    }
}

#[test]
fn it_compiles() {}
