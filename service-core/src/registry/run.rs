//! One service without a registry to look after: [`run`] until the process is told to end, [`run_until`] a token is
//! cancelled.
//!
//! The tricky thing is that the start is part of the wait: a process that is told to end while `configure` hangs drains
//! just as one whose service has been up for a week.

use std::future::Future;
use std::pin::pin;

use tokio_util::sync::CancellationToken;

use crate::registry::builder::RegistryBuilder;
use crate::registry::handle::ServiceHandle;
use crate::registry::service_registry::ServiceRegistry;
use crate::registry::signals;
use crate::runtime::lifecycle::Service;
use crate::runtime::requests::StopRequest;
use crate::runtime::status::Status;
use crate::service::error::{Error, Result};

/// Runs one service until it stops by itself, has failed, or the process is told to end by SIGINT (Ctrl-C) or SIGTERM.
/// Then it is drained and cleaned up, within 25 s; a second signal ends the process at once, with exit status 128 + its
/// number.
///
/// It is configured as in a registry, by its attribute, `services.toml` and the environment, and is registered under the
/// id of its attribute. The instance is ready-made: a panic ends it as failed. Where the configuration disables the
/// service there is nothing to run.
///
/// Dropping the future tells the service to stop, and does not wait for it.
///
/// # Errors
/// The service has failed; or its options are wrong, it depends on other services, or signals cannot be listened to.
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
        // A signal begins a shutdown, which ends the service; or the service ends by itself.
        signals::first(single.over(), single.services.stopping()).await;
        let result = single.services.shutdown().await;
        signals::exit_in_spite_of_blocking_code(&single.services, i32::from(result.is_err()));
        result
    }
}

/// Runs one service as [`run`] does, but until `token` is cancelled; signals are left to the caller. For a service that is
/// one task among others of the application's own.
///
/// # Errors
/// The service has failed, also before the token was cancelled; or its options are wrong, or it depends on other services.
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
    let builder = ServiceRegistry::builder().without_discovered().service(S::ID, instance);
    async move {
        let single = Single::build(builder, S::ID).await?;
        signals::first(token.cancelled(), single.over()).await;
        single.services.shutdown().await
    }
}

/// The service and its registry. Dropped, it tells the service to stop.
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
    async fn over(&self) {
        let service = &self.handle.service.inner;
        if !service.lock().requests.options.enabled {
            crate::log::warn!(service.id = %service.id, "its configuration says `enabled = false`: there is nothing to run");
            return;
        }
        let mut start = pin!(self.services.start_announced());
        let mut started = false;
        let ended = |status: &Status| status.incarnation > 0 && !status.is_running();
        let mut ended = pin!(service.until(|state| ended(&state.status).then_some(())));
        std::future::poll_fn(|task| {
            // The start logs what goes wrong; what comes of it is seen by the service's state.
            started = started || start.as_mut().poll(task).is_ready();
            ended.as_mut().poll(task)
        })
        .await
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        self.handle.service.inner.request_stop(StopRequest::default());
    }
}
