//! SIGINT and SIGTERM: the first begins a shutdown, the second ends the process at once. SIGHUP: the configuration file
//! is read again; but if standard input was a terminal at the start, that terminal has been closed, and SIGHUP is one
//! of the first kind.
//!
//! Signals are handled on a thread of their own, so that the second one ends the process even if every worker thread of
//! the program's runtime is blocked. The tricky part is that installing a handler permanently disables the default
//! effect of a signal. A program that starts its services and never waits for their shutdown must still end: the thread
//! ends it.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use crate::log::{error, info, warn};

use crate::humanize;
use crate::race::first;
use crate::registry::all;
use crate::registry::service_registry::ServiceRegistry;
use crate::registry::session::{SHUTDOWN_TIMEOUT, Session};
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// Signals within this time count as one: some programs send a signal to the process and also to its group.
const SAME_SIGNAL: Duration = Duration::from_millis(200);
/// How long the process waits for blocking code of a service after a shutdown.
const EXIT_GRACE: Duration = Duration::from_secs(3);
/// How long the signals wait for a line of the log. Shorter than [`SAME_SIGNAL`], whose signals arrive meanwhile.
const LOG_LIMIT: Duration = Duration::from_millis(50);
/// How long after a signal a warning is logged if no code waits for a shutdown.
const CLAIM_GRACE: Duration = Duration::from_secs(1);

/// Starts a program's services. A signal ends the wait for the start; the shutdown follows when the program waits for
/// it.
pub(crate) async fn start_listening(registry: &ServiceRegistry) -> Result<()> {
    listen_or_warn(registry);
    let session = registry.session();
    let mut started = Ok(());
    first(session.signalled(), async { started = registry.start_announced().await }).await;
    started
}

/// Waits for a signal, or for a shutdown that other code requests, and then for the end of the shutdown.
pub(crate) async fn until_shutdown(registry: &ServiceRegistry) -> Result<()> {
    listen_or_warn(registry);
    let session = registry.session();
    let result = registry.closed().await;
    exit_in_spite_of_blocking_code(registry, session, i32::from(result.is_err()));
    result
}

/// A runtime that is dropped waits for threads in blocking code without a limit. If such code does not return, `main`
/// does not return either, and this ends the process.
pub(crate) fn exit_in_spite_of_blocking_code(registry: &ServiceRegistry, session: Arc<Session>, status: i32) {
    let registry = registry.clone();
    let shared = registry.inner.services.shared.clone();
    // An async run that blocks its thread could not be aborted, so its service still runs. A commit is not aborted,
    // either, but ends with the runtime.
    let still_runs = |registry: &ServiceRegistry| {
        registry.inner.services.all().iter().any(|service| {
            let runs = service.inner.lock().status.is_running();
            runs && !registry.inner.extension.commit_in_progress(&service.inner)
        })
    };
    let blocks = move |registry: &ServiceRegistry| {
        let is_started_again = !Arc::ptr_eq(&registry.session(), &session);
        !is_started_again && (shared.blocking.load(Ordering::SeqCst) > 0 || still_runs(registry))
    };
    if !blocks(&registry) {
        return;
    }
    // The services of another registry are to be shut down first.
    let waits = |registry: &ServiceRegistry| all::another_runs(registry, |other| !other.session().is_closed());
    let then = if waits(&registry) { ", when the services of all registries have stopped" } else { "" };
    warn!(
        "blocking code of a service has not returned; the process ends in {} s without it{then}",
        EXIT_GRACE.as_secs()
    );
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(EXIT_GRACE);
            if !blocks(&registry) {
                return;
            }
            if !waits(&registry) {
                log_briefly(|| error!("blocking code of a service does not return: ending the process without it"));
                std::process::exit(status);
            }
        }
    });
}

// ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn listen_or_warn(registry: &ServiceRegistry) {
    if let Err(error) = listen(registry) {
        warn!("cannot install signal handlers, so a signal ends the process without a shutdown: {error:#}");
    }
}

