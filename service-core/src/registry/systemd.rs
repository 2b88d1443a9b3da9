//! [`SystemdNotifier`]: tells systemd when the services are ready, reload and stop, and how they are, if the program runs as a unit with
//! `Type=notify` or `Type=notify-reload`.
//!
//! systemd passes the address of a socket in the environment variable `NOTIFY_SOCKET`; without it, nothing is done. The
//! tricky part is the watchdog: its messages are sent by a task on the runtime of the services. If that runtime is
//! blocked, they are not sent, and systemd restarts the program.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::humanize;
use crate::log::warn;
use crate::observe::health::{HealthStatus, RegistryHealth, ServiceHealth};
use crate::registry::companion::{CompanionBuilder, Environment};
use crate::registry::service_registry::{Companion, Phase, RegistryInner, ServiceRegistry};
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::Result;
use crate::service::state::ServiceState;
use crate::sync::Mutex;

/// How often the status line is checked for a change.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long a message may wait for room in systemd's queue.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How many services the status line names.
const NAMED: usize = 3;

inventory::submit! {
    CompanionBuilder { build: |_, environment| Ok(Arc::new(SystemdNotifier::new(environment))) }
}

/// Tells systemd about the services of one registry.
pub(crate) struct SystemdNotifier {
    /// `None`: the program does not run under systemd, or not as a unit that wants messages.
    socket: Option<Arc<Socket>>,
    /// The watchdog and the status line.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl SystemdNotifier {
    fn new(environment: Environment<'_>) -> Self {
        let address = environment.iter().find(|(name, _)| name == "NOTIFY_SOCKET");
        let address = address.map(|(_, value)| value).filter(|value| !value.is_empty());
        let socket = address.and_then(|address| match Socket::open(address) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                warn!("systemd is not notified, its socket `{}` cannot be used: {error}", address.display());
                None
            }
        });
        Self { socket, tasks: Mutex::default() }
    }
}

impl Companion for SystemdNotifier {
    fn start<'a>(&'a self, registry: &'a ServiceRegistry) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(self.spawn(registry)))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        Box::pin(std::future::ready(()))
    }

    fn enter(&self, phase: Phase) {
        let Some(socket) = &self.socket else { return };
        match phase {
            Phase::Ready | Phase::Reloaded => socket.send(&[NotifyState::Ready]),
            // systemd requires the time together with the message.
            Phase::Reloading => match NotifyState::monotonic_usec_now() {
                Ok(now) => socket.send(&[NotifyState::Reloading, now]),
                Err(error) => warn!("systemd is not notified of a reload, the time cannot be read: {error}"),
            },
            Phase::Stopping => socket.send(&[NotifyState::Stopping]),
        }
    }
}

impl SystemdNotifier {
    /// Starts the tasks on the runtime of the services.
    fn spawn(&self, registry: &ServiceRegistry) -> Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let mut tasks = self.tasks.lock();
        // They end with the runtime on which they run.
        tasks.retain(|task| !task.is_finished());
        if !tasks.is_empty() {
            return Ok(());
        }
        let runtime = registry.inner.home.handle()?;
        tasks.push(runtime.spawn(report_status(Arc::downgrade(&registry.inner), socket.clone())));
        if let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) {
            tasks.push(runtime.spawn(feed_watchdog(Arc::downgrade(&registry.inner), socket.clone(), limit / 2)));
        }
        Ok(())
    }
}

impl fmt::Debug for SystemdNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemdNotifier").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Sends the status line whenever it has changed, until the registry is dropped.
async fn report_status(registry: Weak<RegistryInner>, socket: Arc<Socket>) {
    let mut sent = String::new();
    while let Some(inner) = registry.upgrade() {
        let line = current_line(&ServiceRegistry { inner });
        if line != sent {
            socket.send(&[NotifyState::Status(&line)]);
            sent = line;
        }
        tokio::time::sleep(STATUS_EVERY).await;
    }
}

