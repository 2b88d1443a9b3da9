//! A program with services in every state and an admin interface, for browsers and other clients: `admin-site 40` has
//! 40 services.
//!
//! ADMIN_ADDR selects its address (127.0.0.1:9876), ADMIN_SITE_DATABASE the URL of an empty database. It prints its
//! address and runs until it is told to stop.

use std::time::Duration;

use service_core::prelude::*;

/// Succeeds, and takes a while.
struct Steady {
    pace: u64,
}

#[service(interval = 2, discover = false)]
impl Steady {
    async fn update(&mut self, cx: &Context) -> Outcome {
        let noise = (cx.run_number() * 7 + self.pace * 13) % 11;
        tokio::time::sleep(Duration::from_millis(self.pace * (4 + noise))).await;
        cx.metrics().add("mails_sent", 3);
        cx.metrics().set("queue_depth", noise);
        Outcome::processed(3 + noise)
    }
}

/// Fails in the way that its name says.
struct Failing {
    every: u64,
    text: &'static str,
}

#[service(interval = 3, retry_delay = 20, discover = false)]
impl Failing {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        if cx.run_number().is_multiple_of(self.every) { Err(Error::msg(self.text)) } else { Ok(()) }
    }
}

/// Works until a stop is requested.
#[derive(Default)]
struct Feed;

#[service(discover = false)]
impl Feed {
    async fn run(&mut self, cx: &Context) {
        cx.degraded("the peer sends old data");
        while !cx.is_stopping() {
            cx.sleep(Duration::from_millis(500)).await;
            cx.processed(1);
        }
    }
}

/// A table of work with failed rows.
#[cfg(feature = "database")]
mod message {
    use sea_orm::entity::prelude::*;
    use sea_orm::{ConnectionTrait, Schema};
    use service_core::WorkItem;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "outgoing_message")]
    #[work_item(status = "status", error = "error_message", attempts = "attempts", updated_at = "updated_at")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i32,
        pub(crate) status: String,
        pub(crate) error_message: Option<String>,
        pub(crate) attempts: i32,
        pub(crate) updated_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}

    /// Creates the table with twelve rows, three of which have failed.
    pub(crate) async fn create(url: &str) -> service_core::Result<()> {
        let db = service_core::database::connect(url).await?;
        let schema = Schema::new(db.get_database_backend());
        db.execute(&schema.create_table_from_entity(Entity)).await?;
        for id in 1..=12 {
            let (status, error) = match id {
                1..=3 => ("failed", "'no route to <host>'"),
                4..=8 => ("pending", "NULL"),
                _ => ("completed", "NULL"),
            };
            let values = format!("{id}, '{status}', {error}, 5, '2026-01-01T00:00:00Z'");
            db.execute_unprepared(&format!("INSERT INTO outgoing_message VALUES ({values})")).await?;
        }
        Ok(())
    }
}

/// Services with `scope = "cluster"`, and other replicas: one that lives, one that is silent and one that is gone.
#[cfg(feature = "database")]
mod replicas {
    use sea_orm::ConnectionTrait;
    use service_core::{
        Exhausted, RegistryBuilder, Result, ServiceOptions, ServiceRegistry, ServiceScope, ServiceState,
    };

    use super::{Failing, Steady};

    /// Adds the services. On the replica that lives besides this one, one of them fails.
    pub(crate) fn add(builder: RegistryBuilder, is_other: bool) -> RegistryBuilder {
        let options = || ServiceOptions::new().scope(ServiceScope::Cluster);
        let builder =
            builder.service_fn("daily_invoices", || Steady { pace: 2 }).options_of("daily_invoices", options());
        let builder = builder.service_fn("ledger_export", || Steady { pace: 3 }).options_of("ledger_export", options());
        let every = if is_other { 1 } else { u64::MAX };
        let options = options().max_failures(0).exhausted(Exhausted::Fail);
        builder
            .service_fn("tax_report", move || Failing { every, text: "the form <2026> has no field `total`" })
            .options_of("tax_report", options)
    }

    /// Starts the other replica, and adds rows as those of two more that have ended. Called before this program's
    /// services start, so that each of the replicas runs one of them.
    pub(crate) async fn start(url: &str) -> Result<ServiceRegistry> {
        let db = service_core::database::connect(url).await?;
        service_core::database::migrate(&db).await?;
        const NOW: &str = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)";
        for (id, host, pid, seconds) in [("gone", "web-3", 4_711, 720), ("silent", "web-4", 12, 41)] {
            let row = format!("'{id}', '{host}', {pid}, '0.1.0', '2026-01-01T00:00:00Z', {NOW} - {seconds}000, '[]'");
            db.execute_unprepared(&format!("INSERT INTO service_replica VALUES ({row})")).await?;
        }
        // The silent replica holds a long lease. Leases expire by the time since the start of the machine.
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime: f64 = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let expiry = (uptime * 1_000.0) as u64 + 3_560_000;
        let row = format!(
            "'ledger_export', 'silent', 'web-4 (pid 12)', 41, '{}', 3600000, {expiry}, 0, NULL, NULL, NULL",
            boot.trim()
        );
        db.execute_unprepared(&format!("INSERT INTO service_lease VALUES ({row})")).await?;
        let other = add(ServiceRegistry::builder().without_discovered().database_url(url), true).start_all().await?;
        // Its failure releases the lease, for this program's own replica.
        if let Some(service) = other.get("tax_report") {
            service.wait_for(ServiceState::Failed).await?;
        }
        Ok(other)
    }
}

const REFUSED: &str = "cannot send a mail: the server mail.example.org:587 answered `550 5.7.1 <relay> denied`";

#[tokio::main]
async fn main() -> Result<()> {
    let count: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(12);
    let address = std::env::var("ADMIN_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".to_owned());
    let mut builder = ServiceRegistry::builder().without_discovered().admin(address);
    #[cfg(feature = "database")]
    let mut _other = None;
    #[cfg(feature = "database")]
    if let Ok(url) = std::env::var("ADMIN_SITE_DATABASE") {
        message::create(&url).await?;
        _other = Some(replicas::start(&url).await?);
        builder = replicas::add(builder.database_url(url), false);
    }
    builder = builder
        .service_fn("mail_sender", || Failing { every: 1, text: REFUSED })
        .options_of("mail_sender", ServiceOptions::new().max_failures(0))
        .service_fn("invoice_import", || Failing { every: 1, text: "the file `2026-01.csv` has no column `amount`" })
        .service_fn("price_sync", || Failing { every: 5, text: "<script>alert(1)</script> is not a price" })
        .service_fn("nightly_report", || Steady { pace: 1 })
        .options_of("nightly_report", ServiceOptions::new().cron("30 2 * * *"))
        .service_of::<Feed>("sensor_feed")
        .service_fn("old_importer", || Steady { pace: 1 })
        .options_of("old_importer", ServiceOptions::new().enabled(false));
    for n in 1..=count.saturating_sub(6) {
        builder = builder.service_fn(format!("worker_{n}"), move || Steady { pace: n % 23 });
    }
    let services = builder.start_all().await?;
    if let Some(worker) = services.get("worker_2") {
        worker.pause().await?;
    }
    if let Some(address) = services.admin_address() {
        println!("http://{address}/");
    }
    services.until_shutdown().await
}
