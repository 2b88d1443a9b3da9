//! Several services of one type: each has its own id and options.
//!
//! `cargo run --example several_instances`

use std::time::Duration;

use service_core::prelude::*;

struct Mirror {
    from: &'static str,
}

// `discover = false`: a mirror needs a source, so it is only registered by hand.
#[service(interval = "1h", discover = false)]
impl Mirror {
    async fn update(&mut self, cx: &Context) -> Outcome {
        println!("{} copies {} as {}", cx.service_id(), self.from, cx.requester_id());
        Outcome::processed(1)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let often = ServiceOptions::new().interval(Duration::from_millis(50)).requester_id("press-office");
    let services = ServiceRegistry::builder()
        // A closure can build a fresh instance after a panic or a stop.
        .service_fn("photos", || Mirror { from: "/srv/photos" })
        .service("news", Mirror { from: "/srv/news" })
        .options_of("news", often)
        .start_all()
        .await?;
    tokio::time::sleep(Duration::from_millis(180)).await;
    for id in services.list() {
        let runs = services.get(&id).map_or(0, |service| service.health().runs);
        println!("{id}: {}", if runs == 1 { "ran once" } else { "ran several times" });
    }
    services.shutdown().await
}
