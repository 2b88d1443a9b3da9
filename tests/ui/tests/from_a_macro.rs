//! Keys and types that come through `macro_rules!` variables.

#![deny(warnings)]

use service_core::__private::{Cleanup, Lifecycle};
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

macro_rules! methods {
    ($vis:vis, $type:ty, $returns:ty, $first:block, $second:block, $third:block, $($items:item)*) => {
        #[derive(Default)]
        struct Bodies;

        #[service]
        impl $type {
            #[allow(dead_code)]
            fn helper(&self) -> u32 $first
            $vis async fn update(&mut self) -> $returns $second
            fn cleanup(&mut self) $third
        }

        #[derive(Default)]
        struct Items;

        #[service]
        impl Items { $($items)* }
    };
}

methods! {
    , Bodies, Result<()>, { 1 }, { Ok(()) }, {},
    async fn update(&mut self) {}
    fn cleanup(&mut self) {}
}

macro_rules! receivers {
    ($name:ident, $update:ty, $cleanup:ty) => {
        #[derive(Default)]
        struct $name;

        #[service]
        impl $name {
            async fn update(self: $update) {}

            fn on_failure(self: &mut $name, failure: &Failure) -> Recovery {
                failure.recovery()
            }

            fn cleanup(self: &mut $cleanup) {}
        }
    };
}

receivers!(Receivers, &Self, Self);
receivers!(NamedReceivers, &mut NamedReceivers, NamedReceivers);

macro_rules! as_it_is {
    ($item:item) => {
        #[service]
        $item
    };
}

as_it_is! {
    async fn as_it_is() {}
}

#[derive(Default)]
struct Block;

as_it_is! {
    impl Block {
        async fn update(&mut self) {}
    }
}

macro_rules! arguments {
    ($name:ident, $($argument:meta),* ; $key:path, $value:expr, $topic:expr, $assignment:expr, $last:meta) => {
        #[derive(Default)]
        struct $name;

        #[service($($argument),*, $key = $value, wake_on = [$topic], $assignment, $last)]
        impl $name {
            async fn update(&mut self) {}
        }
    };
}

arguments!(
    Arguments, timeout = 5, depends_on = [Other, "block"] ;
    interval, "5m", "orders", max_failures = 2, crate = ::service_core
);

#[test]
fn methods_that_come_through_variables_are_called() {
    for id in ["bodies", "items", "as_it_is", "block"] {
        assert!(ServiceRegistry::discovered().iter().any(|found| found.id() == id), "{id}");
    }
    assert_eq!(Bodies.__shape().cleanup, Cleanup::Blocking);
    assert_eq!(Items.__shape().cleanup, Cleanup::Blocking);
}

#[test]
fn the_descriptor_holds_what_was_written() {
    assert_eq!(TickService::ID, "ticker");
    assert_eq!(TickService::DESCRIPTOR.attributes().len(), 3);
    let written: Vec<&str> = Arguments::DESCRIPTOR.attributes().iter().map(|(key, _)| *key).collect();
    assert_eq!(written, ["timeout", "depends_on", "interval", "wake_on", "max_failures"]);
}
