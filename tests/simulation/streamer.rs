//! The simulated service whose `run` continues until a stop is requested. It shares everything else with `Actor`.

use std::time::Duration;

use fastrand::Rng;
use service_core::prelude::*;

use crate::actor::{Actor, Left, ask, end, how};
use crate::cast::{MINUTE, Part, SECOND, pick};
use crate::operator::perform;
use crate::trace::{Ask, How, Ms, What};

const WELL: How = How::Well { processed: 0, failed: 0, again: false };

pub(crate) struct Streamer(pub(crate) Actor);

/// What one run does, chosen at its start.
struct Act {
    /// How long it connects.
    connects: Ms,
    /// The times between its reports.
    steps: Vec<Ms>,
    /// It returns when it is told to stop.
    polite: bool,
    degraded: bool,
    /// A request to its own service or to another, after this many steps.
    asks: Option<(usize, Option<usize>, Ask)>,
    how: How,
}

#[service(discover = false)]
impl Streamer {
    async fn configure(cx: &Context) -> Result<Self> {
        Actor::configure(cx).await.map(Self)
    }

    async fn run(&mut self, cx: &Context) -> Result<()> {
        let Actor { world, me, serial } = &self.0;
        let (me, instance) = (*me, *serial);
        world.say(me, What::Began { instance, run: cx.run_number() });
        let _left = Left { world, me, instance };
        world.remember(me, cx);
        let act = world.draw(me, act);
        if act.degraded {
            world.say(me, What::Degraded);
            cx.degraded("scripted");
        }
        tokio::time::sleep(Duration::from_millis(act.connects)).await;
        world.say(me, What::Ready);
        cx.ready();
        for (number, step) in act.steps.into_iter().enumerate() {
            let step = tokio::time::sleep(Duration::from_millis(step));
            if !act.polite {
                step.await;
            } else if cx.unless_stopping(step).await.is_none() {
                world.say(me, What::Ends { instance, how: WELL });
                return Ok(());
            }
            let (processed, failed) = (number as u64 % 3, number as u64 % 2);
            world.say(me, What::Reports { processed, failed });
            cx.processed(processed);
            cx.failed(failed);
            if let Some((after, other, ask)) = act.asks
                && after == number
            {
                let whom = other.unwrap_or(me);
                perform(world, whom, ask, whom == me).await;
            }
        }
        world.say(me, What::Ends { instance, how: act.how });
        end(act.how, &format!("run {}", cx.run_number())).map(|_| ())
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        self.0.on_failure(failure)
    }

    async fn cleanup(&mut self) -> Result<()> {
        self.0.cleanup().await
    }
}

fn act(part: &Part, bad_day: bool, rng: &mut Rng) -> Act {
    let idle = part.long.and_then(|long| long.idle).unwrap_or(10 * MINUTE);
    let how = match how(part, bad_day, rng) {
        How::Well { .. } => WELL,
        how => how,
    };
    let steps = match (how, bad_day) {
        // A peer that accepts and closes at once.
        (How::Badly(_) | How::Panics, true) => rng.usize(0..3),
        _ => *pick(rng, &[1, 5, 20, 60]),
    };
    // Sometimes it reports nothing for too long.
    let step = |rng: &mut Rng| if rng.u32(0..300) == 0 { idle + idle / 2 } else { rng.u64(1..idle * 9 / 10) };
    let asks = (rng.u32(0..100) < 10).then(|| {
        let (other, ask) = ask(rng);
        (rng.usize(0..10), other, ask)
    });
    Act {
        connects: *pick(rng, &[0, 3, SECOND, 10 * SECOND]),
        steps: (0..steps).map(|_| step(rng)).collect(),
        polite: rng.u32(0..100) < 85,
        degraded: rng.u32(0..100) < 10,
        asks,
        how,
    }
}
