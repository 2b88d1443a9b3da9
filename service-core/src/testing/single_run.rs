//! Single runs of a service, without its loop: `update` of an instance that the test holds, and `update_of` a type.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Instant;

use super::clock_gate::moving_beside;
use super::stall::{Watched, watch};
use super::{TestBed, free_id};
use crate::panic::{self, Caught};
use crate::runtime::blocking;
use crate::runtime::context::Context;
use crate::runtime::lifecycle::Service;
use crate::runtime::registration::{RegisteredService, Registration};
use crate::runtime::services::IdConflict;
use crate::service::error::Error;
use crate::service::outcome::{Outcome, RunReport};

impl TestBed {
    /// Runs `update` of an instance once, without a loop: no schedule, no retry, no timeout, and neither `restart` nor
    /// `scope` matters, and what the service `needs` is not checked. A `run` continues until it returns by itself. The
    /// service is not registered: `services().get` does not find it. Neither `configure` nor `on_failure` nor
    /// `cleanup` is called. An error or a panic of `update` is the error of the report.
    ///
    /// In blocking code, `cx.blocking_sleep` returns at once. That code must not wait for other tasks of this runtime,
    /// as a database with `Handle::block_on` does: `service` is borrowed, so the runtime stands still meanwhile. Use
    /// [`update_of`](Self::update_of) or [`start`](Self::start) for such a service.
    ///
    /// # Panics
    /// The bed or the service is configured wrongly; or the database does not answer when the rows that the run has
    /// left open are settled; or this or another service keeps virtual time from moving, as in
    /// [`run_for`](Self::run_for).
    pub async fn update<S: Service>(&self, service: &mut S) -> RunReport {
        let services = self.services().await;
        let inner = &services.inner;
        let registration = Registration::of_instance::<S>(&free_id::<S>(&services));
        let registered = RegisteredService::new(registration, &inner.services.shared, &inner.services.sources())
            .unwrap_or_else(|error| panic!("the service cannot be configured: {error:?}"));
        inner.extension.registered(&inner.services, &registered.inner);
        let (incarnation, run) = registered.inner.update(|state| {
            state.status.begin();
            (state.status.incarnation, state.status.begin_run(Instant::now()))
        });
        let cx = Context { in_run: true, ..Context::new(registered.inner, inner.clone(), incarnation, run) };
        let service_inner = cx.service.clone();
        let started = Instant::now();
        let run = async {
            let result = if service.__shape().blocking_update {
                update_blocking(service, &cx)
            } else {
                let mut update = service.__update(&cx);
                let mut update = panic::catch_future(update.as_mut());
                let counted = poll_fn(|task| {
                    let polled = Pin::new(&mut update).poll(task);
                    if let Some(polls) = &cx.service.shared.polls {
                        polls.count_one(&cx.service.id);
                    }
                    polled
                });
                flatten(counted.await)
            };
            // Rows that the run left open are settled, as after any run.
            inner
                .extension
                .settle(&cx.service, result.as_ref().err())
                .await
                .unwrap_or_else(|error| panic!("the run cannot be settled: {error:?}"));
            result
        };
        let watched = Watched::all(&self.gate).and(service_inner.clone());
        let result = match self.held_clock() {
            Some(clock) => watch(watched, clock.moving(&inner.services, &*inner.extension, run)).await,
            None => watch(watched, moving_beside(self.gate.clone(), run)).await,
        };
        let duration = started.elapsed();
        let (outcome, error) = match result {
            Ok(outcome) => (outcome, None),
            Err(error) => (Outcome::idle(), Some(error)),
        };
        let outcome = service_inner.update(|state| {
            state.status.end_as_requested(Instant::now());
            state.take_progress(outcome)
        });
        RunReport { outcome, error, duration }
    }

    /// Builds a service by its `configure`, or by `Default`, runs it once and cleans it up, as
    /// [`run_once`](crate::ServiceRegistry::run_once) does: without schedule, retries and dependencies, but with
    /// `timeout`. It is one service, whatever its option `instances` is. If `configure` fails, its error is in the
    /// report.
    ///
    /// ```
    /// use service_core::prelude::*;
    ///
    /// struct EmailSender {
    ///     batch_size: u64,
    /// }
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Settings {
    ///     batch_size: u64,
    /// }
    ///
    /// #[service]
    /// impl EmailSender {
    ///     fn configure(_cx: &Context, settings: Settings) -> Self {
    ///         Self { batch_size: settings.batch_size }
    ///     }
    ///
    ///     async fn update(&mut self) -> Outcome {
    ///         Outcome::processed(self.batch_size)
    ///     }
    /// }
    ///
    /// #[tokio::main(flavor = "current_thread")]
    /// async fn main() {
    ///     tokio::time::pause();
    ///     let bed = TestBed::new().set("batch_size", 10);
    ///     assert_eq!(bed.update_of::<EmailSender>().await.processed(), 10);
    /// }
    /// ```
    ///
    /// # Panics
    /// The service cannot be built or configured, or it has `run`.
    pub async fn update_of<S: Service>(&self) -> RunReport {
        let services = self.services().await;
        let inner = &services.inner.services;
        let registered = Registration::of::<S>(&free_id::<S>(&services)).and_then(|registration| {
            let service = Arc::new(RegisteredService::new(registration, &inner.shared, &inner.sources())?);
            // The services that it depends on need not be there.
            inner.insert(
                service.clone(),
                |_others| Ok(()),
                |conflict| match conflict {
                    IdConflict::Taken(_) => Err(Error::msg(format!("`{}` is taken", service.id()))),
                    // It runs once, beside those of the same name.
                    IdConflict::Group(_) | IdConflict::TypeName(..) => Ok(()),
                },
            )?;
            Ok(service)
        });
        let service = registered.unwrap_or_else(|error| panic!("the service cannot be configured: {error:?}"));
        services.inner.extension.registered(inner, &service.inner);
        let report = services.run_service_once(&service).await;
        services.waiting(inner.unregister(&service)).await;
        report.unwrap_or_else(|error| panic!("the service cannot be run: {error:?}"))
    }
}

/// Runs blocking code outside the async threads, as in production, where it may block on the runtime.
fn update_blocking<S: Service>(service: &mut S, cx: &Context) -> crate::Result<Outcome> {
    let runtime = tokio::runtime::Handle::current();
    let ran = std::thread::scope(|scope| {
        let run = || {
            let _inside = runtime.enter();
            blocking::freeze_time();
            panic::catch(|| service.__update_blocking(cx))
        };
        scope.spawn(run).join()
    });
    ran.map_or_else(|_| Err(Error::msg("panicked")), flatten)
}

fn flatten(caught: Caught<crate::Result<Outcome>>) -> crate::Result<Outcome> {
    match caught {
        Caught::Returned(result) => result,
        Caught::Panicked(message) => Err(Error::msg(format!("panicked: {message}"))),
    }
}
