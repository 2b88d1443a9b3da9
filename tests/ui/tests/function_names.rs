//! The service of a function `heartbeat` is the type `HeartbeatService`, so that the function's name stays free.

#![deny(warnings, missing_docs, unreachable_pub, nonstandard_style)]

use service_core::prelude::*;

mod heartbeat {
    use service_core::prelude::*;

    #[service(interval = 1)]
    pub(crate) async fn heartbeat() {}
}

use heartbeat::heartbeat;

/// A module of the function's name.
pub mod cleanup {}

/// Cleans up.
#[service]
pub async fn cleanup() {}

pub mod jobs {
    //! Other names.

    use service_core::prelude::*;

    /// Cleans the outbox.
    #[service(name = "outbox")]
    pub async fn clean_outbox() {}

    #[service]
    pub(super) async fn r#match(cx: &Context) -> Result<Outcome> {
        let _ = cx;
        Ok(Outcome::idle())
    }

    #[service]
    async fn _step_2_of_3() {}

    #[service(depends_on = [_step_2_of_3, self::r#match, super::cleanup])]
    async fn http2_client() {}

    /// Ids that only this module can name.
    pub(super) const IDS: [&str; 2] = [Step2Of3Service::ID, Http2ClientService::ID];
}

/// A function and a type of one name, and a type that the function's service is not.
#[derive(Default)]
pub struct Tick;

#[service(name = "tick_type")]
impl Tick {
    async fn update(&mut self) {}
}

#[service(depends_on = [Tick, CleanupService, jobs::clean_outbox, jobs::r#match, heartbeat::HeartbeatService])]
async fn tick() {}

#[test]
fn function_and_service_have_their_own_names() {
    // The functions are what they were.
    drop((heartbeat(), cleanup(), jobs::clean_outbox(), tick()));
    assert_eq!(heartbeat::HeartbeatService::ID, "heartbeat");
    assert_eq!(CleanupService::ID, "cleanup");
    assert_eq!(jobs::CleanOutboxService::ID, "outbox");
    assert_eq!(jobs::MatchService::ID, "match");
    assert_eq!(jobs::IDS, ["step_2_of_3", "http2_client"]);
    assert_eq!(
        TickService::DESCRIPTOR.attributes(),
        [("depends_on", service_core::Literal::List(&["tick_type", "cleanup", "outbox", "match", "heartbeat"]))]
    );
    assert_eq!(format!("{TickService:?}"), "TickService");
}
