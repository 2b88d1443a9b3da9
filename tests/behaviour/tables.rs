//! The layers in tables of the database: changes take effect while the service runs.

use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde::Deserialize;
use service_core::prelude::*;

use crate::acting::{has_line, logged};
use crate::support::{Log, Scripted, secs};

async fn configure(db: &DatabaseConnection, key: &str, json: &str) {
    let sql = format!(
        "insert into service_config (service_id, key, value) values ('scripted', '{key}', '{json}') \
         on conflict (service_id, key) do update set value = excluded.value"
    );
    db.execute_unprepared(&sql).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_interval_in_service_config_takes_effect_in_the_current_wait() {
    let (bed, log) = (TestBed::new(), Log::default());
    let db = bed.sqlite().await;
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(30)).await;
    configure(&db, "interval", "\"40s\"").await;
    bed.run_for(secs(60)).await;
    configure(&db, "interval", "\"no time\"").await;
    bed.run_for(secs(40)).await;
    assert_eq!(log.times("run"), [0.0, 40.0, 80.0, 120.0], "a wrong value is rejected, and the last good one stays");
    assert_eq!(service.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn an_override_pauses_and_ends_by_itself() {
    let (bed, log) = (TestBed::new(), Log::default());
    let db = bed.sqlite().await;
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(10)).await;
    db.execute_unprepared(
        "insert into service_override (service_id, key, value, set_by, why, set_at, until) values \
         ('scripted', 'paused', 'true', 'ann', 'mail storm', '2026-01-01T00:00:10Z', '2026-01-01T00:05:00Z')",
    )
    .await
    .unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!(service.state(), ServiceState::Paused);
    let reason = service.health().reason.unwrap();
    assert!(reason.contains("ann") && reason.contains("mail storm"), "{reason}");
    let error = service.resume().await.unwrap_err().to_string();
    assert!(error.contains("ann"), "{error}");
    bed.run_for(secs(250)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!(log.times("run")[..2], [0.0, 300.0]);
}

#[tokio::test(start_paused = true)]
async fn a_row_cannot_set_the_number_of_instances_and_a_warning_says_so() {
    let (bed, log) = (TestBed::new(), Log::default());
    let db = bed.sqlite().await;
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(10)).await;
    let (lines, _guard) = logged();
    configure(&db, "instances", "3").await;
    bed.run_for(secs(60)).await;
    let warnings = lines.lock().unwrap().iter().filter(|line| line.contains("`instances`")).count();
    assert!(has_line(&lines, &["WARN [scripted]", "`instances`", "needs a restart", "`[scripted]`"]), "{lines:?}");
    assert_eq!(warnings, 1);
    assert_eq!((bed.services().await.list(), log.times("run")), (vec!["scripted".to_owned()], vec![0.0, 60.0]));
    assert!(service.explain().rejected[0].contains("needs a restart"));
}

#[derive(Deserialize)]
struct BatchSettings {
    batch_size: u64,
}

struct Batcher {
    size: u64,
}

#[service(interval = 60, discover = false, name = "scripted")]
impl Batcher {
    fn configure(_cx: &Context, config: BatchSettings) -> Self {
        Self { size: config.batch_size }
    }

    async fn update(&mut self) -> Outcome {
        Outcome::processed(self.size)
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_own_setting_builds_a_fresh_instance_between_runs() {
    let bed = TestBed::new().with(|builder| builder);
    let db = bed.sqlite().await;
    bed.services().await.start().await.unwrap();
    configure(&db, "batch_size", "3").await;
    bed.run_for(secs(1)).await;
    let service = bed.start_of::<Batcher>().await;
    bed.run_for(secs(10)).await;
    assert_eq!(service.health().total_processed, 3);
    configure(&db, "batch_size", "10").await;
    bed.run_for(secs(60)).await;
    assert_eq!(service.health().total_processed, 13);
    configure(&db, "batch_size", "\"many\"").await;
    bed.run_for(secs(60)).await;
    assert_eq!(service.health().total_processed, 23, "the last good value stays");
    assert_eq!(service.health().error_count, 0);
}
