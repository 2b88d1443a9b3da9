//! A service in its own crate.

use service_core::prelude::*;

/// Empties the gauge once an hour.
#[service(interval = "1h")]
pub async fn rain_gauge() -> Outcome {
    println!("the gauge is emptied");
    Outcome::processed(1)
}
