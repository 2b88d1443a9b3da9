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

#[test]
fn names_of_settings_are_known() {
    let names = Sender::DESCRIPTOR.setting_names();
    assert_eq!(names, Some(&["batch_size", "to"][..]));
    assert!(Untyped::DESCRIPTOR.setting_names().is_none());
}
