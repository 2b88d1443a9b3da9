//! The operator: makes requests to any service at any moment, useful or not.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use service_core::prelude::*;

use crate::actor::Actor;
use crate::blocker::Blocker;
use crate::cast::{FIRST_INSTANCE, HOUR, MINUTE, Origin, SECOND, SERVICES, Schedule, TOPICS, pick};
use crate::member::Member;
use crate::streamer::Streamer;
use crate::trace::{Answer, Ask, Ms, What, millis};
use crate::world::World;

/// Makes a request, and reports its answer.
pub(crate) async fn perform(world: &Arc<World>, service: usize, ask: Ask, within: bool) {
    if ask.starts() && world.is_quiet() {
        return;
    }
    let registry = world.registry();
    let id = &world.cast[service].id;
    let Some(handle) = registry.get(id) else {
        if ask == Ask::Register {
            let n = world.asks(service, ask, within);
            let answer = register(world, service).await;
            world.answers(service, n, answer.into());
        } else if ask.is_for_all() {
            perform_for_all(world, service, ask).await;
        }
        return;
    };
    if ask.is_for_all() {
        return perform_for_all(world, service, ask).await;
    }
    if let Ask::SetInterval(_) | Ask::SetRetryDelay(_) = ask {
        let Some(cx) = world.remembered(service) else { return };
        let fixed = matches!(world.cast[service].schedule, Schedule::OnDemand | Schedule::Long);
        if matches!(ask, Ask::SetInterval(_)) && (fixed || !world.may_change_schedule(service)) {
            return;
        }
        let n = world.asks(service, ask, within);
        match ask {
            Ask::SetInterval(time) => cx.set_interval(Duration::from_millis(time)),
            Ask::SetRetryDelay(time) => cx.set_retry_delay(Duration::from_millis(time)),
            _ => {}
        }
        return world.answers(service, n, Answer::Done);
    }
    let n = world.asks(service, ask, within);
    let given_up = GaveUp { world, service, n: Some(n) };
    let answer = match ask {
        Ask::Start => handle.start().await.into(),
        Ask::Stop => handle.stop().await.into(),
        Ask::Pause => handle.pause().await.into(),
        Ask::Resume => handle.resume().await.into(),
        Ask::Reset => handle.reset().await.into(),
        Ask::Wake => {
            handle.wake();
            Answer::Done
        }
        Ask::Unregister => registry.unregister(id).await.into(),
        Ask::Register => register(world, service).await.into(),
        Ask::RunNow => match handle.run_now().await {
            Ok(report) => Answer::Ran {
                error: report.error().map(|error| format!("{error:#}")),
                processed: report.processed(),
                failed: report.failed(),
                again: report.again(),
                took: millis(report.duration()),
            },
            Err(error) => Answer::Refused(error.to_string()),
        },
        other => unreachable!("{other:?} is not a request to one service"),
    };
    given_up.not();
    world.answers(service, n, answer);
}

async fn perform_for_all(world: &Arc<World>, service: usize, ask: Ask) {
    if ask.starts() && world.is_quiet() {
        return;
    }
    let registry = world.registry();
    let n = world.asks(service, ask, false);
    let answer = match ask {
        Ask::StartAll => registry.start().await,
        Ask::StopAll => {
            registry.stop_all().await;
            Ok(())
        }
        Ask::PauseAll => {
            registry.pause_all().await;
            Ok(())
        }
        Ask::ResumeAll => {
            registry.resume_all().await;
            Ok(())
        }
        Ask::Shutdown => registry.shutdown().await,
        Ask::Notify(topic) => {
            registry.notify(TOPICS[topic]);
            Ok(())
        }
        other => unreachable!("{other:?} is not a request to all services"),
    };
    world.answers(service, n, answer.into());
}

async fn register(world: &Arc<World>, service: usize) -> Result<()> {
    let (registry, part) = (world.registry(), &world.cast[service]);
    match (part.blocking, part.long) {
        _ if service >= FIRST_INSTANCE => register_as(&registry, world, service, Member).await,
        (_, Some(_)) => register_as(&registry, world, service, Streamer).await,
        (true, None) => register_as(&registry, world, service, Blocker).await,
        (false, None) => register_as(&registry, world, service, |actor| actor).await,
    }
}

async fn register_as<S: Service>(
    registry: &ServiceRegistry,
    world: &Arc<World>,
    service: usize,
    wrap: impl Fn(Actor) -> S + Send + Sync + 'static,
) -> Result<()> {
    let part = &world.cast[service];
    let registered = match part.origin {
        Origin::Configure => registry.register_of::<S>(&part.id),
        Origin::ReadyMade => registry.register(&part.id, wrap(Actor::new(world, service))),
        Origin::Closure => {
            let world = world.clone();
            registry.register_fn(&part.id, move || wrap(Actor::by_closure(&world, service)))
        }
    };
    registered.await.map(|_| ())
}

impl From<Result<()>> for Answer {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(error) => Self::Refused(format!("{error:#}")),
        }
    }
}

/// Reports when the future that waits for an answer is dropped.
struct GaveUp<'a> {
    world: &'a Arc<World>,
    service: usize,
    n: Option<u32>,
}

