//! [`Notifier`]: delivers notifications to the services of this registry and, through PostgreSQL, to those of other replicas.
//!
//! The tricky part is that PostgreSQL also sends a notification back to the replica from which it comes. The services
//! there have been woken already, and a second time would be a run without work. So the payload names the replica,
//! which ignores its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use tokio::sync::Notify;

use crate::config::is_name;
use crate::database::driver::is_same_pool;
use crate::database::error_kind::DbResult;
use crate::database::work::sql_text::text_array;
use crate::runtime::leases::Leases;
use crate::runtime::services::Services;
use crate::service::state::ServiceState;
use crate::sync::Mutex;

/// The channel of PostgreSQL. The payload is a topic.
pub(crate) const CHANNEL: &str = "service_wake";
/// The payload in place of a topic when the lease of a service is released. No topic has this form.
const RELEASED: &str = "!released";
/// Stands between a topic and the replica that the notification comes from. No topic contains it.
const SEPARATOR: char = ' ';

/// Delivers notifications.
#[derive(Default)]
pub(crate) struct Notifier {
    /// Identifies this replica in payloads.
    origin: String,
    db: Option<DatabaseConnection>,
    services: OnceLock<Weak<Services>>,
    /// Reaches the replicas that hold leases, where no notification does.
    leases: OnceLock<Weak<dyn Leases>>,
    /// Notifications of the database arrive here, so they also reach the holders of leases.
    arrive: AtomicBool,
    /// The services that have claimed rows, by table.
    workers: Mutex<BTreeMap<String, BTreeSet<Arc<str>>>>,
    /// Topics that other replicas do not know yet.
    outbox: Mutex<BTreeSet<String>>,
    filled: Notify,
    /// Held while topics are sent.
    pub(crate) sending: tokio::sync::Mutex<()>,
    /// Notified when another replica releases the lease of a service.
    lease_released: Arc<Notify>,
}

/// The notifiers of this process, for functions that have only a connection.
static NOTIFIERS: Mutex<Vec<Weak<Notifier>>> = Mutex::new(Vec::new());

/// A notification that PostgreSQL has delivered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// This replica has sent it.
    Own,
    /// Another replica has released the lease of a service.
    Released,
    Topic(&'a str),
}

