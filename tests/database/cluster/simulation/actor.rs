//! The simulated services. All have the same code; the options and the cast make them different.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sea_orm::{ConnectionTrait, Statement, Value};
use service_core::prelude::*;

use super::cast::{CAST, Part, Schedule};
use super::world::{End, World};

pub(super) const TABLE: &str = "CREATE TABLE trace (id INTEGER PRIMARY KEY AUTOINCREMENT, service INTEGER NOT NULL, \
                                epoch INTEGER NOT NULL, seq INTEGER NOT NULL, fire INTEGER)";

#[derive(Clone)]
pub(super) struct Actor {
    pub(super) world: Arc<World>,
    pub(super) service: usize,
    pub(super) replica: usize,
}

/// Runs at the times of a schedule.
pub(super) struct Scheduled(pub(super) Actor);

/// Runs until a stop.
pub(super) struct Stream(pub(super) Actor);

#[service(interval = 60, scope = "cluster", lease = 30, retry_delay = 10, max_failures = "unlimited", discover = false)]
impl Scheduled {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        self.0.work(cx).await
    }
}

#[service(
    scope = "cluster",
    lease = 30,
    retry_delay = 10,
    max_failures = "unlimited",
    on_end = "again",
    discover = false
)]
impl Stream {
    async fn run(&mut self, cx: &Context) -> Result<()> {
        self.0.work(cx).await
    }
}

impl Actor {
    fn part(&self) -> &'static Part {
        &CAST[self.service]
    }

    /// Works for a while, and writes in between.
    async fn work(&self, cx: &Context) -> Result<()> {
        let mut rng = self.world.rng(self.service, self.replica, cx.run_number());
        let is_cron = matches!(self.part().schedule, Schedule::Cron(_));
        let fire = cx.scheduled_for().filter(|_| is_cron).map(seconds);
        let epoch = cx.lease_epoch().ok_or_else(|| Error::fatal("there is no lease"))?;
        let run = self.world.begins(self.service, self.replica, epoch, fire);
        let works = rng.u64(0..=self.part().works * 1000);
        let fails = rng.u64(0..100) < self.part().fails;
        let steps = 1 + works / rng.u64(10_000..60_000);
        let late = (rng.u64(0..5) == 0).then(|| rng.u64(0..450_000));
        if let Some(late) = late.filter(|_| !self.part().marks) {
            self.write_later(cx, late);
        }
        if !self.part().marks
            && let Err(error) = self.write(cx, None).await
        {
            run.ends(End::Failed);
            return Err(error);
        }
        let is_quiet = rng.bool();
        let listens = self.part().schedule == Schedule::Long && rng.bool();
        for step in 1..=steps {
            let step_ends = tokio::time::sleep(Duration::from_millis(works / steps));
            if !listens {
                step_ends.await;
            } else if cx.unless_stopping(step_ends).await.is_none() {
                break;
            }
            if fails && step == steps {
                run.ends(End::Failed);
                return Err(Error::msg("scripted"));
            }
            // Most steps do not meet the check of the lease: only a run that is dropped ends in time.
            if step < steps && (self.part().marks || is_quiet || rng.u64(0..3) > 0) {
                continue;
            }
            if let Err(error) = self.write(cx, fire.filter(|_| step == steps)).await {
                run.ends(End::Failed);
                return Err(error);
            }
        }
        run.ends(End::Succeeded);
        Ok(())
    }

    /// A task that outlives the run, as user code may start one, writes under the lease of the run.
    fn write_later(&self, cx: &Context, after: u64) {
        let (actor, cx) = (self.clone(), cx.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            if !actor.world.is_dead(actor.replica) {
                let _ = actor.write(&cx, None).await;
            }
        });
    }

    /// Adds a row, in a transaction that checks the lease.
    async fn write(&self, cx: &Context, fire: Option<u64>) -> Result<()> {
        let epoch = cx.lease_epoch().ok_or_else(|| Error::fatal("there is no lease"))?;
        let tx = cx.begin().await?;
        let values = [self.service as u64, epoch, self.world.next_seq()].map(Value::from);
        let values = values.into_iter().chain([Value::from(fire)]);
        let sql = "INSERT INTO trace (service, epoch, seq, fire) VALUES ($1, $2, $3, $4)";
        tx.execute_raw(Statement::from_sql_and_values(tx.get_database_backend(), sql, values)).await?;
        if self.part().marks {
            cx.mark_served_in(&tx).await?;
        }
        tx.commit().await
    }
}

pub(super) fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
