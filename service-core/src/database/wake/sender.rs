//! Sends the notifications of `services.notify` and `cx.notify` to other replicas, so that their callers never wait.

use std::sync::Weak;
use std::time::Duration;

use sea_orm::DatabaseConnection;
use tokio::time::timeout;

use crate::database::config::watcher::TableWatcher;
use crate::database::wake::notifier::Notifier;
use crate::runtime::services::Services;

/// The time limit for sending notifications.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// The wait after a failure to send, doubled each time up to the maximum.
const RETRY_WAIT: Duration = Duration::from_millis(200);
const MAX_RETRY_WAIT: Duration = Duration::from_secs(5);
/// How often the task checks that the registry still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Sends what is to be sent, until the registry is dropped. During an outage it tries again until it succeeds.
pub(crate) async fn keep_sending(notifier: &Notifier, watcher: &TableWatcher, services: &Weak<Services>) {
    let mut wait = RETRY_WAIT;
    while services.strong_count() > 0 {
        let topics = &notifier.take_outbox();
        if topics.is_empty() {
            let _ = timeout(CHECK_INTERVAL, notifier.outbox_filled()).await;
            continue;
        }
        let send = watcher.with_db(|db: DatabaseConnection| async move {
            notifier.announce(&db, topics).await?;
            Ok(())
        });
        if let Ok(Ok(())) = timeout(SEND_LIMIT, send).await {
            wait = RETRY_WAIT;
            continue;
        }
        watcher.availability.probe_soon();
        notifier.put_back(topics.clone());
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_RETRY_WAIT);
    }
}
