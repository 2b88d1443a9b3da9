//! Keys and types that come through `macro_rules!` variables.

#![deny(warnings)]

use service_core::prelude::*;

macro_rules! every {
    ($seconds:literal, $ty:ty, $expr:expr, $id:literal, $body:block) => {
        #[service(interval = $seconds, timeout = $expr, name = $id, depends_on = [$ty])]
        async fn tick() $body
    };
}

#[derive(Default)]
struct Other;

#[service]
impl Other {
    async fn update(&mut self) {}
}

macro_rules! whole {
    ($name:ident, $update:ident, $cx:ty, $outcome:ty, $settings:ty, $failure:ty, $recovery:ty) => {
        struct $name;

        #[service(depends_on = [Other])]
        impl $name {
            async fn configure(cx: $cx, _settings: $settings) -> Result<$name> {
                let _ = cx;
                Ok($name)
            }

            async fn $update(&mut self, cx: $cx) -> $outcome {
                let _ = cx;
                Outcome::idle()
            }

            fn on_failure(&mut self, failure: $failure) -> $recovery {
                failure.recovery()
            }

            fn cleanup(&mut self, cx: $cx) {
                let _ = cx;
            }
        }
    };
}

whole!(Whole, update, &Context, Outcome, std::collections::HashMap<String, String>, &Failure, Recovery);

every!(30, Other, "5m", "ticker", { std::future::ready(()).await });

#[test]
fn the_descriptor_holds_what_was_written() {
    assert_eq!(TickService::ID, "ticker");
    assert_eq!(TickService::DESCRIPTOR.attributes().len(), 3);
}
