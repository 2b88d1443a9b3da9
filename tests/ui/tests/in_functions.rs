//! Services inside functions and blocks.

use service_core::prelude::*;

#[test]
fn they_are_found() {
    #[derive(Default)]
    struct Local;

    #[service]
    impl Local {
        async fn update(&mut self) {}
    }

    #[service(name = "local_function")]
    async fn tick() {}

    let ids = {
        #[derive(Default)]
        struct Inner;

        #[service(depends_on = [Local, tick])]
        impl Inner {
            async fn update(&mut self) {}
        }

        [Local::ID, TickService::ID, Inner::ID]
    };
    assert_eq!(ids, ["local", "local_function", "inner"]);
    assert_eq!(inventory::iter::<service_core::__private::Discovered>().count(), 3);
}
