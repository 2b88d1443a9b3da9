//! Builds instances and runs them, on the async threads or on the blocking pool.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use crate::log::warn;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use tracing::Span;

use super::{Due, Exit, Supervisor, UnreturnedRun};
use crate::config::options::Options;
use crate::humanize;
use crate::panic::Caught;
use crate::runtime::blocking;
use crate::runtime::context::Context;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::invoker::{Cancelled, InvokeResult, Limit};
use crate::runtime::requests::Rebuild;
use crate::runtime::status::{Activity, WaitReason};
use crate::schedule::Schedule;
use crate::service::error::{Error, Result};
use crate::service::failure::FailureKind;
use crate::service::outcome::Outcome;
use crate::sync::Mutex;

impl Supervisor {
    /// Builds an instance, and handles a failure to build it. With the first instance, the schedule begins.
    pub(super) async fn build(&mut self) -> Option<Exit> {
        let service = self.cx.service.clone();
        self.woken |= std::mem::take(&mut service.lock().requests.woken);
        let exit = self.build_instance().await;
        // The run for which the instance was built serves the wake-up, unless it was given up.
        service.lock().requests.woken |= std::mem::take(&mut self.woken);
        exit
    }

    async fn build_instance(&mut self) -> Option<Exit> {
        let first = !self.was_built || self.is_taken_over;
        if first
            && !self.once
            && self.options.schedule.caught_up().is_some()
            && let Err(exit) = Box::pin(self.read_last_fire()).await
        {
            return exit;
        }
        let began = Instant::now();
        let service = self.cx.service.clone();
        let mut building = match self.invoker.call(None, || self.registered.factory.build(self.cx.clone())) {
            Caught::Returned(building) => building,
            Caught::Panicked(message) => {
                return Box::pin(self.fail_to_build(FailureKind::Panic, panicked(&message), began)).await;
            }
        };
        service.lock().status.configuring_since = Some(began);
        let result = self.invoker.invoke(building.as_mut(), Limit::Stop).await;
        service.lock().status.configuring_since = None;
        self.invoker.discard("the future of `configure`", building);
        match result {
            InvokeResult::Done(Ok(instance)) => {
                self.instance = Some(instance);
                self.was_built = true;
                service.emit(|| ServiceEventKind::InstanceBuilt);
                if first {
                    self.mark_running();
                }
                None
            }
            InvokeResult::Done(Err(error)) => Box::pin(self.fail_to_build(FailureKind::Error, error, began)).await,
            InvokeResult::Panicked(message) => {
                Box::pin(self.fail_to_build(FailureKind::Panic, panicked(&message), began)).await
            }
            InvokeResult::Cancelled(Cancelled::LeaseLost) => Box::pin(self.lose_lease()).await,
            InvokeResult::Cancelled(_) => {
                warn!(service.id = %service.id, "`configure` did not end in time for the stop and was aborted");
                service.emit(|| ServiceEventKind::Aborted);
                Some(Exit::Stopped)
            }
        }
    }

    pub(super) async fn fail_to_build(&mut self, kind: FailureKind, error: Error, began: Instant) -> Option<Exit> {
        // `configure` may have made some before it failed.
        self.end_belongings().await;
        if self.has_lost_lease() {
            self.invoker.discard("an error", error);
            return Box::pin(self.lose_lease()).await;
        }
        self.fail(kind, error, began, None).await
    }

    /// Runs `update` once, on the one replica that runs the service: records the point of the schedule first. The end
    /// is recorded later, so that the time which that takes does not count as time of the run.
    pub(super) async fn run_recorded(&mut self, timer: Pin<&mut Sleep>) -> InvokeResult<Result<Outcome>> {
        self.record_point(false).await;
        // `timeout` counts from here: the database may have taken its time.
        self.cx.service.lock().status.stats.last_started = Some(Instant::now());
        self.run(timer).await
    }

