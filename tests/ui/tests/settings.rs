//! The names of `configure`'s settings are known to the descriptor.

#![deny(warnings)]

use service_core::prelude::*;

#[derive(serde::Deserialize)]
struct Settings {
    batch_size: u32,
    #[serde(rename = "to")]
    recipient: String,
}

struct Sender(Settings);

#[service]
impl Sender {
    fn configure(cx: &Context, settings: Settings) -> Self {
        let _ = cx;
        Self(settings)
    }

    async fn update(&mut self) {
        self.0.batch_size += 1;
        self.0.recipient.clear();
    }
}

struct Untyped;

#[service]
impl Untyped {
    fn configure(_cx: &Context) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

#[derive(serde::Deserialize)]
struct Batch {
    batch_size: u32,
}

fn batch_size(cx: &Context) -> Result<u32> {
    Ok(cx.config::<Batch>()?.batch_size)
}

struct Loader(u32);

impl Loader {
    fn load(cx: &Context) -> Result<Self> {
        batch_size(cx).map(Self)
    }
}

#[service]
impl Loader {
    fn configure(cx: &Context) -> Result<Self> {
        Self::load(cx)
    }

    async fn update(&mut self, cx: &Context) -> Outcome {
        self.log(cx);
        Outcome::processed(self.0.into())
    }

    fn log(&self, cx: &Context) {
        let _ = cx.run_number();
    }
}

#[service]
async fn caller(cx: &Context) -> Result<()> {
    batch_size(cx).map(drop)
}

#[service]
async fn other(cx: &Context) {
    let _ = cx.run_number();
}

/// Starts with this setting. Returns the error.
async fn start(key: &str) -> Option<String> {
    let builder = ServiceRegistry::builder().only(["loader", "caller", "other"]);
    match builder.set("loader.batch_size", 5).set("caller.batch_size", 5).set(key, 5).start_all().await {
        Ok(services) => services.shutdown().await.err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

#[tokio::test]
async fn code_that_receives_the_context_may_read_settings() {
    for key in ["loader.more", "caller.more"] {
        assert_eq!(start(key).await, None);
    }
    for (key, near) in [("loader.retries", "max_failures"), ("caller.max_fails", "max_failures")] {
        let error = start(key).await.unwrap();
        assert!(error.contains(&format!("unknown key, did you mean `{near}`?")), "{error}");
    }
    let error = start("other.more").await.unwrap();
    assert!(error.contains("the service has no settings"), "{error}");
}

#[test]
fn names_of_settings_are_known() {
    let names = Sender::DESCRIPTOR.setting_names();
    assert_eq!(names, Some(&["batch_size", "to"][..]));
    assert!(Untyped::DESCRIPTOR.setting_names().is_none());
}
