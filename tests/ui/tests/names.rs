//! Names of the user's that generated code could use for its own.

#![deny(warnings)]

use service_core::Service;

#[allow(non_upper_case_globals)]
mod variables {
    use service_core::prelude::*;

    static config: u8 = 1;
    static output: u8 = 2;
    const cx: u8 = 3;
    const this: u8 = 4;
    const future: u8 = 5;
    static instance: u8 = 6;
    static failure: u8 = 7;

    pub(super) const SUM: u8 = config + output + cx + this + future + instance + failure;

    pub(super) struct Waiting;

    #[service]
    impl Waiting {
        async fn configure(_: &Context, _: Vec<u32>) -> Self {
            Self
        }

        async fn update(&mut self, _: &Context) {}

        fn on_failure(&mut self, _: &Failure) -> Recovery {
            Recovery::Retry
        }

        async fn cleanup(&mut self, _: &Context) {}
    }

    struct Blocking;

    #[service]
    impl Blocking {
        fn configure(_: &Context, _: Vec<u32>) -> Self {
            Self
        }

        fn run(&mut self, _: &Context) {}

        fn cleanup(&mut self, _: &Context) {}
    }

    #[service]
    async fn tick(_: &Context) {}
}

#[allow(non_camel_case_types, dead_code)]
mod types {
    use service_core::prelude::*;

    struct cx;
    struct this;
    struct str;
    struct bool;
    struct Option;
    struct Some;

    #[derive(Default)]
    struct Typed;

    #[service]
    impl Typed {
        async fn update(&mut self, _: &Context) {}
    }
}

mod functions {
    use service_core::prelude::*;

    #[service]
    async fn cx(cx: &Context) {
        let _ = cx;
    }

    #[service]
    async fn this(_: &Context) {}

    #[service]
    async fn output(_: &Context) {}

    #[service]
    async fn future(_: &Context) {}
}

#[test]
fn the_services_have_their_own_names() {
    assert_eq!(variables::SUM, 28);
    assert_eq!(variables::Waiting::ID, "waiting");
}
