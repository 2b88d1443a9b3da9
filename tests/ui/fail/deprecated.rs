//! Where nothing allows it, each use of something deprecated is one error on the user's token.

#![deny(deprecated)]

use service_core::prelude::*;

#[deprecated]
#[derive(Default)]
struct Old;

#[service]
impl Old {
    async fn update(&mut self) {}
}

#[deprecated(note = "use `clean_outbox`")]
#[service]
async fn clean_inbox() {}

#[service(depends_on = [clean_inbox])]
async fn depends() {}

#[deprecated]
#[derive(serde::Deserialize)]
struct OldSettings {}

struct Settings;

#[service]
impl Settings {
    async fn configure(_: &Context, settings: OldSettings) -> Self {
        let OldSettings {} = settings;
        Self
    }

    async fn update(&mut self) {}
}

#[warn(deprecated)]
#[service]
impl Old2 {
    async fn update(&mut self) {}
}

#[deprecated]
#[derive(Default)]
struct Old2;

// The expectation is the item's, and nothing in it is deprecated.
#[expect(deprecated)]
#[service]
async fn unfulfilled() {}

fn main() {
    drop(clean_inbox());
    let _ = CleanInboxService::ID;
}