/// From now on a signal also shuts down this registry. The first call starts the thread, which stays for the rest of
/// the process.
///
/// # Errors
/// The thread cannot be started, or the signal handlers cannot be installed.
pub(crate) fn listen(registry: &ServiceRegistry) -> Result<()> {
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = STARTED.lock();
    // Before the thread starts: a signal that arrives in between would not find the registry.
    registry.inner.listens.store(true, Ordering::SeqCst);
    if !*started {
        let (report, listens) = mpsc::channel();
        // The runtime begins and ends there: tokio does not allow that on a thread of another runtime.
        std::thread::Builder::new().name("service-signals".to_owned()).spawn(move || handle_on_this_thread(&report))?;
        listens.recv().unwrap_or_else(|_| Err(Error::msg("the thread that handles signals has ended")))?;
        *started = true;
    }
    Ok(())
}

/// Handles signals until the process ends. Reports first whether it can.
fn handle_on_this_thread(report: &mpsc::Sender<Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let listening = runtime.map_err(Error::new).and_then(|runtime| {
        let signals = runtime.block_on(async { Signals::listen() })?;
        Ok((runtime, signals))
    });
    match listening {
        Ok((runtime, signals)) => {
            // The receiver waits for it.
            let _ = report.send(Ok(()));
            runtime.block_on(handle_signals(signals));
        }
        Err(error) => _ = report.send(Err(error)),
    }
}

/// Logs on another thread, and waits for that a short time only: the reader of the log may be the reason why the process
/// is to end.
fn log_briefly(line: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let logs = move || {
        line();
        let _ = done.send(());
    };
    if std::thread::Builder::new().name("service-log".to_owned()).spawn(logs).is_ok() {
        // Without an answer it is still being written, or the subscriber has panicked.
        let _ = ended.recv_timeout(LOG_LIMIT);
    }
}

/// The registries that signals shut down.
fn listening() -> Vec<ServiceRegistry> {
    all::registries().into_iter().filter(|registry| registry.inner.listens.load(Ordering::SeqCst)).collect()
}

async fn handle_signals(mut signals: Signals) {
    // When a signal began the last shutdown.
    let mut claimed: Option<Instant> = None;
    loop {
        let signal = signals.next().await;
        let arrived = Instant::now();
        if signal.reloads {
            reload_all(&signal);
            continue;
        }
        let mut registries = listening();
        // Those that were shut down leave the signal to those that still run.
        if registries.iter().any(|registry| registry.session().is_open()) {
            registries.retain(|registry| !registry.session().is_closed());
        }
        let grace = registries.iter().map(|registry| registry.inner.shutdown_timeout).max();
        // A registry whose shutdown has finished, and was not begun by a signal, leaves the signal to the rest of the
        // program. But that may have been the first to get this signal.
        let is_over = |session: Arc<Session>| {
            session.first_signal().is_none() && session.closed_for().is_some_and(|time| time > CLAIM_GRACE)
        };
        let registries: Vec<_> = registries.into_iter().filter(|registry| !is_over(registry.session())).collect();
        if deliver(&signal, &registries) {
            claimed = Some(arrived);
            continue;
        }
        // The registries may have been dropped after their shutdown.
        match claimed.filter(|_| registries.is_empty()) {
            Some(earlier) if earlier.elapsed() < SAME_SIGNAL => continue,
            Some(_) => exit_at_once(&signal),
            None => {}
        }
        // No shutdown has begun yet.
        let sessions = registries.iter().map(ServiceRegistry::session).collect();
        drop(registries);
        let mut unclaimed = pin!(exit_if_unclaimed(&signal, sessions, grace.unwrap_or(SHUTDOWN_TIMEOUT)));
        while let Some(again) = first(signals.next(), unclaimed.as_mut()).await {
            if again.reloads {
                reload_all(&again);
            } else if arrived.elapsed() >= SAME_SIGNAL {
                exit_at_once(&again);
            }
        }
        claimed = Some(arrived);
    }
}

