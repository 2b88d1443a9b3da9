//! The test bed's databases.

use std::sync::Arc;

use sea_orm::DatabaseConnection;

use crate::database::connect::{connect, connect_for_bed};
use crate::database::statement_monitor::StatementMonitor;
use crate::testing::TestBed;

impl TestBed {
    /// Gives the bed an SQLite database in memory, with the framework's tables, and returns it. From here on the bed holds
    /// a paused clock: it moves in [`run_for`](Self::run_for) and while calls on handles are awaited, and nowhere else. It stands
    /// still while a statement is in flight, so that a test gives the same result on a busy machine.
    ///
    /// Sleeps inside the framework's transactions ([`Context::begin`](crate::Context::begin), `item.tx()`) cost no real time. Inside
    /// a transaction that was begun on the pool itself (`db.begin()`) they take seconds of real time, because the bed cannot tell
    /// them from a slow statement.
    ///
    /// # Panics
    /// A service of the bed has been started, or the database cannot be opened.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(&self) -> DatabaseConnection {
        self.database_url("sqlite::memory:").await
    }

    /// The same with the database at this URL. All connections of the pool are opened at once.
    ///
    /// # Panics
    /// As for `sqlite`.
    pub async fn database_url(&self, url: impl AsRef<str>) -> DatabaseConnection {
        let url = url.as_ref();
        let monitor = self.hold_clock().await.map(|begin| Arc::new(StatementMonitor::new(begin)));
        let connected = match &monitor {
            Some(monitor) => {
                // The pool is part of the monitor.
                let begins = Arc::downgrade(monitor);
                connect_for_bed(url, move || _ = begins.upgrade().map(|monitor| monitor.begin())).await
            }
            None => connect(url).await,
        };
        let db = connected.unwrap_or_else(|error| panic!("no database: {error:?}"));
        if let Some(monitor) = &monitor {
            monitor.set_pool(db.clone());
            self.wait_for_work(monitor.clone());
        }
        self.change(|builder| {
            let builder = builder.with_database(|database| {
                database.is_virtual = true;
                database.monitor = monitor;
            });
            builder.database(db.clone())
        });
        db
    }
}
