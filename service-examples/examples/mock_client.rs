//! A fake in place of a client: the service uses a trait; the program passes the real client, the test a fake.
//!
//! `cargo run --example mock_client`

use std::sync::{Arc, Mutex};

use service_core::prelude::*;
use service_core::testing::TestBed;

/// The part of the client that the service uses.
trait Mailer: Send + Sync {
    fn send(&self, to: &str) -> std::io::Result<()>;
}

#[derive(Clone)]
struct Client(Arc<dyn Mailer>);

struct Newsletter {
    mailer: Client,
}

#[service(interval = "1d")]
impl Newsletter {
    fn configure(cx: &Context) -> Result<Self> {
        Ok(Newsletter { mailer: cx.state::<Client>()?.clone() })
    }

    async fn update(&mut self) -> Result<Outcome> {
        for to in ["ada@example.org", "grace@example.org"] {
            self.mailer.0.send(to)?;
        }
        Ok(Outcome::processed(2))
    }
}

/// Records the mails. With `refuse`, sending fails.
#[derive(Default)]
struct FakeMailer {
    sent: Mutex<Vec<String>>,
    refuse: bool,
}

impl Mailer for FakeMailer {
    fn send(&self, to: &str) -> std::io::Result<()> {
        if self.refuse {
            return Err(std::io::Error::other("mailbox full"));
        }
        self.sent.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(to.to_owned());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let fake = Arc::new(FakeMailer::default());
    let bed = TestBed::new().state(Client(fake.clone()));
    let report = bed.update(&mut Newsletter { mailer: Client(fake.clone()) }).await;
    println!("sent {} mails to {:?}", report.processed(), fake.sent.lock());
    assert_eq!(report.processed(), 2);

    let full = Client(Arc::new(FakeMailer { refuse: true, ..FakeMailer::default() }));
    let report = bed.update(&mut Newsletter { mailer: full }).await;
    println!("the run failed: {}", report.error().map(ToString::to_string).unwrap_or_default());
    assert!(report.error().is_some());
}
