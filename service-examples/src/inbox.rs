//! The folder in which files arrive, and its subfolders.
//!
//! `inbox/*.csv` are the files to import. Imported files are moved to `inbox/done/`; their rejected lines are written
//! to `inbox/rejected/`. The names there contain the hash of the content, so no file overwrites another one, and
//! repeating a step changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::fs;

/// A file that changed less than this ago may still be written to.
const SETTLED: Duration = Duration::from_secs(1);

/// The folder.
#[derive(Clone, Debug)]
pub struct Inbox {
    folder: PathBuf,
}

/// The content of the inbox.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Files to import, in the order of their last change.
    pub files: Vec<PathBuf>,
    /// The number of files that may still be written to.
    pub growing: usize,
    /// Files that are not CSV files.
    pub unknown: Vec<PathBuf>,
}

impl Inbox {
    /// Opens the folder. Creates it if it does not exist.
    pub async fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let inbox = Self { folder: folder.into() };
        for folder in [inbox.folder.clone(), inbox.folder.join("done"), inbox.folder.join("rejected")] {
            fs::create_dir_all(&folder).await.map_err(|error| at(&folder, error))?;
        }
        Ok(inbox)
    }

    /// Lists the files in the inbox.
    pub async fn list(&self) -> io::Result<Arrived> {
        let mut arrived = Arrived::default();
        let mut files = Vec::new();
        let mut entries = fs::read_dir(&self.folder).await.map_err(|error| at(&self.folder, error))?;
        while let Some(entry) = entries.next_entry().await? {
            let path = entry.path();
            // Another process has moved it in the meantime.
            let Ok(found) = fs::metadata(&path).await else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if !found.is_file() || name.starts_with('.') || name.ends_with(".part") {
                continue;
            }
            if !name.to_ascii_lowercase().ends_with(".csv") {
                arrived.unknown.push(path);
                continue;
            }
            let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if is_recent(modified) {
                arrived.growing += 1;
            } else {
                files.push((modified, path));
            }
        }
        files.sort();
        arrived.files = files.into_iter().map(|(_, path)| path).collect();
        arrived.unknown.sort();
        Ok(arrived)
    }

    /// Puts a file into the inbox, completely or not at all, unless it is there already. Files are imported in the
    /// order of `modified`, the time of their last change.
    pub async fn put(&self, name: &str, content: &[u8], modified: SystemTime) -> io::Result<()> {
        let path = self.folder.join(name);
        if fs::try_exists(&path).await.map_err(|error| at(&path, error))? {
            return Ok(());
        }
        write(&path, content, Some(modified)).await
    }

    /// Writes the rejected lines of a file to `rejected/`, unless that file exists: the user may have corrected it.
    pub async fn keep_aside(&self, name: &str, hash: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.folder.join("rejected").join(with_hash(name, hash));
        if !fs::try_exists(&path).await.map_err(|error| at(&path, error))? {
            write(&path, content, None).await?;
        }
        Ok(path)
    }

    /// Moves an imported file out of the inbox. Another process may have done so.
    pub async fn done(&self, path: &Path, hash: &str) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match fs::rename(path, self.folder.join("done").join(with_hash(&name, hash))).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| at(path, error)),
        }
    }
}

/// Whether a file changed recently. After the clock was set back, a file may be from the future; it does not count as
/// recent.
fn is_recent(modified: SystemTime) -> bool {
    SystemTime::now().duration_since(modified).is_ok_and(|age| age < SETTLED)
}

/// Reads a file. `None` if it no longer exists.
pub async fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path).await {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

/// Writes a file completely or not at all, even if the machine loses power.
pub async fn write(path: &Path, content: &[u8], modified: Option<SystemTime>) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    // Another station may write the same file at the same time, even in a container where it has the same process id.
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    part.push(format!(".{}-{}.part", std::process::id(), now.as_nanos()));
    let part = PathBuf::from(part);
    let written = async {
        fs::write(&part, content).await?;
        let file = fs::OpenOptions::new().write(true).open(&part).await?.into_std().await;
        if let Some(modified) = modified {
            file.set_modified(modified)?;
        }
        tokio::task::spawn_blocking(move || file.sync_all()).await??;
        fs::rename(&part, path).await
    };
    written.await.map_err(|error| at(path, error))
}

/// Adds the path to an `io::Error`, which does not name the file.
fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn with_hash(name: &str, hash: &str) -> String {
    let stem = name.get(..name.len().saturating_sub(4)).unwrap_or(name);
    format!("{stem}-{}.csv", hash.get(..8).unwrap_or(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder for one test, deleted when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("station-inbox-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_not_imported() {
        let folder = Folder::new("growing");
        let inbox = Inbox::open(&folder.0).await.unwrap();
        std::fs::write(folder.0.join("growing.csv"), "date").unwrap();
        std::fs::write(folder.0.join("whole.csv.part"), "date").unwrap();
        std::fs::write(folder.0.join("notes.txt"), "?").unwrap();
        inbox.put("whole.csv", b"date", SystemTime::UNIX_EPOCH).await.unwrap();
        let arrived = inbox.list().await.unwrap();
        assert_eq!(arrived.files, [folder.0.join("whole.csv")]);
        assert_eq!((arrived.growing, arrived.unknown), (1, vec![folder.0.join("notes.txt")]));
    }

    #[tokio::test]
    async fn files_are_imported_in_the_order_of_their_times_not_in_that_of_their_arrival() {
        let folder = Folder::new("order");
        let inbox = Inbox::open(&folder.0).await.unwrap();
        for (name, seconds) in [("a.csv", 2), ("c.csv", 1), ("b.csv", 0), ("a.csv", 0)] {
            inbox.put(name, b"date", SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).await.unwrap();
        }
        let expected = ["b.csv", "c.csv", "a.csv"].map(|name| folder.0.join(name));
        assert_eq!(inbox.list().await.unwrap().files, expected);
    }

    #[tokio::test]
    async fn moving_a_file_twice_changes_nothing() {
        let folder = Folder::new("done");
        let inbox = Inbox::open(&folder.0).await.unwrap();
        inbox.put("a.csv", b"one", SystemTime::UNIX_EPOCH).await.unwrap();
        let path = folder.0.join("a.csv");
        inbox.done(&path, "0123456789").await.unwrap();
        inbox.done(&path, "0123456789").await.unwrap();
        assert_eq!(read(&folder.0.join("done/a-01234567.csv")).await.unwrap().unwrap(), b"one");
        assert_eq!(read(&path).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_corrected_file_of_rejected_lines_is_not_overwritten() {
        let folder = Folder::new("rejected");
        let inbox = Inbox::open(&folder.0).await.unwrap();
        let path = inbox.keep_aside("a.csv", "0123456789", b"bad").await.unwrap();
        std::fs::write(&path, "corrected").unwrap();
        inbox.keep_aside("a.csv", "0123456789", b"bad").await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"corrected");
    }

    #[tokio::test]
    async fn errors_name_the_file() {
        let error = Inbox::open("/dev/null/inbox").await.unwrap_err();
        assert!(error.to_string().starts_with("/dev/null/inbox: "), "{error}");
    }
}
