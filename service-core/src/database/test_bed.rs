//! The test bed's databases.

use std::sync::Arc;

use sea_orm::{ConnectOptions, DatabaseConnection};

use crate::database::connect::{connect_for_bed, connect_with, default_options, keep_in_memory};
use crate::database::schema::migrate;
use crate::database::statement_monitor::StatementMonitor;
use crate::testing::TestBed;

impl TestBed {
    /// Gives the bed an SQLite database in memory, with the framework's tables, and returns it. From here on the bed
    /// holds a paused clock: it moves in [`run_for`](Self::run_for) and while calls on handles are awaited, and nowhere
    /// else. It stands still while a statement is in flight, so that a test gives the same result on a busy machine.
    ///
    /// Sleeps inside the framework's transactions ([`Context::begin`](crate::Context::begin), `item.tx()`) cost no real
    /// time. Inside a transaction that was begun on the pool itself (`db.begin()`) they take seconds of real time,
    /// because the bed cannot tell them from a slow statement.
    ///
    /// # Panics
    /// A service of the bed has been started, the bed has a database already, or the database cannot be opened.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(&self) -> DatabaseConnection {
        self.database_url("sqlite::memory:").await
    }

    /// Gives the bed the database at this URL, as [`sqlite`](Self::sqlite) does with a database in memory, and returns
    /// its pool. All connections of the pool are opened at once.
    ///
    /// If an earlier bed had this database, begin with the time at which that one ended, or a later one
    /// ([`at`](Self::at)): times that are stored are compared with it, also those of leases.
    ///
    /// # Panics
    /// As for `sqlite`.
    pub async fn database_url(&self, url: impl AsRef<str>) -> DatabaseConnection {
        let options = default_options(url.as_ref()).unwrap_or_else(|error| panic!("no database: {error:?}"));
        self.database_with(options).await
    }

    /// Gives the bed a database with these options of the pool, such as its size, and returns the pool. A pool of one
    /// connection executes one statement at a time, in an order that does not depend on the machine: so a test with
    /// several [replicas](Self::replica) gives exactly the same result every time. But a transaction then excludes
    /// every other statement: code that has one open, and waits for another connection, waits without an end.
    ///
    /// # Panics
    /// As for `sqlite`.
    pub async fn database_with(&self, options: ConnectOptions) -> DatabaseConnection {
        assert!(self.database().is_none(), "the bed has a database already");
        let (in_turn, url) = (options.get_max_connections() == Some(1), options.get_url().to_owned());
        let monitor = self.hold_clock().await.map(|begin| Arc::new(StatementMonitor::new(in_turn, begin)));
        let connected = match &monitor {
            Some(monitor) => {
                // The pool is part of the monitor.
                let begins = Arc::downgrade(monitor);
                let begin = move || {
                    let monitor = begins.upgrade().inspect(|monitor| monitor.begin());
                    async move {
                        if let Some(monitor) = monitor {
                            monitor.wait_for_turn().await;
                        }
                    }
                };
                connect_for_bed(options, begin).await
            }
            None => connect_with(options).await,
        };
        let db = connected.unwrap_or_else(|error| panic!("no database: {error:?}"));
        // If that is refused, the first start says so.
        let _ = migrate(&db).await;
        if let Some(monitor) = &monitor {
            let kept = keep_in_memory(&db, &url).await.unwrap_or_else(|error| panic!("no database: {error:?}"));
            monitor.set_pool(db.clone(), kept);
            self.wait_for_work(monitor.clone());
        }
        self.use_database(BedDatabase { db: db.clone(), monitor });
        db
    }

    /// Returns another replica: a bed with a registry of its own, on the database and on the clock of this bed.
    /// Register the same services in both. Time that moves in one of them moves in all.
    ///
    /// Replicas write their rows every 60 s, and count as live for 120 s; in production these times are 5 s and 20 s.
    /// So `services.replicas()` shows later that a replica was killed. Leases are as long as in production.
    ///
    /// ```
    /// # #[cfg(all(feature = "cluster", feature = "sqlite"))] {
    /// use std::time::Duration;
    ///
    /// use service_core::prelude::*;
    ///
    /// #[derive(Default)]
    /// struct Invoices;
    ///
    /// #[service(interval = 60, scope = "cluster", lease = 30)]
    /// impl Invoices {
    ///     async fn update(&mut self) {}
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # tokio::time::pause();
    /// let bed = TestBed::new();
    /// bed.sqlite().await;
    /// let other = bed.replica().await;
    /// let (here, there) = (bed.start_of::<Invoices>().await, other.start_of::<Invoices>().await);
    /// bed.run_for(Duration::from_secs(10)).await;
    /// assert_eq!((here.state(), there.state()), (ServiceState::Running, ServiceState::Standby));
    ///
    /// bed.partition(&bed);
    /// bed.run_for(Duration::from_secs(40)).await;
    /// assert_eq!((here.state(), there.state()), (ServiceState::Standby, ServiceState::Running));
    /// # }
    /// # main();
    /// # }
    /// ```
    ///
    /// # Panics
    /// The bed has no database, or tokio's clock is not paused.
    pub async fn replica(&self) -> Self {
        let PausedDatabase { db, monitor } = self.bed_database();
        let replica = self.sibling();
        replica.use_database(BedDatabase { db: db.clone(), monitor: Some(Arc::new(monitor.replica())) });
        replica
    }

    /// Cuts a replica off from the database, as a failure of the network does: what its services and its registry send
    /// fails at once, until [`heal`](Self::heal). A connection that the test itself has is not affected, nor is what a
    /// service has kept from an earlier `cx.db()`: a clone of the pool, or a transaction that was begun on it.
    ///
    /// # Panics
    /// As for [`replica`](Self::replica).
    pub fn partition(&self, replica: &Self) {
        replica.bed_database().monitor.cut_off(true);
    }

    /// Ends a [`partition`](Self::partition).
    ///
    /// # Panics
    /// As for [`replica`](Self::replica).
    pub fn heal(&self, replica: &Self) {
        replica.bed_database().monitor.cut_off(false);
    }

    /// Ends a replica at once: no `cleanup` runs, no lease is released, transactions that are open are rolled back, and
    /// it does not reach the database any more. The future waits until the tasks of its services have ended.
    ///
    /// Unlike SIGKILL, it leaves in this process what the loops of the services cannot drop: tasks that the services
    /// have spawned, and blocking code, whose context is stopping. Blocking code that a stop has left behind is still
    /// followed by its `cleanup`.
    ///
    /// # Panics
    /// As for [`replica`](Self::replica).
    pub fn kill(&self, replica: Self) -> impl Future<Output = ()> + use<> {
        replica.bed_database().monitor.cut_off(true);
        let ended = replica.abort();
        async {
            ended.await;
            drop(replica);
        }
    }

    fn use_database(&self, database: BedDatabase) {
        self.change(|builder| {
            let builder = builder.with_database(|builder| {
                builder.is_virtual = true;
                builder.monitor = database.monitor.clone();
            });
            builder.database(database.db.clone())
        });
        self.set_database(Box::new(database));
    }

    fn bed_database(&self) -> PausedDatabase<'_> {
        let database = self.database().and_then(|database| database.downcast_ref::<BedDatabase>());
        let paused =
            database.and_then(|BedDatabase { db, monitor }| Some(PausedDatabase { db, monitor: monitor.as_ref()? }));
        paused.unwrap_or_else(|| panic!("give the bed a database first, and pause tokio's clock before"))
    }
}

/// The database of a bed.
#[derive(Debug)]
struct BedDatabase {
    db: DatabaseConnection,
    /// Set if the clock is paused.
    monitor: Option<Arc<StatementMonitor>>,
}

/// The same with a paused clock.
struct PausedDatabase<'a> {
    db: &'a DatabaseConnection,
    monitor: &'a Arc<StatementMonitor>,
}
