//! The simulated service: it acts by its random numbers, and reports what it does.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use service_core::prelude::*;

use crate::cast::{HOUR, MINUTE, Part, SECOND, SERVICES, TOPICS, pick};
use crate::operator::{disturb, perform};
use crate::trace::{Advice, Ask, Decision, How, Ms, What, millis};
use crate::world::World;

/// The message of every simulated panic, by which the panic hook recognises it.
pub(crate) const PANIC: &str = "scripted panic";

/// One instance.
pub(crate) struct Actor {
    pub(crate) world: Arc<World>,
    pub(crate) me: usize,
    pub(crate) serial: u32,
}

/// What one run does, chosen at its start.
struct Act {
    pace: Pace,
    /// A request to another service, or to its own.
    asks: Option<(Option<usize>, Ask)>,
    permits: usize,
    degraded: bool,
    how: How,
}

enum Pace {
    Straight,
    Sleep(Ms),
    /// Ends early when a stop is requested.
    Polite(Ms),
    Hang,
}

/// What `configure` and `cleanup` do.
enum Chore {
    Quick(How),
    Slow(Ms, How),
    Hang,
}

impl Actor {
    pub(crate) fn new(world: &Arc<World>, me: usize) -> Self {
        let serial = world.next_serial();
        world.say(me, What::Made { instance: serial });
        Self { world: world.clone(), me, serial }
    }

    /// Builds an instance for `service_fn`; some closures panic.
    pub(crate) fn by_closure(world: &Arc<World>, me: usize) -> Self {
        world.say(me, What::ConfigureBegan);
        let chore = world.draw(me, |part, _, rng| if part.hard_to_build { chore(rng) } else { Chore::Quick(well()) });
        if let Chore::Quick(How::Panics) = chore {
            world.say(me, What::ConfigureEnds(How::Panics));
            panic!("{PANIC}");
        }
        world.say(me, What::ConfigureEnds(well()));
        Self::new(world, me)
    }
}

#[service(interval = 60, discover = false)]
impl Actor {
    pub(crate) async fn configure(cx: &Context) -> Result<Self> {
        let world = cx.state::<Arc<World>>()?;
        let me = world.index(cx.service_id());
        world.say(me, What::ConfigureBegan);
        let chore = world.draw(me, |part, _, rng| if part.hard_to_build { chore(rng) } else { Chore::Quick(well()) });
        let how = carry_out(chore, world, me).await;
        world.say(me, What::ConfigureEnds(how));
        let _ = end(how, "configure")?;
        Ok(Self::new(world, me))
    }

    pub(crate) async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let (world, me) = (self.world.clone(), self.me);
        world.say(me, What::Began { instance: self.serial, run: cx.run_number() });
        let _left = Left { world: &world, me, instance: self.serial };
        world.remember(me, cx);
        let act = world.draw(me, act);
        if act.degraded {
            world.say(me, What::Degraded);
            cx.degraded("scripted");
        }
        if let Some((other, ask)) = act.asks {
            let whom = other.unwrap_or(me);
            perform(&world, whom, ask, whom == me).await;
        }
        for _ in 0..act.permits {
            if cx.permit().await {
                world.say(me, What::Permit);
            }
        }
        match act.pace {
            Pace::Straight => {}
            Pace::Sleep(time) => tokio::time::sleep(Duration::from_millis(time)).await,
            Pace::Polite(time) => {
                cx.sleep(Duration::from_millis(time)).await;
            }
            Pace::Hang => std::future::pending().await,
        }
        world.say(me, What::Ends { instance: self.serial, how: act.how });
        end(act.how, &format!("run {}", cx.run_number()))
    }

    pub(crate) fn on_failure(&mut self, failure: &Failure) -> Recovery {
        let default = failure.recovery();
        let answer = self.world.draw(self.me, |part, _, rng| {
            if !part.decides {
                return Some(default);
            }
            match rng.u32(0..100) {
                0..60 => Some(default),
                60..72 => Some(Recovery::Retry),
                72..78 => Some(Recovery::RetryAfter(Duration::from_millis(rng.u64(0..HOUR)))),
                78..84 => Some(Recovery::Rebuild),
                84..92 => Some(Recovery::Ignore),
                92..95 => Some(Recovery::Stop),
                95..98 => Some(Recovery::Fail),
                _ => None,
            }
        });
        self.world.say(
            self.me,
            What::OnFailure {
                kind: failure.kind(),
                count: failure.count(),
                wait: millis(failure.retry_delay() + Duration::from_nanos(999_999)),
                default: default.into(),
                answer: answer.map(Decision::from),
            },
        );
        disturb(&self.world, self.me, millis(failure.retry_delay()));
        answer.unwrap_or_else(|| panic!("{PANIC}"))
    }

    pub(crate) async fn cleanup(&mut self) -> Result<()> {
        self.world.say(self.me, What::CleanupBegan { instance: self.serial });
        let chore =
            self.world.draw(self.me, |part, _, rng| if part.untidy { chore(rng) } else { Chore::Quick(well()) });
        end(carry_out(chore, &self.world, self.me).await, "cleanup").map(|_| ())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.world.say(self.me, What::Dropped { instance: self.serial });
    }
}

