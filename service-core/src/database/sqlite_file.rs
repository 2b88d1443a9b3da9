//! [`SqliteFile`]: detects that the file of an SQLite database was removed or replaced.
//!
//! Open connections continue to use the file that they have opened, even if it was deleted: their writes are lost.

use std::path::Path;
use std::time::SystemTime;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

use crate::database::error_kind::DbResult;
use crate::sync::Mutex;

/// The file of one database, as it was at the last check.
#[derive(Debug, Default)]
pub(crate) struct SqliteFile {
    identity: Mutex<Option<Identity>>,
}

/// Device, inode and creation time, which distinguish a file from another one of the same name. `None`: the file is
/// missing.
type Identity = Option<(u64, u64, Option<SystemTime>)>;

impl SqliteFile {
    /// Whether the file is another one than at the last check.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn was_replaced(&self, db: &DatabaseConnection) -> DbResult<bool> {
        if db.get_database_backend() != DbBackend::Sqlite {
            return Ok(false);
        }
        let name = "SELECT file FROM pragma_database_list WHERE name = 'main'";
        let row = db.query_one_raw(Statement::from_string(DbBackend::Sqlite, name)).await?;
        let name: Option<String> = row.map(|row| row.try_get("", "file")).transpose()?.flatten();
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(false) };
        let found = identity(Path::new(&name));
        let known = self.identity.lock().replace(found);
        Ok(known.is_some_and(|known| known != found))
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Identity {
    use std::os::unix::fs::MetadataExt;

    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Identity {
    let metadata = std::fs::metadata(path).ok()?;
    Some((0, 0, metadata.created().ok()))
}