impl Notifier {
    /// The notifier of a registry with this database.
    pub(crate) fn new(db: DatabaseConnection) -> Arc<Self> {
        let origin = format!("{:016x}", fastrand::u64(..));
        let notifier = Arc::new(Self { origin, db: Some(db), ..Self::default() });
        let mut all = NOTIFIERS.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&notifier));
        notifier
    }

    /// The notifier of a registry in this process that uses the same pool.
    pub(crate) fn of_pool(db: &DatabaseConnection) -> Option<Arc<Self>> {
        let all = NOTIFIERS.lock().clone();
        all.iter()
            .filter_map(Weak::upgrade)
            .find(|notifier| notifier.db.as_ref().is_some_and(|own| is_same_pool(own, db)))
    }

    /// The time of the registry, which is virtual in tests.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let services = self.services.get().and_then(Weak::upgrade);
        services.map_or_else(Utc::now, |services| services.shared.clock.wall_now().into())
    }

    /// A service claims rows of this table.
    pub(crate) fn add_worker(&self, table: &str, service: &Arc<str>) {
        let mut workers = self.workers.lock();
        match workers.get_mut(table) {
            Some(known) if known.contains(service) => {}
            Some(known) => _ = known.insert(service.clone()),
            None => _ = workers.insert(table.to_owned(), BTreeSet::from([service.clone()])),
        }
    }

    /// The topics of the services that have claimed rows of this table, and of those that do not run here: their claims
    /// are made elsewhere. A service that is woken in vain finds no row; one that is not woken would leave rows.
    pub(crate) fn topics_of_workers(&self, table: &str) -> BTreeSet<String> {
        let Some(services) = self.services.get().and_then(Weak::upgrade) else { return BTreeSet::new() };
        let workers: Vec<_> = self.workers.lock().get(table).into_iter().flatten().cloned().collect();
        let elsewhere = services.all().into_iter().filter(|service| {
            let state = service.inner.lock();
            !state.serves_requests() || state.state() == ServiceState::Standby
        });
        workers
            .iter()
            .filter_map(|id| services.get(id))
            .chain(elsewhere)
            .flat_map(|service| service.inner.lock().requests.options.wake_on.clone())
            .collect()
    }

    /// Sets the services to wake. Every call passes the same registry.
    pub(crate) fn attach(&self, services: &Arc<Services>) {
        let _ = self.services.set(Arc::downgrade(services));
    }

    /// From now on a service that stands by here is woken through its lease, unless notifications arrive.
    pub(crate) fn forward_by(&self, leases: &Arc<dyn Leases>) {
        let _ = self.leases.set(Arc::downgrade(leases));
    }

    /// Sets whether notifications of the database arrive here.
    pub(crate) fn set_arrive(&self, arrive: bool) {
        self.arrive.store(arrive, Ordering::SeqCst);
    }

    /// Wakes the services of this registry that listen to one of these topics.
    pub(crate) fn deliver(&self, topics: &[String]) {
        if let Some(services) = self.services.get().and_then(Weak::upgrade) {
            topics.iter().for_each(|topic| self.wake(&services, topic));
        }
    }

    /// The same for one topic.
    pub(crate) fn wake(&self, services: &Services, topic: &str) {
        services.wake(topic);
        let leases = self.leases.get().filter(|_| !self.arrive.load(Ordering::SeqCst));
        let Some(leases) = leases.and_then(Weak::upgrade) else { return };
        for service in services.all().iter().filter(|service| service.inner.stands_by()) {
            let listens = service.inner.lock().requests.options.wake_on.iter().any(|known| known == topic);
            if listens {
                leases.forward_wake(service.id());
            }
        }
    }

    /// Wakes other replicas later. Never waits, and is repeated until it succeeds.
    pub(crate) fn send_later(&self, topic: &str) {
        // No service can have another topic.
        if is_name(topic) {
            self.outbox.lock().insert(topic.to_owned());
            self.filled.notify_one();
        }
    }

    /// Announces topics on a connection to PostgreSQL; inside a transaction, with its commit.
    pub(crate) async fn announce(&self, db: &impl ConnectionTrait, topics: &[String]) -> DbResult<()> {
        let payloads = topics.iter().filter(|topic| is_name(topic)).map(|topic| self.payload(topic)).collect();
        self.announce_payloads(db, payloads).await
    }

    /// Announces to the other replicas that the lease of a service is released.
    pub(crate) async fn announce_released(&self, db: &impl ConnectionTrait) -> DbResult<()> {
        self.announce_payloads(db, vec![self.payload(RELEASED)]).await
    }

    /// Returns what is notified when another replica releases the lease of a service.
    pub(crate) fn lease_released(&self) -> Arc<Notify> {
        self.lease_released.clone()
    }

    /// Announces nothing to others, but shows this replica that its listener works.
    pub(crate) async fn announce_itself(&self, db: &impl ConnectionTrait) -> DbResult<()> {
        self.announce_payloads(db, vec![self.payload("")]).await
    }

    async fn announce_payloads(&self, db: &impl ConnectionTrait, payloads: Vec<String>) -> DbResult<()> {
        if payloads.is_empty() {
            return Ok(());
        }
        // A query has any number of rows, but not of columns.
        let sql = "SELECT pg_notify($1, payload) FROM unnest(CAST($2 AS text[])) AS payload";
        let values = [CHANNEL.into(), text_array(payloads.into_iter(), 0).into()];
        db.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await.map(drop)
    }

    fn payload(&self, topic: &str) -> String {
        format!("{topic}{SEPARATOR}{}", self.origin)
    }

    /// Reads a payload. Those of triggers and of other programs are topics without an origin.
    pub(crate) fn received<'a>(&self, payload: &'a str) -> Received<'a> {
        match payload.split_once(SEPARATOR) {
            Some((_, origin)) if origin == self.origin => Received::Own,
            Some((RELEASED, _)) => Received::Released,
            Some((topic, _)) => Received::Topic(topic),
            None => Received::Topic(payload),
        }
    }

    /// Takes the topics that are to be sent. Those that are added meanwhile are sent again.
    pub(crate) fn take_outbox(&self) -> Vec<String> {
        std::mem::take(&mut *self.outbox.lock()).into_iter().collect()
    }

    /// Puts topics back that could not be sent.
    pub(crate) fn put_back(&self, topics: Vec<String>) {
        self.outbox.lock().extend(topics);
    }

    /// Returns when there may be topics to send.
    pub(crate) async fn outbox_filled(&self) {
        self.filled.notified().await;
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier")
            .field("origin", &self.origin)
            .field("outbox", &*self.outbox.lock())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_recognises_its_own_notifications() {
        let [here, there] = ["1", "2"].map(|origin| Notifier { origin: origin.to_owned(), ..Notifier::default() });
        assert_eq!(here.received(&here.payload("orders")), Received::Own);
        assert_eq!(there.received(&here.payload("orders")), Received::Topic("orders"));
        assert_eq!(there.received(&here.payload(RELEASED)), Received::Released);
        assert_eq!(here.received("orders"), Received::Topic("orders"));
        assert_eq!(here.received(""), Received::Topic(""));
    }

    #[test]
    fn only_names_are_sent() {
        let notifier = Notifier::default();
        for topic in ["orders", "orders", "", "two words", &"long".repeat(2_000), "it's"] {
            notifier.send_later(topic);
        }
        assert_eq!(*notifier.outbox.lock(), BTreeSet::from(["orders".to_owned()]));
    }
}
