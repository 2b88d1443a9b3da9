//! One service without a registry and without discovery. It runs until it stops itself, or until Ctrl-C or SIGTERM.
//!
//! `cargo run --example without_a_registry`

use service_core::prelude::*;

#[derive(Default)]
struct Countdown {
    left: Option<u32>,
}

#[service(interval = "10ms", discover = false)]
impl Countdown {
    async fn update(&mut self, cx: &Context) {
        let left = self.left.get_or_insert(3);
        println!("{left}");
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => cx.stop(),
        }
    }

    fn cleanup(&mut self) {
        println!("lift-off");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    service_core::run(Countdown::default()).await
}