/// Reports that the code of a run has been left, in whatever way.
pub(crate) struct Left<'a> {
    pub(crate) world: &'a World,
    pub(crate) me: usize,
    pub(crate) instance: u32,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.world.say(self.me, What::Left { instance: self.instance });
    }
}

fn well() -> How {
    How::Well { processed: 0, failed: 0, again: false }
}

pub(crate) fn end(how: How, what: &str) -> Result<Outcome> {
    let error = || format!("scripted error in {what}");
    match how {
        How::Well { processed, failed, again } => {
            let outcome = Outcome::processed(processed).failed(failed);
            Ok(if again { outcome.again() } else { outcome })
        }
        How::Badly(Advice::None) => Err(Error::msg(error())),
        How::Badly(Advice::Fatal) => Err(Error::fatal(error())),
        How::Badly(Advice::RetryAfter(wait)) => Err(Error::retry_after(Duration::from_millis(wait), error())),
        How::Panics => panic!("{PANIC}"),
    }
}

async fn carry_out(chore: Chore, world: &Arc<World>, me: usize) -> How {
    match chore {
        Chore::Quick(_) => {}
        Chore::Slow(time, _) => disturb(world, me, time),
        Chore::Hang => disturb(world, me, MINUTE),
    }
    match chore {
        Chore::Quick(how) => how,
        Chore::Slow(time, how) => {
            tokio::time::sleep(Duration::from_millis(time)).await;
            how
        }
        Chore::Hang => std::future::pending().await,
    }
}

fn chore(rng: &mut Rng) -> Chore {
    let how = match rng.u32(0..100) {
        0..60 => well(),
        60..80 => How::Badly(Advice::None),
        80..85 => How::Badly(Advice::Fatal),
        85..90 => How::Badly(Advice::RetryAfter(rng.u64(0..10 * MINUTE))),
        _ => How::Panics,
    };
    match rng.u32(0..100) {
        0..50 => Chore::Quick(how),
        50..96 => Chore::Slow(*pick(rng, &[1, SECOND, 4 * SECOND, 20 * SECOND, 70 * SECOND]), how),
        _ => Chore::Hang,
    }
}

/// How a run ends, if it ends.
pub(crate) fn how(part: &Part, bad_day: bool, rng: &mut Rng) -> How {
    let percent = |rng: &mut Rng| rng.u32(0..100);
    let trouble = if bad_day { part.trouble } else { 2 };
    if percent(rng) < trouble {
        match percent(rng) {
            0..70 => How::Badly(Advice::None),
            70..78 => How::Badly(Advice::RetryAfter(rng.u64(0..HOUR))),
            78..83 => How::Badly(Advice::Fatal),
            _ => How::Panics,
        }
    } else {
        How::Well { processed: rng.u64(0..5), failed: rng.u64(0..2), again: percent(rng) < 5 }
    }
}

fn act(part: &Part, bad_day: bool, rng: &mut Rng) -> Act {
    let percent = |rng: &mut Rng| rng.u32(0..100);
    let how = how(part, bad_day, rng);
    let hangs = if part.timeout.is_some() { 2 } else { 1 };
    let pace = match rng.u32(0..200) {
        n if n < hangs => Pace::Hang,
        _ if part.takes == 0 => Pace::Straight,
        n if n < 40 => Pace::Straight,
        n if n < 120 => Pace::Sleep(rng.u64(0..=part.takes)),
        n if n < 180 => Pace::Polite(rng.u64(0..=part.takes)),
        // Whole seconds make several events fall on the same moment.
        _ => Pace::Sleep(part.takes / SECOND * SECOND),
    };
    let asks = (percent(rng) < 3).then(|| ask(rng));
    let permits = if part.rate.is_some() { rng.usize(0..4) } else { 0 };
    Act { pace, asks, permits, degraded: percent(rng) < 3, how }
}

/// A request of a service to itself, or sometimes to another.
pub(crate) fn ask(rng: &mut Rng) -> (Option<usize>, Ask) {
    let ask = match rng.u32(0..20) {
        0 => Ask::Stop,
        1 | 2 => Ask::Pause,
        3 => Ask::Resume,
        4..7 => Ask::RunNow,
        7..9 => Ask::Reset,
        9..12 => Ask::SetInterval(*pick(rng, &[5 * MINUTE, 20 * MINUTE, HOUR, 5 * HOUR])),
        12..14 => Ask::SetRetryDelay(*pick(rng, &[SECOND, 10 * SECOND, 10 * MINUTE])),
        14 => Ask::Unregister,
        15 => Ask::Start,
        16 => Ask::Notify(rng.usize(0..TOPICS.len())),
        _ => Ask::Wake,
    };
    ((rng.u32(0..4) == 0).then(|| rng.usize(0..SERVICES)), ask)
}
