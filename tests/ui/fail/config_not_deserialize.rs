//! The settings' type derives `Deserialize`.

use service_core::prelude::*;

struct Settings {
    batch_size: u32,
}

struct Sender {
    batch_size: u32,
}

#[service]
impl Sender {
    fn configure(_cx: &Context, settings: Settings) -> Self {
        Self { batch_size: settings.batch_size }
    }

    async fn update(&mut self) {
        self.batch_size += 1;
    }
}

fn main() {}
