//! One service without a registry of the user's: [`run`] until a signal arrives, [`run_until`] a token is cancelled.
//!
//! The tricky part is that the start is part of the wait: a signal shuts the service down even while its `configure`
//! hangs.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use tokio_util::sync::CancellationToken;

use crate::race::first;
use crate::registry::builder::RegistryBuilder;
use crate::registry::handle::ServiceHandle;
use crate::registry::service_registry::ServiceRegistry;
use crate::registry::signals;
use crate::runtime::lifecycle::Service;
use crate::runtime::requests::StopRequest;
use crate::runtime::status::Status;
use crate::service::error::{Error, Result};

/// Runs one service until it stops itself, is `Failed`, or SIGINT (Ctrl-C) or SIGTERM arrives. Then drains it and
/// cleans it up, within 25 s. A second signal ends the process at once, with exit status 128 + the number of the
/// signal.
///
/// The service is configured as in a registry (attribute, `services.toml`, environment), under the id of its attribute.
/// The instance is ready-made: when it panics, the service is `Failed`. If the configuration disables the service,
/// returns at once.
///
/// The service has no database, no shared state and no probes: `Context::db` and
/// [`Context::state`](crate::Context::state) return an error. Use [`ServiceRegistry::builder`] for these. If blocking
/// code of the service has not returned three seconds after the shutdown, the process is ended, with status 0, or 1 if
/// the result is an error.
///
/// Dropping the future requests a stop of the service, and does not wait for its end.
///
/// # Errors
/// The service is `Failed`; or its options are wrong, it depends on other services, the address of the admin interface
/// is in use, or the signal handlers cannot be installed.
///
/// ```no_run
/// use service_core::prelude::*;
///
/// struct Heartbeat { beats: u64 }
///
/// #[service(interval = 30, discover = false)]
/// impl Heartbeat {
///     async fn update(&mut self) {
///         self.beats += 1;
///     }
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<()> {
///     service_core::run(Heartbeat { beats: 0 }).await
/// }
/// ```
#[track_caller]
pub fn run<S: Service>(instance: S) -> impl Future<Output = Result<()>> + Send + use<S> {
    let builder = ServiceRegistry::builder().without_discovered().service(S::ID, instance);
    async move {
        let single = Single::build(builder, S::ID).await?;
        signals::listen(&single.services)?;
        // Either a signal begins a shutdown, or the service ends first.
        let session = single.services.session();
        let started = first(single.over(), single.services.stopping()).await;
        let result = single.services.shutdown().await.and(started.unwrap_or(Ok(())));
        signals::exit_in_spite_of_blocking_code(&single.services, session, i32::from(result.is_err()));
        result
    }
}

/// Runs one service as [`run`] does, but without signal handlers: until it stops itself, is `Failed`, or `token` is
/// cancelled. Then drains it and cleans it up, within 25 s. For a program that manages its tasks itself and runs a
/// service as one of them. The end of the service is not the end of the program, so systemd is not notified, and the
/// process is not ended if blocking code does not return.
///
/// Dropping the future requests a stop of the service, and does not wait for its end.
///
/// # Errors
/// The service is `Failed`; or its options are wrong, it depends on other services, or the address of the admin
/// interface is in use.
///
/// ```
/// use service_core::prelude::*;
/// use tokio_util::sync::CancellationToken;
///
/// #[derive(Default)]
/// struct Heartbeat;
///
/// #[service(interval = 30)]
/// impl Heartbeat {
///     async fn update(&mut self) {}
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let token = CancellationToken::new();
/// let task = tokio::spawn(service_core::run_until(Heartbeat, token.clone()));
/// // …
/// token.cancel();
/// task.await?
/// # }
/// ```
#[track_caller]
pub fn run_until<S: Service>(
    instance: S,
    token: CancellationToken,
) -> impl Future<Output = Result<()>> + Send + use<S> {
    let builder = ServiceRegistry::builder().without_discovered().without_systemd().service(S::ID, instance);
    async move {
        let single = Single::build(builder, S::ID).await?;
        let mut started = Ok(());
        first(token.cancelled(), async { started = single.over().await }).await;
        single.services.shutdown().await.and(started)
    }
}

/// The service and its registry. Dropping it requests a stop of the service, and begins a shutdown.
struct Single {
    services: ServiceRegistry,
    handle: ServiceHandle,
}

impl Single {
    async fn build(builder: RegistryBuilder, id: &str) -> Result<Self> {
        let services = builder.build().await?;
        let handle = services.get(id).ok_or_else(|| Error::msg(format!("service `{id}` was not registered")))?;
        Ok(Self { services, handle })
    }

    /// Starts the service, and waits until it has ended.
    ///
    /// # Errors
    /// The start has failed before the service began, for example because the address of the admin interface is in use.
    async fn over(&self) -> Result<()> {
        let service = &self.handle.service.inner;
        if !service.lock().requests.options.enabled {
            crate::log::warn!(service.id = %service.id, "not started: its configuration has `enabled = false`");
            return Ok(());
        }
        let mut start = pin!(self.services.start_announced());
        let mut started = false;
        let ended = |status: &Status| status.incarnation > 0 && !status.is_running();
        let mut ended = pin!(service.until(|state| ended(&state.status).then_some(())));
        std::future::poll_fn(|task| {
            if !started && let Poll::Ready(result) = start.as_mut().poll(task) {
                started = true;
                // Once the service has begun, its state shows the result.
                if let Err(error) = result
                    && service.lock().status.incarnation == 0
                {
                    return Poll::Ready(Err(error));
                }
            }
            ended.as_mut().poll(task).map(Ok)
        })
        .await
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        self.handle.service.inner.request_stop(StopRequest::default());
        // The admin interface would keep its port.
        self.services.begin_shutdown();
    }
}
