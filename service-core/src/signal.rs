//! SIGINT and SIGTERM: the first drains, the second ends the process at once.

use std::future::Future;
#[cfg(not(unix))]
use std::pin::Pin;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::error::Result;
use crate::registry::ServiceRegistry;

pub(crate) async fn until_shutdown(registry: &ServiceRegistry) -> Result<()> {
    shut_down_after(Signals::listen()?, registry.closing(), registry).await
}

/// Signals that come as close together as this are one.
const TWICE: Duration = Duration::from_millis(200);

/// Waits for a signal or until it is `over`, and shuts down. The second signal ends the process; where it was over by
/// itself, that is the second one from then on.
pub(crate) async fn shut_down_after(
    mut signals: Signals,
    over: impl Future<Output = ()>,
    registry: &ServiceRegistry,
) -> Result<()> {
    let mut asked = None;
    if let Some(signal) = first(signals.next(), over).await {
        asked = Some(Instant::now());
        info!("{}: stopping all services; once more ends at once", signal.name);
    }
    let mut shutdown = pin!(registry.shutdown());
    let ended = std::future::poll_fn(|task| {
        while let Poll::Ready(signal) = signals.poll_next(task) {
            // Some that send a signal send it to the process and to its group, which is one wish.
            if asked.is_some_and(|asked| asked.elapsed() < TWICE) {
                continue;
            }
            if asked.is_some() {
                warn!("{} again: ending at once", signal.name);
                std::process::exit(128 + signal.number);
            }
            asked = Some(Instant::now());
            info!("{}: all services are stopping already; once more ends at once", signal.name);
        }
        shutdown.as_mut().poll(task)
    })
    .await;
    if asked.is_some() || ended.is_err() {
        leave_by_force(registry, i32::from(ended.is_err()));
    }
    ended
}

/// A runtime waits for threads in blocking code for ever when it is dropped, and by now signals end nothing any more. So
/// where such code does not return, and nor does `main`, the process is ended from outside.
fn leave_by_force(registry: &ServiceRegistry, status: i32) {
    const GRACE: Duration = Duration::from_secs(3);
    let hub = registry.inner.hub.clone();
    if hub.blocking.load(Ordering::SeqCst) == 0 {
        return;
    }
    warn!("blocking code of a service has not returned; the process waits {} s more for it", GRACE.as_secs());
    std::thread::spawn(move || {
        std::thread::sleep(GRACE);
        if hub.blocking.load(Ordering::SeqCst) > 0 {
            error!("blocking code of a service does not return: ending the process without it");
            std::process::exit(status);
        }
    });
}

/// What `asked` gives, or `None` where `over` came first.
pub(crate) async fn first<T>(asked: impl Future<Output = T>, over: impl Future<Output = ()>) -> Option<T> {
    let (mut asked, mut over) = (pin!(asked), pin!(over));
    std::future::poll_fn(|task| match asked.as_mut().poll(task) {
        Poll::Ready(asked) => Poll::Ready(Some(asked)),
        Poll::Pending => over.as_mut().poll(task).map(|()| None),
    })
    .await
}

/// A signal that asks the process to end.
pub(crate) struct Signal {
    pub(crate) name: &'static str,
    number: i32,
}

#[cfg(unix)]
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    fn poll_next(&mut self, task: &mut Task<'_>) -> Poll<Signal> {
        if self.interrupt.poll_recv(task).is_ready() {
            return Poll::Ready(Signal { name: "SIGINT", number: 2 });
        }
        self.terminate.poll_recv(task).map(|_| Signal { name: "SIGTERM", number: 15 })
    }
}

#[cfg(not(unix))]
pub(crate) struct Signals(Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>);

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self(Box::pin(tokio::signal::ctrl_c())))
    }

    fn poll_next(&mut self, task: &mut Task<'_>) -> Poll<Signal> {
        let Poll::Ready(heard) = self.0.as_mut().poll(task) else { return Poll::Pending };
        self.0 = if heard.is_ok() { Box::pin(tokio::signal::ctrl_c()) } else { Box::pin(std::future::pending()) };
        if heard.is_ok() { Poll::Ready(Signal { name: "Ctrl-C", number: 2 }) } else { Poll::Pending }
    }
}

impl Signals {
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|task| self.poll_next(task)).await
    }
}