fn reload_all(signal: &Signal) {
    listening().iter().for_each(|registry| registry.reload_by_signal(signal.name));
}

/// Begins the shutdown of every registry whose shutdown a caller waits for. Returns `false` if there is none, so that
/// the process may have to be ended.
fn deliver(signal: &Signal, registries: &[ServiceRegistry]) -> bool {
    let (mut claimed, mut is_in_progress, mut begins) = (false, false, Vec::new());
    for registry in registries {
        let session = registry.session();
        match session.signal(signal.name) {
            Some(earlier) if earlier.elapsed() < SAME_SIGNAL => claimed = true,
            Some(_) => exit_at_once(signal),
            None if !session.is_open() => is_in_progress = true,
            None if session.is_awaited() => begins.push(registry),
            None => {}
        }
    }
    let name = signal.name;
    if !begins.is_empty() {
        // First, because the process may end soon after the shutdown has begun.
        log_briefly(move || log_shutdown(name));
    } else if is_in_progress {
        log_briefly(move || info!("{name}: a shutdown is in progress; a second signal ends the process at once"));
    }
    for registry in &begins {
        registry.begin_shutdown();
    }
    claimed || is_in_progress || !begins.is_empty()
}

/// The signal begins a shutdown.
pub(super) fn log_shutdown(signal: &str) {
    info!("{signal}: stopping all services; a second signal ends the process at once");
}

fn exit_at_once(signal: &Signal) -> ! {
    let name = signal.name;
    log_briefly(move || warn!("second signal ({name}): ending the process at once"));
    std::process::exit(128 + signal.number);
}

/// Ends the process after a signal if the program neither waits for a shutdown nor begins one: after `grace`, because
/// the program may handle the signal itself.
async fn exit_if_unclaimed(signal: &Signal, sessions: Vec<Arc<Session>>, grace: Duration) {
    let is_claimed = || sessions.iter().any(|session| !session.is_open());
    // The program may be about to do either.
    tokio::time::sleep(CLAIM_GRACE.min(grace)).await;
    if is_claimed() {
        return;
    }
    let name = signal.name;
    log_briefly(move || {
        warn!(
            "{name}: no code waits for a shutdown (`until_shutdown`, `stopping`, `closed`); the process ends in {}, or at once \
             at a second signal",
            humanize::long(grace)
        );
    });
    tokio::time::sleep(grace).await;
    if !is_claimed() {
        log_briefly(move || error!("{name}: ending the process without a shutdown of its services"));
        std::process::exit(128 + signal.number);
    }
}

/// A signal that requests the end of the process, or another reading of the configuration file.
pub(crate) struct Signal {
    name: &'static str,
    number: i32,
    reloads: bool,
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// Standard input was a terminal at the start.
    has_terminal: bool,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> Result<Self> {
        use std::io::IsTerminal;
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            has_terminal: std::io::stdin().is_terminal(),
        })
    }

    fn poll_next(&mut self, task: &mut Task<'_>) -> Poll<Signal> {
        if self.interrupt.poll_recv(task).is_ready() {
            return Poll::Ready(Signal { name: "SIGINT", number: 2, reloads: false });
        }
        if self.terminate.poll_recv(task).is_ready() {
            return Poll::Ready(Signal { name: "SIGTERM", number: 15, reloads: false });
        }
        self.hangup.poll_recv(task).map(|_| Signal { name: "SIGHUP", number: 1, reloads: !self.has_terminal })
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    fn poll_next(&mut self, task: &mut Task<'_>) -> Poll<Signal> {
        self.0.poll_recv(task).map(|_| Signal { name: "Ctrl-C", number: 2, reloads: false })
    }
}

impl Signals {
    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|task| self.poll_next(task)).await
    }
}
