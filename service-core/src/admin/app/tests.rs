//! The audit of several processes on one database, whose clocks differ.

use std::time::SystemTime;

use super::*;
use crate::admin::access::Exposure;
use crate::runtime::clock::{Clock, TimeSource};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The clock of a process, which is this much ahead or behind.
#[derive(Debug)]
enum Wrong {
    Ahead(Duration),
    At(SystemTime),
}

impl TimeSource for Wrong {
    fn now(&self) -> SystemTime {
        match self {
            Self::Ahead(time) => SystemTime::now() + *time,
            Self::At(time) => *time,
        }
    }
}

#[tokio::test]
async fn the_audit_has_the_order_and_the_times_of_the_database() {
    let file = std::env::temp_dir().join(format!("service-core-audit-{}.db", std::process::id()));
    let process = async |clock: Clock| {
        let mut builder = ServiceRegistry::builder().without_discovered();
        builder.clock = clock;
        let registry = builder.database_url(format!("sqlite:{}", file.display())).build().await.unwrap();
        registry.start().await.unwrap();
        App::new(registry, Arc::new(Core::new(Vec::new())), Access::new(Exposure::Loopback, None))
    };
    let (right, ahead, behind) = (
        process(Clock::default()).await,
        process(Clock::new(Wrong::Ahead(100 * DAY))).await,
        process(Clock::new(Wrong::At(SystemTime::UNIX_EPOCH + 10_957 * DAY))).await,
    );
    let began = SystemTime::now() - DAY;
    for (app, by) in [(&right, "1"), (&ahead, "2"), (&behind, "3"), (&behind, "4"), (&ahead, "5"), (&right, "6")] {
        // The clock of the database counts milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
        app.record("mail", "pause", String::new(), by, "").await;
    }
    let page = AuditPage { subject: None, before: None, limit: 10 };
    let read = right.audit(page).await.unwrap_or_else(|error| panic!("{}", error.message));
    let by: Vec<&str> = read.entries.iter().map(|entry| entry.by.as_str()).collect();
    assert_eq!(by, ["6", "5", "4", "3", "2", "1"]);
    assert!(read.entries.iter().all(|entry| (began..began + 2 * DAY).contains(&entry.at)), "{:?}", read.entries);
    for app in [right, ahead, behind] {
        app.registry.shutdown().await.unwrap();
    }
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}
