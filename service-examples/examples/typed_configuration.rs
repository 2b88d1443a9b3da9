//! A service's own settings are a type. They are read from `services.toml`, the environment and the builder, and
//! checked before the first run. A secret is never shown.
//!
//! `SERVICES__GREETER__GREETING=Hei cargo run --example typed_configuration`

use service_core::{Secret, prelude::*};

#[derive(Debug, serde::Deserialize)]
struct Settings {
    #[serde(default = "hello")]
    greeting: String,
    names: Vec<String>,
    token: Secret<String>,
}

fn hello() -> String {
    "Hello".into()
}

struct Greeter {
    settings: Settings,
}

#[service(interval = "1h")]
impl Greeter {
    fn configure(_cx: &Context, settings: Settings) -> Self {
        println!("{settings:?}");
        Greeter { settings }
    }

    async fn update(&mut self) -> Outcome {
        for name in &self.settings.names {
            println!("{}, {name}! (signed with {} bytes)", self.settings.greeting, self.settings.token.expose().len());
        }
        Outcome::processed(self.settings.names.len() as u64)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let services = ServiceRegistry::builder()
        .set("greeter.names", ["Ada", "Grace"])
        .set("greeter.token", "8c1f-secret")
        .start_all()
        .await?;
    let greeter = services.get("greeter").ok_or_else(|| Error::msg("not registered"))?;
    greeter.run_now().await?;
    services.shutdown().await
}
