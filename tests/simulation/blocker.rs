//! The simulated service whose `update` is blocking code. It shares everything else with `Actor`.

use std::sync::Arc;
use std::task::{Context as Task, Poll, Waker};

use fastrand::Rng;
use service_core::prelude::*;

use crate::actor::{Actor, Left, end, how};
use crate::cast::{Part, pick};
use crate::operator::{disturb, perform};
use crate::trace::{Ask, How, Ms, What};
use crate::world::World;

pub(crate) struct Blocker(pub(crate) Actor);

struct Act {
    /// A request to its own service. Other services could not answer while this run blocks the simulation.
    asks: Option<Ask>,
    holds: Ms,
    degraded: bool,
    how: How,
}

#[service(interval = 60, discover = false)]
impl Blocker {
    async fn configure(cx: &Context) -> Result<Self> {
        Actor::configure(cx).await.map(Self)
    }

    fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let Actor { world, me, serial } = &self.0;
        let (me, instance) = (*me, *serial);
        world.stage.enter(me);
        world.say(me, What::Began { instance, run: cx.run_number() });
        let _left = Left { world, me, instance };
        world.remember(me, cx);
        let act = world.draw(me, act);
        if act.degraded {
            world.say(me, What::Degraded);
            cx.degraded("scripted");
        }
        if let Some(ask) = act.asks {
            at_once(world, me, ask);
        }
        if act.holds > 0 {
            disturb(world, me, act.holds);
            world.stage.hold(world.now() + act.holds);
        }
        world.say(me, What::Ends { instance, how: act.how });
        end(act.how, &format!("run {}", cx.run_number()))
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        self.0.on_failure(failure)
    }

    async fn cleanup(&mut self) -> Result<()> {
        self.0.cleanup().await
    }
}

/// Makes a request from within the run, which must be answered without waiting.
fn at_once(world: &Arc<World>, me: usize, ask: Ask) {
    let mut asked = std::pin::pin!(perform(world, me, ask, true));
    let answered = asked.as_mut().poll(&mut Task::from_waker(Waker::noop()));
    assert!(matches!(answered, Poll::Ready(())), "{ask:?} from within does not return at once");
}

fn act(part: &Part, bad_day: bool, rng: &mut Rng) -> Act {
    let how = how(part, bad_day, rng);
    // The clock advances by milliseconds during these runs, so the runs and the limits of these services are short.
    let holds = match rng.u32(0..100) {
        0..70 => 0,
        70..97 => rng.u64(1..40),
        _ => *pick(rng, &[5, 20, 60, 150, 300]),
    };
    let asks = (rng.u32(0..100) < 4).then(|| {
        *pick(
            rng,
            &[
                Ask::Stop,
                Ask::Pause,
                Ask::RunNow,
                Ask::Wake,
                Ask::Reset,
                Ask::Reset,
                Ask::SetRetryDelay(1000),
                Ask::Unregister,
            ],
        )
    });
    Act { asks, holds, degraded: rng.u32(0..100) < 3, how }
}