/// Sends the messages that the watchdog wants, as long as this runtime answers and no shutdown hangs.
async fn feed_watchdog(registry: Weak<RegistryInner>, socket: Arc<Socket>, every: Duration) {
    loop {
        if registry.upgrade().is_none_or(|registry| registry.overdue_shutdown().is_none()) {
            socket.send(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(every).await;
    }
}

/// Describes what the registry does now.
fn current_line(registry: &ServiceRegistry) -> String {
    let (session, health) = (registry.session(), registry.health());
    if !session.is_open() {
        let running: Vec<&str> = health
            .services
            .iter()
            .filter(|service| service.running)
            .map(|service| service.service_id.as_str())
            .collect();
        let (left, all) = (running.len(), humanize::services(health.services.len()));
        return format!(
            "stopping, {left} of {all} still running{}",
            if left == 0 { String::new() } else { named(&running) }
        );
    }
    if session.is_started() {
        status_line(&health)
    } else {
        format!("starting {}", humanize::services(health.services.len()))
    }
}

/// The first of these names, after a colon.
fn named<T: AsRef<str>>(names: &[T]) -> String {
    let first: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    format!(": {}{}", first.join(", "), if names.len() > NAMED { ", …" } else { "" })
}

/// Returns the services in numbers, and the worst ones by name.
fn status_line(health: &RegistryHealth) -> String {
    let services = &health.services;
    let mut line = humanize::services(services.len());
    let mut separator = ": ";
    for status in HealthStatus::ALL {
        let count = services.iter().filter(|service| service.status == status).count();
        if count > 0 {
            line += &format!("{separator}{count} {status}");
            separator = ", ";
        }
    }
    let mut worst: Vec<&ServiceHealth> =
        services.iter().filter(|service| service.status != HealthStatus::Healthy).collect();
    worst.sort_by_key(|service| std::cmp::Reverse(service.status));
    if worst.is_empty() { line } else { line + &named(&worst.into_iter().map(in_words).collect::<Vec<_>>()) }
}

/// The id of a service and its state, if the state says what is wrong.
fn in_words(service: &ServiceHealth) -> String {
    match service.state {
        ServiceState::Running => service.service_id.clone(),
        state => format!("{} {}", service.service_id, state.in_words()),
    }
}

/// The socket of systemd. `sd_notify::notify` cannot send to an abstract address (`@…`), which containers use.
#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// A failure has been logged.
    has_failed: AtomicBool,
}

impl Socket {
    fn open(address: &OsString) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { socket, address, has_failed: AtomicBool::new(false) })
    }

    /// Sends these states in one message. The first failure is logged.
    fn send(&self, states: &[NotifyState<'_>]) {
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address)
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            warn!("systemd was not notified ({}): {error}", message.trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(services: &[(&str, &str, &str)]) -> String {
        let services = services.iter().map(|(id, state, status)| {
            serde_json::from_value(serde_json::json!({
                "service_id": id, "state": state, "status": status, "reason": null, "running": true, "paused": false, "failures": 0,
                "max_failures": 3, "last_run": null, "last_success": null, "next_run": null, "last_run_duration_ms": null,
                "last_error": null, "total_processed": 0, "total_failed": 0, "error_count": 0, "runs": 0, "restarts": 0,
                "metrics": {},
            }))
        });
        status_line(&RegistryHealth::new(services.map(std::result::Result::unwrap).collect()))
    }

    #[test]
    fn the_status_line_counts_the_services_and_names_the_worst() {
        assert_eq!(line(&[]), "0 services");
        assert_eq!(line(&[("feed", "running", "healthy")]), "1 service: 1 healthy");
        let some = [
            ("feed", "running", "degraded"),
            ("email_sender", "backing_off", "unhealthy"),
            ("fine", "running", "healthy"),
        ];
        assert_eq!(line(&some), "3 services: 1 healthy, 1 degraded, 1 unhealthy: email_sender backing off, feed");
        let many = ["a", "b", "c", "d"].map(|id| (id, "failed", "unhealthy"));
        assert_eq!(line(&many), "4 services: 4 unhealthy: a failed, b failed, c failed, …");
    }

    #[test]
    fn a_socket_that_cannot_be_used_is_none() {
        let of = |value: &str| SystemdNotifier::new(&[("NOTIFY_SOCKET".into(), value.into())]).socket.is_some();
        assert!(of("/run/systemd/notify") && of("@notify"));
        assert!(!of("") && !of(&"x".repeat(300)));
    }
}
