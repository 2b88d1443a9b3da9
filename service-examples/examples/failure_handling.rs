//! The service decides what follows a failure: it waits as long as the server requests, and stops if only a human can
//! help.
//!
//! `cargo run --example failure_handling`

use std::time::Duration;

use service_core::prelude::*;

#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("too many requests, retry after {0:?}")]
    RateLimited(Duration),
    #[error("the token is not accepted")]
    Unauthorized,
}

#[derive(Default)]
struct PriceFetcher {
    asked: u32,
}

#[service(interval = "50ms")]
impl PriceFetcher {
    async fn update(&mut self) -> Result<Outcome> {
        let price = self.request_price()?;
        println!("the price is {price}");
        Ok(Outcome::processed(1))
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        println!("failure {} of {}: {}", failure.count(), failure.max_failures(), failure.error());
        match failure.find::<ApiError>() {
            Some(ApiError::RateLimited(wait)) => Recovery::RetryAfter(*wait),
            // A retry could lock the account.
            Some(ApiError::Unauthorized) => Recovery::Stop,
            None => failure.recovery(),
        }
    }
}

impl PriceFetcher {
    /// Simulates an API: the second request is rate limited, and from the fourth on the token is rejected.
    fn request_price(&mut self) -> Result<u32, ApiError> {
        self.asked += 1;
        match self.asked {
            1 | 3 => Ok(42),
            2 => Err(ApiError::RateLimited(Duration::from_millis(200))),
            _ => Err(ApiError::Unauthorized),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let services = ServiceRegistry::start_all().await?;
    let fetcher = services.get("price_fetcher").ok_or_else(|| Error::msg("not registered"))?;
    fetcher.wait_for(ServiceState::Stopped).await?;
    println!("price_fetcher is {:?} and waits for an operator", fetcher.state());
    services.shutdown().await
}
