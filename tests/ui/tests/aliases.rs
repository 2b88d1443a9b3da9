//! Type aliases in signatures, and `std::result::Result` spelled out.

#![deny(warnings)]

use service_core::prelude::*;

type Cx<'a> = &'a Context;
type Ctx = Context;
type Done = std::result::Result<Outcome, std::io::Error>;
type Me = Sender;
type Why = Failure;
type Then = Recovery;
type Settings = std::collections::HashMap<String, u32>;

struct Sender {
    settings: Settings,
}

#[service]
impl Me {
    async fn configure(_cx: &Ctx, settings: Settings) -> std::result::Result<Me, std::num::ParseIntError> {
        Ok(Self { settings })
    }

    async fn update(&mut self, _cx: Cx<'_>) -> Done {
        self.settings.clear();
        Ok(Outcome::idle())
    }

    fn on_failure(&mut self, _: &Why) -> Then {
        Then::Stop
    }

    async fn cleanup(
        &mut self,
        _cx: &service_core::Context,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

#[test]
fn an_id_is_the_name_that_the_impl_is_written_for() {
    assert_eq!(Sender::ID, "me");
}
