//! An argument that is a reference to something else is the compiler's to tell, on the user's word.

use service_core::prelude::*;

struct Settings;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self, settings: &Settings) {
        let _ = settings;
    }
}

fn main() {}
