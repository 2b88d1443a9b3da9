//! SIGINT and SIGTERM: the first drains, the second ends the process at once.
//!
//! The tricky thing is that whoever listens to a signal takes its usual effect away for good. A program that starts its
//! services is listened for from then on, so that a signal during the start, or just after it, drains as well; and where
//! it never waits in `until_shutdown`, [`unheard`] sees to it that the process still ends.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::humanize;
use crate::panic::{self, Caught};
use crate::registry::{Inner, ServiceRegistry};
use crate::service::error::Result;

pub(crate) async fn until_shutdown(registry: &ServiceRegistry) -> Result<()> {
    let ahead = registry.inner.ahead.lock().take();
    match ahead {
        Some(signals) => {
            let mut lent = Lent { signals: Some(signals), ahead: &registry.inner.ahead };
            let Some(signals) = &mut lent.signals else { return Ok(()) };
            shut_down_after(signals, registry.closing(), registry).await
        }
        None => shut_down_after(&mut Signals::listen()?, registry.closing(), registry).await,
    }
}

/// Signals that go back to where they were, so that those after an `until_shutdown` that was dropped are heard, too.
struct Lent<'a> {
    signals: Option<Signals>,
    ahead: &'a Ahead,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.ahead.lock() = self.signals.take();
    }
}

/// Signals that are listened to ahead of the `until_shutdown` that will want them.
#[derive(Default)]
pub(crate) struct Ahead(Mutex<Option<Signals>>);

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, Option<Signals>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_taken(&self) -> bool {
        self.lock().is_none()
    }
}

/// Starts a program's services, or as much of that as comes before a signal, which `until_shutdown` then finds waiting.
pub(crate) async fn start_listening(registry: &ServiceRegistry) -> Result<()> {
    let start = registry.start_announced();
    // On a runtime without I/O there are no signals, which tokio says by a panic.
    let listen = || -> Result<_> { Ok((Signals::listen()?, Signals::listen()?, Signals::listen()?)) };
    let Caught::Returned(Ok((ahead, unclaimed, mut during))) = panic::catch(listen) else {
        return start.await;
    };
    *registry.inner.ahead.lock() = Some(ahead);
    tokio::spawn(unheard(unclaimed, Arc::downgrade(&registry.inner), registry.inner.shutdown_timeout));
    let mut started = Ok(());
    first(during.next(), async { started = start.await }).await;
    started
}

/// Ends the process as a signal is meant to where the program neither waits in `until_shutdown` nor shuts its services
/// down by itself: after as long as a shutdown may take, as it may hear signals by other means; at once by the second.
async fn unheard(mut signals: Signals, registry: Weak<Inner>, patience: Duration) {
    let is_taken = || registry.upgrade().is_some_and(|inner| inner.ahead.is_taken());
    let signal = signals.next().await;
    // One that goes from now on has been shut down, and what comes after that is the program's own.
    let was_there = registry.strong_count() > 0;
    let is_closing = || registry.upgrade().map_or(was_there, |inner| inner.closing.load(Ordering::SeqCst));
    let asked = Instant::now();
    let mut over = pin!(async {
        // Either may be on its way.
        tokio::time::sleep(Duration::from_secs(1).min(patience)).await;
        if !is_taken() && !is_closing() {
            let patience = humanize::short(patience);
            warn!(
                "{}: nobody waits for it in `until_shutdown`; it ends the process in {patience}, once more at once",
                signal.name
            );
        }
        tokio::time::sleep(patience).await;
        if is_closing() {
            // It ends by means of its own.
            std::future::pending::<()>().await;
        }
    });
    loop {
        let again = first(signals.next(), over.as_mut()).await;
        if is_taken() {
            return;
        }
        match again {
            Some(_) if asked.elapsed() < TWICE => {}
            Some(signal) => {
                warn!("{} again: ending at once", signal.name);
                std::process::exit(128 + signal.number);
            }
            None => {
                error!("{}: ending the process, its services as they are", signal.name);
                std::process::exit(128 + signal.number);
            }
        }
    }
}

/// Signals that come as close together as this are one.
const TWICE: Duration = Duration::from_millis(200);

/// Waits for a signal or until it is `over`, and shuts down. The second signal ends the process; where it was over by
/// itself, that is the second one from then on.
pub(crate) async fn shut_down_after(
    signals: &mut Signals,
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

#[cfg(windows)]
pub(crate) struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    fn poll_next(&mut self, task: &mut Task<'_>) -> Poll<Signal> {
        self.0.poll_recv(task).map(|_| Signal { name: "Ctrl-C", number: 2 })
    }
}

impl Signals {
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|task| self.poll_next(task)).await
    }
}
