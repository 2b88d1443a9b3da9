//! `importer`: imports the files in the inbox as pending readings.
//!
//! For each file: import it in one transaction, then write its rejected lines to a file, then move it. If the process
//! is killed in between, the next start finds the file still in the inbox, recognises it by its content and does the
//! rest.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use service_core::prelude::*;
use tracing::{info, warn};

use crate::bundled;
use crate::import::{self, Imported};
use crate::inbox::{self, Inbox};
use crate::line;

/// The wait before a file that may still be written to is checked again.
const GROWING: Duration = Duration::from_millis(500);

/// `[importer]` in `services.toml`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The folder in which files arrive.
    inbox: PathBuf,
    /// Whether the files that are part of the program are imported.
    bundled: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { inbox: "inbox".into(), bundled: true }
    }
}

/// The service.
pub struct Importer {
    inbox: Inbox,
    /// Files that cannot be imported and were reported, so that each is reported once.
    mentioned: HashSet<PathBuf>,
}

#[service(interval = 2, max_failures = 10, retry_backoff = 2.0)]
impl Importer {
    async fn configure(cx: &Context, settings: Settings) -> Result<Self> {
        info!("importing files from {}", std::path::absolute(&settings.inbox)?.display());
        let inbox = Inbox::open(settings.inbox).await?;
        // The same times in every station, so that the order of the files does not depend on which station puts them
        // there.
        let times = (0..).map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for ((name, content), modified) in bundled::FILES.into_iter().zip(times).filter(|_| settings.bundled) {
            if import::find(cx.db()?, &import::hash(content)).await?.is_none() {
                inbox.put(name, content, modified).await?;
            }
        }
        Ok(Self { inbox, mentioned: HashSet::new() })
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let arrived = self.inbox.list().await?;
        for path in arrived.unknown {
            if self.mentioned.insert(path.clone()) {
                warn!("{} stays where it is: only files ending in .csv are imported", path.display());
            }
        }
        let (mut readings, mut unread) = (0, 0);
        for path in arrived.files {
            if cx.is_stopping() {
                break;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match inbox::read(&path).await {
                Ok(Some(content)) => readings += self.import(cx, &path, &name, &content).await?,
                Ok(None) => {}
                // A file that cannot be read does not keep the others from being imported.
                Err(error) => {
                    unread += 1;
                    cx.degraded(format!("cannot read {error}"));
                    if self.mentioned.insert(path) {
                        warn!("cannot read {error}, retrying in the next run");
                    }
                }
            }
        }
        let outcome = Outcome::processed(readings).failed(unread);
        if arrived.growing > 0 {
            cx.sleep(GROWING).await;
            return Ok(outcome.again());
        }
        Ok(outcome)
    }

    /// Imports one file. Returns the number of new readings.
    async fn import(&self, cx: &Context, path: &Path, name: &str, content: &[u8]) -> Result<u64> {
        let tx = cx.begin().await?;
        let imported = import::import(&tx, name, content).await?;
        tx.commit().await?;

        let (file, is_new) = match imported {
            Imported::Now { file, rejected } => {
                for bad in &rejected {
                    warn!("{name}, line {}: {} in `{}`", bad.line, bad.reason, line::shown(&bad.content));
                }
                info!("{name}: {} new readings, {} known, {} rejected", file.readings, file.known, file.rejected);
                (file, true)
            }
            Imported::Before(file) => {
                info!("{name} was imported as {} on {}: nothing new", file.name, file.imported_at.format("%F %T"));
                (file, false)
            }
        };
        if let Some(lines) = import::rejected_file(cx.db()?, &file).await? {
            let aside = self.inbox.keep_aside(name, &file.hash, &lines).await?;
            if is_new {
                info!("{name}: correct the rejected lines in {} and move that file to the inbox", aside.display());
            }
        }
        // Another file may have got this name in the meantime; it is for the next run.
        if inbox::read(path).await?.is_some_and(|now| import::hash(&now) == file.hash) {
            self.inbox.done(path, &file.hash).await?;
        }
        Ok(if is_new { file.readings.unsigned_abs().into() } else { 0 })
    }
}
