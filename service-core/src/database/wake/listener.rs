//! [`Listener`]: receives notifications through PostgreSQL, on a connection of its own.
//!
//! The connection exists while a service that runs listens to a topic. It is not one of the services' pool, so it is
//! never the one that services wait for.
//!
//! The tricky part is what gets lost. Notifications that are sent while the connection is down do not arrive later, so
//! after each reconnect every topic counts as notified. A pooler in transaction mode accepts `LISTEN` and delivers
//! nothing: only a notification to itself, sent through the pool, shows that.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sea_orm::sqlx::{Error as SqlxError, Executor};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::database::config::watcher::TableWatcher;
use crate::database::driver::postgres_pool;
use crate::database::wake::notifier::{CHANNEL, Notifier, Received};
use crate::log::{debug, info, warn};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::services::Services;
use crate::runtime::single_task::SingleTask;

/// Repeated as a check that the connection works.
const LISTEN: &str = "LISTEN service_wake";
/// The time limit of connecting, and of a statement on the connection.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a start waits for the listener.
const START_LIMIT: Duration = Duration::from_secs(3);
/// How long the notification to itself may take.
const ECHO_LIMIT: Duration = Duration::from_secs(5);
/// How often the connection is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The wait before a reconnect, doubled each time up to the maximum.
const RECONNECT_WAIT: Duration = Duration::from_millis(250);
const MAX_RECONNECT_WAIT: Duration = Duration::from_secs(5);
/// The wait after notifications did not arrive.
const SWALLOWED_WAIT: Duration = Duration::from_secs(300);

/// Receives the notifications of other replicas and programs.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The way around a pooler.
    direct: Option<PgConnectOptions>,
    task: SingleTask,
    shared: Arc<ListenTask>,
}

#[derive(Debug)]
struct ListenTask {
    watcher: Arc<TableWatcher>,
    notifier: Arc<Notifier>,
    /// A service may have started.
    started: Notify,
    is_listening: watch::Sender<bool>,
    /// A start waits for the connection: its services run anyway, so the first connection wakes none.
    start_waits: AtomicBool,
    /// A problem was reported, and no notification has arrived since.
    reported: AtomicBool,
}

/// What happens on the connection.
enum Event {
    Received(std::result::Result<Option<PgNotification>, SqlxError>),
    /// The notification to this replica was sent, or could not be sent.
    Announced(bool),
    /// The notification to this replica did not arrive.
    NoEcho,
    /// The connection is to be checked.
    Check,
}

/// Why listening ended.
enum Ended {
    NoTopics,
    Dropped,
    /// Notifications do not arrive.
    Swallowed,
}

impl Listener {
    /// A listener for a registry with this database; `None` if the driver is not that of this crate.
    pub(crate) fn new(
        watcher: &Arc<TableWatcher>,
        notifier: &Arc<Notifier>,
        direct: Option<PgConnectOptions>,
    ) -> Option<Self> {
        postgres_pool(&watcher.pool.db)?;
        let shared = ListenTask {
            watcher: watcher.clone(),
            notifier: notifier.clone(),
            started: Notify::new(),
            is_listening: watch::Sender::new(false),
            start_waits: AtomicBool::new(false),
            reported: AtomicBool::new(false),
        };
        Some(Self { direct, task: SingleTask::default(), shared: Arc::new(shared) })
    }

    /// Listens until the registry is dropped, while a service that runs has topics. Called for each start; one task
    /// listens.
    pub(crate) fn keep_listening(&self, services: &Arc<Services>, runtime: &Handle) {
        self.shared.started.notify_one();
        let (shared, direct, services) = (self.shared.clone(), self.direct.clone(), Arc::downgrade(services));
        self.task.start(runtime, || async move { shared.listen_always(direct, services).await });
    }

