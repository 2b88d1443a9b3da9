//! A parameter of a lifecycle method has no `#[cfg]`.

use service_core::prelude::*;

#[derive(Default)]
struct Mailer;

#[service(interval = 30)]
impl Mailer {
    async fn update(&mut self, #[cfg(unix)] _cx: &Context) {}

    fn on_failure(&mut self, #[cfg_attr(unix, cfg_attr(true, cfg(target_os = "linux")))] _failure: &Failure) -> Recovery {
        Recovery::Retry
    }
}

#[service(interval = 30)]
async fn beat(#[cfg(windows)] _cx: &Context) {}

fn main() {}