impl GaveUp<'_> {
    fn not(mut self) {
        self.n = None;
    }
}

impl Drop for GaveUp<'_> {
    fn drop(&mut self) {
        if let Some(n) = self.n {
            self.world.say(self.service, What::GaveUp { n });
        }
    }
}

/// Starts all services, makes random requests until the end of the simulation, and shuts down.
pub(crate) async fn operate(world: &Arc<World>, rng: &mut Rng, end: Ms) {
    perform(world, 0, Ask::StartAll, false).await;
    while world.now() < end && !world.is_broken() {
        let gap = if rng.bool() { rng.u64(0..50 * MINUTE) } else { rng.u64(0..50) * MINUTE };
        // Some requests come at full minutes, at which many runs are due.
        let until = if rng.u32(0..3) == 0 { (world.now() + gap) / MINUTE * MINUTE } else { world.now() + gap };
        world.sleep_until(until.min(end)).await;
        world.look_round();
        if rng.u32(0..60) == 0 {
            let ask = *pick(rng, &[Ask::StopAll, Ask::Shutdown, Ask::PauseAll, Ask::ResumeAll, Ask::StartAll]);
            // Nothing is started while all services are being stopped; other requests continue.
            tokio::spawn({
                let world = world.clone();
                async move { perform_for_all(&world, 0, ask).await }
            });
            continue;
        }
        if rng.u32(0..6) == 0 {
            let topic = Ask::Notify(rng.usize(0..TOPICS.len()));
            perform_for_all(world, 0, topic).await;
        }
        if rng.u32(0..8) == 0 && world.share_down() > 40 {
            tokio::spawn({
                let world = world.clone();
                async move { perform(&world, 0, Ask::StartAll, false).await }
            });
        }
        burst(world, rng);
    }
    if world.is_broken() {
        return;
    }
    world.wind_up();
    perform_for_all(world, 0, Ask::Shutdown).await;
    // Requests that are still open must be answered without further requests.
    world.sleep_until(world.now() + 2 * HOUR).await;
    world.look_round();
    world.close();
}

/// Sometimes makes a request during work that takes this long.
pub(crate) fn disturb(world: &Arc<World>, service: usize, while_it_takes: Ms) {
    let Some(mut rng) = world.draw(service, |_, _, rng| (rng.u32(0..8) == 0).then(|| rng.fork())) else { return };
    let at = world.now() + rng.u64(0..=while_it_takes);
    let world = world.clone();
    tokio::spawn(async move {
        world.sleep_until(at).await;
        let ask = choose(&world, service, &mut rng);
        perform(&world, service, ask, false).await;
    });
}

/// A few requests to one service, close together.
fn burst(world: &Arc<World>, rng: &mut Rng) {
    let service = rng.usize(0..SERVICES);
    let mut at = world.now();
    for n in 0..rng.u32(1..5) {
        if n > 0 {
            at += *pick(rng, &[0, 0, 1, SECOND, 3 * SECOND, 30 * SECOND, 5 * MINUTE]);
        }
        let (world, mut rng) = (world.clone(), rng.fork());
        tokio::spawn(async move {
            if at > world.now() {
                world.sleep_until(at).await;
            }
            let ask = choose(&world, service, &mut rng);
            if ask == Ask::Stop && rng.u32(0..4) == 0 {
                perform(&world, service, Ask::Stop, false).await;
                perform(&world, service, Ask::Start, false).await;
            } else {
                perform(&world, service, ask, false).await;
            }
        });
    }
}

fn choose(world: &World, service: usize, rng: &mut Rng) -> Ask {
    let interval = *pick(rng, &[5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR]);
    if rng.u32(0..5) < 3 {
        // A useful request.
        match world.state(service) {
            None => return Ask::Register,
            Some(ServiceState::Created | ServiceState::Stopped) => {
                // A ready-made instance that has ended can only be registered again.
                return if rng.u32(0..4) == 0 { Ask::Unregister } else { Ask::Start };
            }
            Some(ServiceState::Failed) => return if rng.u32(0..4) == 0 { Ask::Unregister } else { Ask::Reset },
            Some(ServiceState::Paused) => return *pick(rng, &[Ask::Resume, Ask::RunNow, Ask::Wake]),
            Some(_) if world.cast[service].schedule == Schedule::OnDemand => {
                return *pick(rng, &[Ask::Wake, Ask::RunNow]);
            }
            _ => {}
        }
    }
    let ask = *pick(
        rng,
        &[
            Ask::Start,
            Ask::Stop,
            Ask::Stop,
            Ask::Pause,
            Ask::Pause,
            Ask::Resume,
            Ask::RunNow,
            Ask::RunNow,
            Ask::RunNow,
            Ask::Reset,
            Ask::Unregister,
            Ask::Register,
            Ask::SetInterval(interval),
            Ask::SetInterval(interval),
            Ask::SetRetryDelay(interval / 60),
            Ask::Wake,
            Ask::Wake,
        ],
    );
    match (ask, world.cast[service].schedule) {
        // An interval replaces a cron schedule for as long as the service is registered.
        (Ask::SetInterval(_), Schedule::Cron(..)) if rng.u32(0..6) > 0 => Ask::SetRetryDelay(interval / 60),
        _ => ask,
    }
}