    /// Waits until the listener is connected, for a limited time, if a service has topics and no problem is known.
    /// Called before services start.
    pub(crate) async fn until_listening(&self, services: &Services) {
        if self.shared.watcher.availability.is_down()
            || self.shared.reported.load(Ordering::SeqCst)
            || !services.all().iter().any(|service| has_topics(&service.inner.lock()))
        {
            return;
        }
        let mut is_listening = self.shared.is_listening.subscribe();
        if *is_listening.borrow() {
            return;
        }
        self.shared.start_waits.store(true, Ordering::SeqCst);
        self.shared.started.notify_one();
        let _ = timeout(START_LIMIT, is_listening.wait_for(|is_listening| *is_listening)).await;
        self.shared.start_waits.store(false, Ordering::SeqCst);
    }
}

impl ListenTask {
    async fn listen_always(&self, direct: Option<PgConnectOptions>, services: Weak<Services>) {
        let mut wait = RECONNECT_WAIT;
        // Services that ran all along may have missed notifications.
        let mut has_gap = false;
        loop {
            match services.upgrade() {
                None => return,
                Some(services) if self.is_needed(&services) => {}
                Some(_) => {
                    let _ = timeout(CHECK_INTERVAL, self.started.notified()).await;
                    continue;
                }
            }
            let connected = Instant::now();
            let ended = self.listen(direct.as_ref(), &services, has_gap).await;
            has_gap = self.is_listening.send_replace(false) || has_gap;
            if connected.elapsed() > CHECK_INTERVAL {
                wait = RECONNECT_WAIT;
            }
            match ended {
                Ok(Ended::Dropped) => return,
                Ok(Ended::NoTopics) => has_gap = false,
                Ok(Ended::Swallowed) => {
                    self.report_swallowed(direct.is_some());
                    let again = Instant::now() + SWALLOWED_WAIT;
                    while Instant::now() < again && services.strong_count() > 0 {
                        tokio::time::sleep(CHECK_INTERVAL).await;
                    }
                }
                Err(error) => {
                    debug!("the connection for notifications has ended, reconnecting: {error}");
                    has_gap = true;
                    self.watcher.availability.probe_soon();
                    if wait >= MAX_RECONNECT_WAIT && !self.watcher.availability.is_down() {
                        self.report(|| {
                            warn!(
                                "no connection for notifications, retrying; until then services with `wake_on` are woken by this \
                                 process only, and run by their schedule: {error}"
                            );
                        });
                    }
                    tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    wait = (wait * 2).min(MAX_RECONNECT_WAIT);
                }
            }
        }
    }

    fn is_needed(&self, services: &Services) -> bool {
        self.start_waits.load(Ordering::SeqCst)
            || services.all().iter().any(|service| {
                let state = service.inner.lock();
                state.status.is_running() && (has_topics(&state) || service.inner.lease.is_some())
            })
    }

    fn report_swallowed(&self, is_direct: bool) {
        let way = match is_direct {
            false => format!(
                "through the connection to the {}: a pooler in transaction mode drops them; set \
                 `database_direct_url` to the server itself",
                self.watcher.availability.name()
            ),
            true => "through `database_direct_url`: it leads to a pooler in transaction mode, or to another \
                     database than that of the services"
                .to_owned(),
        };
        self.report(|| {
            warn!(
                "notifications do not arrive {way}. Until then this process wakes its own services only, and services \
                 with `wake_on` also run by their schedule"
            );
        });
    }

    /// Reports a problem once, until notifications arrive again.
    fn report(&self, report: impl FnOnce()) {
        if !self.reported.swap(true, Ordering::SeqCst) {
            self.notifier.set_arrive(false);
            report();
        }
    }

