//! Sends the notifications of `services.notify` and `cx.notify` to other replicas, so that their callers never wait.

use std::sync::Weak;
use std::time::Duration;

use sea_orm::DatabaseConnection;
use tokio::time::timeout;

use crate::database::config::watcher::TableWatcher;
use crate::database::wake::notifier::Notifier;
use crate::humanize;
use crate::log::warn;
use crate::runtime::services::Services;
use crate::service::error::Error;

/// The time limit for sending notifications.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// The same at the end of the process.
const LAST_LIMIT: Duration = Duration::from_secs(2);
/// The wait after a failure to send, doubled each time up to the maximum.
const RETRY_WAIT: Duration = Duration::from_millis(200);
const MAX_RETRY_WAIT: Duration = Duration::from_secs(5);
/// How often the task checks that the registry still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Sends what is to be sent, until the registry is dropped. During an outage it tries again until it succeeds.
pub(crate) async fn keep_sending(notifier: &Notifier, watcher: &TableWatcher, services: &Weak<Services>) {
    let (mut wait, mut is_reported) = (RETRY_WAIT, false);
    while services.strong_count() > 0 {
        match send(notifier, watcher, SEND_LIMIT).await {
            Sent::Nothing => _ = timeout(CHECK_INTERVAL, notifier.outbox_filled()).await,
            Sent::All => (wait, is_reported) = (RETRY_WAIT, false),
            Sent::Failed(error) => {
                watcher.availability.probe_soon();
                if wait >= MAX_RETRY_WAIT && !watcher.availability.is_down() && !is_reported {
                    is_reported = true;
                    warn!(
                        "notifications cannot be sent to other replicas, retrying; until then only this process is woken: {error:#}"
                    );
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(MAX_RETRY_WAIT);
            }
        }
    }
}

/// Sends what is left at the end of the process, once.
pub(crate) async fn send_rest(notifier: &Notifier, watcher: &TableWatcher) {
    if !watcher.availability.is_down() {
        let _ = timeout(LAST_LIMIT, send(notifier, watcher, LAST_LIMIT)).await;
    }
}

enum Sent {
    Nothing,
    All,
    Failed(Error),
}

async fn send(notifier: &Notifier, watcher: &TableWatcher, limit: Duration) -> Sent {
    let _sending = notifier.sending.lock().await;
    let topics = &notifier.take_outbox();
    if topics.is_empty() {
        return Sent::Nothing;
    }
    let send = watcher.pool.with_db(|db: DatabaseConnection| async move {
        notifier.announce(&db, topics).await?;
        Ok(())
    });
    let sent = timeout(limit, send).await;
    match sent.unwrap_or_else(|_elapsed| Err(Error::msg(format!("not sent within {}", humanize::long(limit))))) {
        Ok(()) => Sent::All,
        Err(error) => {
            notifier.put_back(topics.clone());
            Sent::Failed(error)
        }
    }
}
