//! Operates the services of a program over HTTP: health for probes, commands, overrides, metrics, events and a
//! dashboard.
//!
//! [`RegistryBuilder::admin`] serves all of it on an address of its own; [`router`] mounts it in the application's own
//! axum server. `docs/operations.md` shows how to use it.
//!
//! | path | answer |
//! |---|---|
//! | `GET /` | the dashboard |
//! | `GET /health/live` | 503 if the runtime of the services does not answer within 5 s, or a shutdown takes too long |
//! | `GET /health/ready` | 503 until the start has returned, during a shutdown, and while a critical service is unhealthy |
//! | `GET /services`, `/services/{id}` | the [`ServiceHealth`](crate::ServiceHealth) of all services, of one |
//! | `GET /services/{id}/runs`, `/explain`, `/overrides` | the last 50 runs; the [`Explanation`](crate::Explanation); the overrides |
//! | `POST /services/{id}/{start,stop,pause,resume,run,wake,reset}` | carries out the command; optional JSON body `{"by", "why"}`; the answer to `run` has its result in `report` |
//! | `PUT`, `DELETE /services/{id}/overrides/{key}` | sets and removes an operator override: `{"value", "by", "why", "until"}`; with the id `defaults`, or the name of a type that is no service's id, `paused` of several services |
//! | `GET /work`, `/work/{table}/failed`, `POST /work/{table}/retry` | tables of work, failed rows, and their retry |
//! | `GET /replicas` | all replicas, if services have `scope = "cluster"`, with the health of their services |
//! | `GET /audit` | who changed what, when and why, the newest first |
//! | `GET /events` | the [`ServiceEvent`](crate::ServiceEvent)s, as server-sent events |
//! | `GET /metrics` | Prometheus text |
//! | `GET /openapi.json` | the OpenAPI 3.1 description |
//!
//! An error is a JSON object with the field `error`.
//!
//! [`alert_rules`] and [`grafana_dashboard`] return alerting rules for Prometheus and a dashboard for Grafana, without
//! a server.
//!
//! # Who may do what
//!
//! The token is the environment variable `ADMIN_TOKEN`, else that of [`RegistryBuilder::admin_token`]. A variable that
//! is not valid UTF-8 is an error at start.
//!
//! | served | reading | changing |
//! |---|---|---|
//! | on loopback, without a token | open | open |
//! | on loopback, with a token | open | needs the token |
//! | on another address (without a token: an error at start) | needs the token, except `/health/*` | needs the token |
//! | by [`router`] | needs the token, except `/health/*` | needs the token |
//!
//! Send the token as `Authorization: Bearer …`, or log in at `/login`: a cookie then holds it. Without the token,
//! `/health/*` shows states without reasons. Requests from other sites (`Origin`, `Sec-Fetch-Site`) and, on loopback,
//! for other hosts (`Host`) get 403; a body over 64 KiB gets 413.

mod access;
mod alert_rules;
mod alerts;
mod api;
mod app;
mod commands;
mod error;
mod events;
mod grafana;
mod guard;
mod health;
mod input;
mod metrics;
mod openapi;
mod overrides;
mod pages;
mod promql;
mod replicas;
mod routes;
mod runtime_thread;
mod samples;
mod server;
mod settings;
mod work;

use std::net::SocketAddr;

use axum::Router;

use crate::admin::access::{Access, Exposure};
use crate::admin::app::App;
use crate::admin::settings::{Admin, AdminSettings};
use crate::registry::builder::RegistryBuilder;
use crate::registry::service_registry::ServiceRegistry;

pub use crate::admin::alert_rules::{AlertRules, alert_rules};
pub use crate::admin::alerts::{AlertKind, ServiceAlert};
pub use crate::admin::grafana::grafana_dashboard;

/// Returns the whole of the admin interface, to be mounted in an application's own axum server. All links are relative.
/// With `nest_service` the dashboard is at `/admin` and at `/admin/`; with `nest` it is not at `/admin/`.
///
/// It always needs the token, except for `/health/*`; without a token, all else is refused. `ADMIN_ADDR` and
/// [`RegistryBuilder::admin`] are not needed for it.
///
/// ```no_run
/// use axum::Router;
/// use service_core::prelude::*;
///
/// # async fn example() -> Result<()> {
/// let services = ServiceRegistry::start_all().await?;
/// let app: Router = Router::new().nest_service("/admin", service_core::admin::router(&services));
/// # let _ = app;
/// # Ok(())
/// # }
/// ```
pub fn router(services: &ServiceRegistry) -> Router {
    let admin = Admin::of(services);
    services.inner.services.keep_runs();
    routes::router(App::new(services.clone(), admin.core.clone(), Access::new(Exposure::Mounted, admin.token.clone())))
}

impl RegistryBuilder {
    /// Serves the admin interface on this address, such as `127.0.0.1:9876`; port 0 takes any free port. It answers
    /// from the start of the services until the end of their shutdown, on a thread of its own. The environment variable
    /// `ADMIN_ADDR` overrides it; without either, nothing is served.
    ///
    /// `build` fails if this is not an IP address (or `localhost`) with a port, or if it is not a loopback address and
    /// no token is set; the start fails if the port is taken.
    ///
    /// ```no_run
    /// use service_core::prelude::*;
    ///
    /// # async fn example() -> Result<()> {
    /// let services = ServiceRegistry::builder().admin("127.0.0.1:9876").start_all().await?;
    /// services.until_shutdown().await
    /// # }
    /// ```
    pub fn admin(mut self, address: impl ToString) -> Self {
        self.companion_settings.get::<AdminSettings>().address = Some(address.to_string());
        self
    }

    /// Sets the token of the admin interface. The environment variable `ADMIN_TOKEN` overrides it. Space around the
    /// token is removed, and an empty token is none. `build` fails if a header cannot contain the token.
    pub fn admin_token(mut self, token: impl Into<String>) -> Self {
        self.companion_settings.get::<AdminSettings>().token = Some(token.into());
        self
    }

    /// Adds text to `/metrics`, after the metrics of the services: what the application's own recorder renders in the
    /// Prometheus text format. `render` is called for each request, on the thread of the interface. Code that blocks
    /// delays all other requests there, those of `/health/live` too, and a shutdown waits 2 s for it.
    ///
    /// ```
    /// use service_core::ServiceRegistry;
    ///
    /// // With the crate `metrics-exporter-prometheus`: `let handle = PrometheusBuilder::new().install_recorder()?;`
    /// // and here `move || handle.render()`.
    /// let builder = ServiceRegistry::builder().admin_metrics(|| "# TYPE orders_total counter\norders_total 3\n".to_owned());
    /// # let _ = builder;
    /// ```
    pub fn admin_metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.companion_settings.get::<AdminSettings>().metrics.push(Box::new(render));
        self
    }
}

/// What the code of a program sets for its admin interface.
#[derive(Default)]
pub(crate) struct AdminInCode {
    pub(crate) address: Option<String>,
    pub(crate) token: Option<String>,
}

impl RegistryBuilder {
    pub(crate) fn admin_in_code(&mut self) -> AdminInCode {
        let settings = self.companion_settings.get::<AdminSettings>();
        AdminInCode { address: settings.address.clone(), token: settings.token.clone() }
    }

    /// Serves nothing, and uses no address.
    pub(crate) fn without_admin_server(mut self) -> Self {
        self.companion_settings.get::<AdminSettings>().is_offline = true;
        self
    }
}

impl ServiceRegistry {
    /// Returns the address on which the admin interface is served; `None` if it is not served now.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        Admin::of(self).address()
    }
}
