//! [`Alerts`]: the alerts of one registry. They are sent from a thread of their own, so that a blocked runtime can be reported.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::admin::alerts::alert::ServiceAlert;
use crate::admin::alerts::delivery::{Queue, is_stopping};
use crate::admin::alerts::watch::Watch;
use crate::admin::alerts::webhook::Webhook;
use crate::admin::runtime_thread::{RuntimeThread, Stop, stopping};
use crate::log::warn;
use crate::race::first;
use crate::registry::builder::RegistryBuilder;
use crate::registry::companion::{CompanionBuilder, CompanionSettings};
use crate::registry::service_registry::{Companion, RegistryInner, ServiceRegistry};
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// How often the services are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long alerts may take that are not delivered at the end of a shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the thread may take to end: the closure of a receiver may block it.
const STOP_TIMEOUT: Duration = Duration::from_secs(4);

/// What the builder sets.
#[derive(Default)]
pub(crate) struct AlertSettings(Vec<Result<Queue>>);

/// The alerts of one registry.
pub(crate) struct Alerts {
    /// One for each receiver.
    pub(crate) queues: Vec<Arc<Queue>>,
    /// It looks and sends.
    thread: Mutex<Option<RuntimeThread>>,
}

inventory::submit! {
    CompanionBuilder { build: |settings, _| Ok(Arc::new(Alerts::new(settings)?)) }
}

impl RegistryBuilder {
    /// Posts an alert as JSON to this URL when a service fails permanently, gives up a run or is unhealthy for a
    /// minute, when a resource is down for 5 s, and when that is over. [`ServiceAlert`] lists the fields. Each call
    /// adds a receiver.
    ///
    /// - An alert about the same is not repeated before an hour has passed, unless it was over in between.
    /// - The receiver answers with a status 2xx within 10 s. Else the alert is sent again, after 1 s, 2 s, 4 s and so
    ///   on up to 60 s, with the same `id`, which is also in the header `Idempotency-Key`. An answer 4xx is final,
    ///   except 408, 425 and 429.
    /// - At most 256 alerts wait; then the oldest is dropped, with a warning.
    /// - Services never wait for alerts: they are sent from a thread of their own. At the end of a shutdown they have 3
    ///   s.
    ///
    /// `build` fails if the URL cannot be used. With `https` it fails too: a registry has no TLS client; use
    /// [`alert_with`](Self::alert_with) and the application's own client.
    ///
    /// ```
    /// use service_core::ServiceRegistry;
    ///
    /// let builder = ServiceRegistry::builder().alert_webhook("http://alerts.internal:9000/services");
    /// # let _ = builder;
    /// ```
    pub fn alert_webhook(mut self, url: impl AsRef<str>) -> Self {
        let queue = Webhook::new(url.as_ref()).map(|webhook| {
            let receiver = format!("the webhook at {}", webhook.host());
            Queue::new(receiver, Box::new(move |alert| Box::pin(webhook.clone().send(alert))))
        });
        self.companion_settings.get::<AlertSettings>().0.push(queue);
        self
    }

    /// Sends alerts with a closure: to a chat, by mail, or with a client that has TLS. The rules are those of
    /// [`alert_webhook`](Self::alert_webhook): an error or a panic is a reason to try again, [`Error::fatal`] is final.
    ///
    /// The closure is called on a thread and a tokio runtime of their own, one alert after the other. It has 10 s. Its
    /// captures are cloned for each alert. Code that blocks belongs in `tokio::task::spawn_blocking`: on the thread
    /// itself, it delays all other alerts, and a shutdown waits 4 s for it.
    ///
    /// ```
    /// use service_core::ServiceRegistry;
    /// use service_core::admin::ServiceAlert;
    ///
    /// # async fn post(_url: &str, _text: String) -> std::io::Result<()> { Ok(()) }
    /// let url = "https://hooks.example.org/services".to_owned();
    /// let builder = ServiceRegistry::builder()
    ///     .alert_with(async move |alert: ServiceAlert| post(&url, alert.summary).await);
    /// # let _ = builder;
    /// ```
    pub fn alert_with<C, F, E>(mut self, send: C) -> Self
    where
        C: FnOnce(ServiceAlert) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let send = Arc::new(send);
        let send = move |alert| -> BoxFuture<'static, Result<()>> {
            let send = send.clone();
            // Cloned and called inside the future, where a panic is caught.
            Box::pin(async move { C::clone(&send)(alert).await.map_err(Error::new) })
        };
        let queue = Queue::new("the closure of `alert_with`".to_owned(), Box::new(send));
        self.companion_settings.get::<AlertSettings>().0.push(Ok(queue));
        self
    }
}

impl Alerts {
    fn new(settings: &mut CompanionSettings) -> Result<Self> {
        let queues = std::mem::take(&mut settings.get::<AlertSettings>().0);
        let queues = queues.into_iter().map(|queue| queue.map(Arc::new)).collect::<Result<_>>()?;
        Ok(Self { queues, thread: Mutex::default() })
    }

    /// Returns the alerts of a registry.
    pub(crate) fn of(services: &ServiceRegistry) -> &Self {
        match services.companion() {
            Some(alerts) => alerts,
            None => unreachable!("with the feature `admin`, every registry has this companion"),
        }
    }

    fn run(&self, registry: &ServiceRegistry) -> Result<()> {
        let mut thread = self.thread.lock();
        if self.queues.is_empty() || thread.is_some() {
            return Ok(());
        }
        // A registry that is dropped ends the thread.
        let (registry, queues) = (Arc::downgrade(&registry.inner), self.queues.clone());
        let started = RuntimeThread::start("service-alerts", async move |stop| work(&registry, &queues, stop).await)?;
        *thread = Some(started);
        Ok(())
    }
}

async fn work(registry: &Weak<RegistryInner>, queues: &[Arc<Queue>], mut stop: Stop) {
    // The queues end after the last look, not at the stop itself: an empty one would end before that look has added to
    // it.
    let (last, is_last) = watch::channel(false);
    let sending: Vec<_> = queues
        .iter()
        .map(|queue| {
            let (queue, is_last) = (queue.clone(), is_last.clone());
            tokio::spawn(async move { queue.deliver(is_last).await })
        })
        .collect();
    let mut watch = Watch::default();
    let mut look = || {
        let Some(inner) = registry.upgrade() else { return false };
        for alert in watch.look(&ServiceRegistry { inner }) {
            queues.iter().for_each(|queue| queue.push(alert.clone()));
        }
        true
    };
    while look() && !is_stopping(&stop) {
        first(tokio::time::sleep(LOOK_EVERY), stopping(&mut stop)).await;
    }
    // What happened during the shutdown, such as the failure that began it.
    look();
    let _ = last.send(true);
    let flush = async {
        for sending in sending {
            // A delivery does not panic: what may panic is caught.
            let _ = sending.await;
        }
    };
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, flush).await;
    for queue in queues {
        let left = queue.drop_rest();
        if left > 0 {
            warn!("{left} alert(s) could not be delivered before the end of the program");
        }
    }
}

impl Companion for Alerts {
    fn start<'a>(&'a self, registry: &'a ServiceRegistry) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(self.run(registry)))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        let thread = self.thread.lock().take();
        Box::pin(async move {
            if let Some(thread) = thread {
                thread.stop(STOP_TIMEOUT).await;
            }
        })
    }
}

impl fmt::Debug for Alerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alerts").field("receivers", &self.queues.len()).finish_non_exhaustive()
    }
}
