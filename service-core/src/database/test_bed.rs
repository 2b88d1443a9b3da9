//! The test bed's databases.

use sea_orm::DatabaseConnection;

use crate::database::connect::connect;
use crate::testing::TestBed;

impl TestBed {
    /// Gives the bed an SQLite database in memory, with the framework's tables, and returns it. From now on the bed holds a
    /// paused clock: time only moves in [`run_for`](Self::run_for) and while calls on handles are awaited.
    ///
    /// # Panics
    /// A service of the bed has been started, or the database cannot be opened.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(&self) -> DatabaseConnection {
        self.database_url("sqlite::memory:").await
    }

    /// Gives the bed the database at this URL, as `sqlite` does.
    ///
    /// # Panics
    /// As for `sqlite`.
    pub async fn database_url(&self, url: impl AsRef<str>) -> DatabaseConnection {
        self.hold_clock().await;
        let db = connect(url.as_ref()).await.unwrap_or_else(|error| panic!("the database cannot be opened: {error:?}"));
        self.change(|builder| builder.with_database(|database| database.is_virtual = true).database(db.clone()));
        db
    }
}
