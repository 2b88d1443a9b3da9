//! The simulated service of which one registration stands for several. It shares everything else with `Actor`.

use service_core::prelude::*;

use crate::actor::Actor;

pub(crate) struct Member(pub(crate) Actor);

// The number and the name are those of `cast`.
#[service(name = "s46", instances = 4, interval = 60, discover = false)]
impl Member {
    async fn configure(cx: &Context) -> Result<Self> {
        Actor::configure(cx).await.map(Self)
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.0.update(cx).await
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        self.0.on_failure(failure)
    }

    async fn cleanup(&mut self) -> Result<()> {
        self.0.cleanup().await
    }
}