    async fn listen(
        &self,
        direct: Option<&PgConnectOptions>,
        services: &Weak<Services>,
        has_gap: bool,
    ) -> std::result::Result<Ended, SqlxError> {
        let mut listener = within(LIMIT, self.connect(direct)).await?;
        within(LIMIT, listener.listen(CHANNEL)).await?;
        // Before the start that waits continues, and takes the request back.
        let start_waits = self.start_waits.swap(false, Ordering::SeqCst);
        self.is_listening.send_replace(true);
        if !start_waits || has_gap {
            match services.upgrade() {
                Some(services) => services.wake_all(),
                None => return Ok(Ended::Dropped),
            }
        }
        let mut checks = tokio::time::interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut announcing = pin!(self.announce_itself());
        let (mut announced, mut sent, mut heard, mut echo_due) = (false, false, false, None);
        loop {
            let event = {
                let (mut receiving, mut no_echo) = (pin!(listener.try_recv()), pin!(until(echo_due)));
                poll_fn(|task| {
                    if let Poll::Ready(received) = receiving.as_mut().poll(task) {
                        return Poll::Ready(Event::Received(received));
                    }
                    if !announced && let Poll::Ready(was_sent) = announcing.as_mut().poll(task) {
                        return Poll::Ready(Event::Announced(was_sent));
                    }
                    if no_echo.as_mut().poll(task).is_ready() {
                        return Poll::Ready(Event::NoEcho);
                    }
                    checks.poll_tick(task).map(|_| Event::Check)
                })
                .await
            };
            match event {
                Event::Received(received) => {
                    let Some(notification) = received? else {
                        return Err(SqlxError::Io(std::io::ErrorKind::ConnectionAborted.into()));
                    };
                    match self.notifier.received(notification.payload()) {
                        Received::Own => {
                            (heard, echo_due) = (true, None);
                            self.notifier.set_arrive(true);
                            if self.reported.swap(false, Ordering::SeqCst) {
                                info!("notifications arrive again");
                            }
                        }
                        Received::Released => self.notifier.lease_released().notify_one(),
                        Received::Topic(topic) => match services.upgrade() {
                            Some(services) => services.wake(topic),
                            None => return Ok(Ended::Dropped),
                        },
                    }
                }
                Event::Announced(was_sent) => {
                    (announced, sent) = (true, was_sent);
                    // If it could not be sent, nothing is known until it is sent again.
                    echo_due = (sent && !heard).then(|| Instant::now() + ECHO_LIMIT);
                }
                Event::NoEcho => return Ok(Ended::Swallowed),
                Event::Check => {
                    match services.upgrade() {
                        None => return Ok(Ended::Dropped),
                        Some(services) if !self.is_needed(&services) => return Ok(Ended::NoTopics),
                        Some(_) => {}
                    }
                    if announced && !sent {
                        announcing.set(self.announce_itself());
                        announced = false;
                    }
                    within(LIMIT, async { listener.execute(LISTEN).await.map(drop) }).await?;
                }
            }
        }
    }

    async fn connect(&self, direct: Option<&PgConnectOptions>) -> std::result::Result<PgListener, SqlxError> {
        let options = match direct {
            Some(direct) => direct.clone(),
            None => {
                let pool = postgres_pool(&self.watcher.pool.db).ok_or(SqlxError::PoolClosed)?;
                (*pool.connect_options()).clone()
            }
        };
        // A pool of one connection, because the listener takes its connection from a pool.
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(LIMIT).idle_timeout(None).max_lifetime(None);
        let mut listener = PgListener::connect_with(&pool.connect_lazy_with(options)).await?;
        listener.eager_reconnect(false);
        Ok(listener)
    }

    /// Sends a notification to this replica through the services' pool. Returns whether it was sent.
    async fn announce_itself(&self) -> bool {
        let send = self.watcher.pool.with_db(|db| async move {
            self.notifier.announce_itself(&db).await?;
            Ok(())
        });
        matches!(timeout(2 * LIMIT, send).await, Ok(Ok(())))
    }
}

fn has_topics(state: &RuntimeState) -> bool {
    !state.requests.options.wake_on.is_empty()
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = std::result::Result<T, SqlxError>>,
) -> std::result::Result<T, SqlxError> {
    timeout(limit, work).await.unwrap_or(Err(SqlxError::PoolTimedOut))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