    /// Runs `update` once.
    pub(super) async fn run(&mut self, timer: Pin<&mut Sleep>) -> InvokeResult<Result<Outcome>> {
        self.cx.service.emit(|| ServiceEventKind::RunStarted { run: self.cx.run });
        let is_blocking = self.instance.as_ref().is_some_and(|instance| instance.__shape().blocking_update);
        let result = if is_blocking { Box::pin(self.run_blocking()).await } else { self.run_async(timer).await };
        self.cx.in_run = false;
        self.turn.end();
        self.end_stop_hooks(&result);
        result
    }

    /// The closures that the run registered by `cx.on_stop`: called if the end of the run was requested or it was
    /// cancelled, else dropped.
    fn end_stop_hooks<T>(&self, result: &InvokeResult<T>) {
        let (hooks, end_requested) = {
            let mut state = self.cx.service.lock();
            let cancelled = matches!(result, InvokeResult::Cancelled(_));
            if cancelled {
                state.status.cancelled_runs.add(self.cx.run);
                state.notify_waiters();
            }
            if state.requests.on_stop.is_empty() {
                return;
            }
            let end_requested = cancelled || state.requests.stop.is_some() || state.requests.interrupt.is_some();
            (state.requests.take_stop_hooks(false), end_requested)
        };
        match end_requested {
            true => self.invoker.call_stop_hooks(hooks),
            false => self.invoker.discard("a closure of `on_stop`", hooks),
        }
    }

    fn run_async<'a>(
        &'a mut self,
        mut timer: Pin<&'a mut Sleep>,
    ) -> impl Future<Output = InvokeResult<Result<Outcome>>> + 'a {
        let Some(instance) = &mut self.instance else { unreachable!("a run begins with an instance") };
        let (invoker, options, span) = (&self.invoker, &*self.options, run_span(&self.cx));
        let mut update = Some(instance.__update(&self.cx));
        poll_fn(move |task| {
            let result = ready!(invoker.poll(task, timer.as_mut(), span.as_deref(), run_limit(options), |task| {
                let Some(running) = &mut update else { unreachable!("a run is not polled after its end") };
                let polled = running.as_mut().poll(task);
                if polled.is_ready() {
                    // Dropping the future runs user code; a panic there is a failure of the run.
                    update = None;
                }
                polled
            }));
            Poll::Ready(match update.take().map(|cancelled| invoker.call(span.as_deref(), || drop(cancelled))) {
                Some(Caught::Panicked(message)) => InvokeResult::Panicked(message),
                _ => result,
            })
        })
    }

    async fn run_blocking(&mut self) -> InvokeResult<Result<Outcome>> {
        // Shared, so that the instance is still there if no thread starts.
        let instance = Arc::new(Mutex::new(self.instance.take()));
        let handed_over = instance.clone();
        let take = move || handed_over.lock().take();
        let (cx, invoker, span) = (self.cx.clone(), self.invoker.clone(), run_span(&self.cx));
        cx.service.lock().status.activity = Activity::InBlockingRun;
        let (sender, mut run) = oneshot::channel();
        let work = move || {
            let Some(mut instance) = take() else { unreachable!("a run begins with an instance") };
            // All threads of the pool may have been in use for longer than the run may take.
            let caught = match cx.is_cancelled() {
                true => Caught::Returned(Ok(Outcome::idle())),
                false => invoker.call(span.as_deref(), || instance.__update_blocking(&cx)),
            };
            if let Err((instance, result)) = sender.send((instance, caught)) {
                invoker.discard("the result of a blocking run", result);
                invoker.discard("the instance", instance);
            }
        };
        let (service, own_thread) = (self.cx.service.clone(), self.options.long_run().is_some());
        if let Err(error) = blocking::spawn(&service.shared, &service.id, own_thread, work) {
            self.instance = instance.lock().take();
            return InvokeResult::Done(Err(Error::new(error)));
        }
        match self.invoker.invoke(pin!(&mut run), run_limit(&self.options)).await {
            InvokeResult::Done(Ok((instance, caught))) => {
                self.instance = Some(instance);
                match caught {
                    Caught::Returned(result) => InvokeResult::Done(result),
                    Caught::Panicked(message) => InvokeResult::Panicked(message),
                }
            }
            InvokeResult::Done(Err(_)) => InvokeResult::Panicked("the runtime shuts down".to_owned()),
            InvokeResult::Panicked(message) => InvokeResult::Panicked(message),
            InvokeResult::Cancelled(cancelled) => {
                self.cx.service.lock().status.wait_reason = Some(Box::new(WaitReason::BlockingRun(None)));
                self.unreturned = Some(UnreturnedRun { run, returned: None, discard: false });
                InvokeResult::Cancelled(cancelled)
            }
        }
    }

    /// Takes the instance back from a blocking run that had timed out and has returned now.
    pub(super) async fn take_back(&mut self) {
        let Some(UnreturnedRun { returned, discard, .. }) = self.unreturned.take() else { return };
        self.cx.service.update(|state| {
            let reason = &mut state.status.wait_reason;
            if let Some(WaitReason::BlockingRun(then)) = reason.as_deref_mut() {
                *reason = then.take();
            }
        });
        // Without it, the runtime shuts down.
        let Some((instance, caught)) = returned.map(|returned| *returned) else { return };
        self.delay_from(Instant::now());
        self.instance = Some(instance);
        let panicked = match caught {
            Caught::Returned(result) => {
                self.invoker.discard("the result of a run that had timed out", result);
                false
            }
            Caught::Panicked(message) => {
                let id = &self.cx.service.id;
                warn!(service.id = %id, "a blocking run panicked after it had timed out: {message}");
                true
            }
        };
        if discard || panicked {
            self.end_instance().await;
        }
        if self.has_lost_lease() {
            // The next lease begins with a fresh instance anyway.
            self.cx.service.lock().requests.rebuild = None;
            return;
        }
        // A delay counts from here for the next holder of the lease, too.
        self.record_end().await;
        // The run itself may have requested it after it had timed out.
        let rebuild = self.cx.service.lock().requests.rebuild;
        if rebuild == Some(Rebuild::Reset) {
            self.rebuild().await;
        }
    }

    /// Blocking code has returned after its run had timed out. If the next run follows after a delay, the delay begins
    /// now.
    fn delay_from(&mut self, returned: Instant) {
        self.cx.service.lock().status.stats.last_returned = Some(returned);
        if self.due == Due::Regular && matches!(self.options.schedule, Schedule::Delay(_)) {
            self.plan_regular(returned, returned);
        }
    }
}

