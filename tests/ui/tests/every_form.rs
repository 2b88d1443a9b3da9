//! Every accepted form of every lifecycle method.

use service_core::prelude::*;

#[derive(serde::Deserialize)]
struct Settings {
    batch_size: u32,
}

struct Full {
    batch_size: u32,
}

#[service(interval = 30, max_failures = 5)]
impl Full {
    async fn configure(_cx: &Context, config: Settings) -> Result<Self> {
        Ok(Self { batch_size: config.batch_size })
    }

    async fn update(&mut self, _cx: &Context) -> Result<Outcome> {
        Ok(Outcome::processed(u64::from(self.batch_size)))
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }

    async fn cleanup(&mut self, _cx: &Context) -> Result<(), std::io::Error> {
        Ok(())
    }
}

struct Plain;

#[service(delay = "1m")]
impl Plain {
    fn configure() -> Self {
        Self
    }

    fn update(&self) {}

    fn cleanup(&mut self) {}
}

struct Fallible;

#[service]
impl Fallible {
    fn configure(_: &Context) -> std::result::Result<Self, String> {
        Ok(Self)
    }

    async fn update(self: &mut Self) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }

    fn cleanup(&self, _cx: &Context) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct ByDefault;

#[service]
impl ByDefault {
    async fn update<'a>(&'a mut self, _cx: &'a Context) -> Outcome {
        Outcome::idle()
    }

    async fn cleanup(&mut self) {}
}

#[service(interval = 5)]
async fn tick() {}

/// With a context and a result.
#[service]
pub(crate) async fn tock(cx: &Context) -> Result<Outcome> {
    let _ = cx.clone();
    Ok(Outcome::idle())
}

#[test]
fn each_is_found_under_its_id() {
    let mut ids: Vec<&str> =
        inventory::iter::<service_core::__private::Discovered>().map(|found| found.0.id()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["by_default", "fallible", "full", "plain", "tick", "tock"]);
    assert_eq!(Full::DESCRIPTOR.line(), 14);
}
