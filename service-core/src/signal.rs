//! SIGINT and SIGTERM: the first drains, the second ends the process at once.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use tracing::{info, warn};

use crate::error::Result;
use crate::registry::ServiceRegistry;

pub(crate) async fn until_shutdown(registry: &ServiceRegistry) -> Result<()> {
    let mut signals = Signals::listen()?;
    if let Some(signal) = first(signals.next(), registry.closing()).await {
        info!("{}: stopping all services; once more ends at once", signal.name);
    }
    let mut shutdown = pin!(registry.shutdown());
    let mut second = pin!(signals.next());
    std::future::poll_fn(|task| {
        if let Poll::Ready(signal) = second.as_mut().poll(task) {
            warn!("{} again: ending at once", signal.name);
            std::process::exit(128 + signal.number);
        }
        shutdown.as_mut().poll(task)
    })
    .await
}

/// The signal, or `None` where `other` came first.
pub(crate) async fn first(signal: impl Future<Output = Signal>, other: impl Future<Output = ()>) -> Option<Signal> {
    let (mut signal, mut other) = (pin!(signal), pin!(other));
    std::future::poll_fn(|task| match signal.as_mut().poll(task) {
        Poll::Ready(signal) => Poll::Ready(Some(signal)),
        Poll::Pending => other.as_mut().poll(task).map(|()| None),
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

    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|task| {
            if self.interrupt.poll_recv(task).is_ready() {
                return Poll::Ready(Signal { name: "SIGINT", number: 2 });
            }
            self.terminate.poll_recv(task).map(|_| Signal { name: "SIGTERM", number: 15 })
        })
        .await
    }
}

#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal { name: "Ctrl-C", number: 2 }
    }
}
