//! One name in several modules.

mod mail {
    pub mod outgoing {
        use service_core::prelude::*;

        #[derive(Default)]
        pub struct Sender;

        #[service(name = "mail_outgoing")]
        impl Sender {
            async fn update(&mut self) {}
        }
    }

    pub mod incoming {
        #[derive(Default)]
        pub struct Sender;
    }
}

#[service_core::service(name = "mail_incoming")]
impl mail::incoming::Sender {
    async fn update(&mut self) {}
}

#[test]
fn each_has_a_module_and_an_id() {
    use service_core::Service;

    assert_eq!(mail::outgoing::Sender::DESCRIPTOR.module_path().split_once("::").unwrap().1, "mail::outgoing");
    assert_eq!(mail::incoming::Sender::ID, "mail_incoming");
}