/// What cancels a run.
fn run_limit(options: &Options) -> Limit {
    if options.long_run().is_some() { Limit::LongRun } else { Limit::Run }
}

/// The error of a run that was cancelled: why, and how long it took.
pub(super) fn cancelled_error(cancelled: Cancelled, options: &Options, ran: Duration) -> Error {
    match cancelled {
        Cancelled::Idle => {
            let limit = options.long_run().and_then(|long| long.idle_timeout).unwrap_or_default();
            Error::msg(format!("the run reported no progress for its `idle_timeout` of {}", humanize::short(limit)))
        }
        Cancelled::TimedOut => {
            let timeout = humanize::short(options.timeout.unwrap_or_default());
            Error::msg(format!("the run took longer than its `timeout` of {timeout}"))
        }
        Cancelled::LeaseLost => Error::msg("the lease of the service was lost"),
        Cancelled::Aborted | Cancelled::Interrupted => {
            let ran = humanize::short(ran);
            Error::msg(format!("the run did not end in time for the stop and was aborted after {ran}"))
        }
    }
}

fn panicked(message: &str) -> Error {
    Error::msg(format!("building the instance panicked: {message}"))
}

/// Returns the span of a run, if a subscriber wants it.
fn run_span(cx: &Context) -> Option<Box<Span>> {
    let labels = cx.service.labels.text().map(tracing::field::display);
    let span =
        tracing::info_span!("service_run", service.id = %cx.service.id, service.labels = labels, service.run = cx.run);
    (!span.is_disabled()).then(|| Box::new(span))
}
