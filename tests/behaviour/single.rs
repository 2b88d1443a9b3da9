//! `run_until`: one service without a registry, as a task of the user's own. (`run` needs signals; `processes` tests
//! it.)

use service_core::prelude::*;
use service_core::run_until;
use tokio_util::sync::CancellationToken;

use crate::acting::{Acting, assert_says, soon};
use crate::support::{Log, Scripted, Step, secs};

#[tokio::test(start_paused = true)]
async fn run_until_drains_when_the_token_is_cancelled() {
    let (log, token) = (Log::default(), CancellationToken::new());
    let task = tokio::spawn(run_until(Scripted::new(&log, &[Step::Succeed, Step::Take(10.0)]), token.clone()));
    tokio::time::sleep(secs(65)).await;
    token.cancel();
    soon(task).await.unwrap().unwrap();
    assert_eq!((log.times("run"), log.times("cleanup")), (vec![0.0, 60.0], vec![70.0]));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_cancelled_before_the_start_starts_nothing() {
    let (log, token) = (Log::default(), CancellationToken::new());
    token.cancel();
    soon(run_until(Scripted::new(&log, &[]), token)).await.unwrap();
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn run_until_ends_when_the_service_stops_itself() {
    let log = Log::default();
    let stops = Acting::new(&log, |cx| async move { cx.stop() });
    soon(run_until(stops, CancellationToken::new())).await.unwrap();
    assert_eq!((log.count("run"), log.count("cleanup")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn run_until_is_an_error_when_the_service_fails() {
    let log = Log::default();
    let ended = soon(run_until(Scripted::new(&log, &[Step::Fail; 9]), CancellationToken::new())).await;
    assert_says(ended, &["service `scripted` failed: it failed"]);
    assert_eq!((log.times("run"), log.count("cleanup")), (vec![0.0, 5.0, 10.0, 15.0], 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_is_aborted_in_time() {
    let (log, token) = (Log::default(), CancellationToken::new());
    let task = tokio::spawn(run_until(Scripted::new(&log, &[Step::Hang]), token.clone()));
    tokio::time::sleep(secs(1)).await;
    token.cancel();
    soon(task).await.unwrap().unwrap();
    log.push("over");
    assert_eq!(log.count("cleanup"), 1);
    assert!(log.times("over")[0] <= 26.0, "{:?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn dropping_run_until_stops_the_service() {
    let (log, token) = (Log::default(), CancellationToken::new());
    let task = tokio::spawn(run_until(Scripted::new(&log, &[Step::Take(5.0)]), token));
    tokio::time::sleep(secs(1)).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    tokio::time::sleep(secs(200)).await;
    assert_eq!((log.count("run"), log.times("cleanup")), (1, vec![5.0]));
}

#[tokio::test(start_paused = true)]
async fn run_until_returns_what_keeps_the_service_from_starting() {
    struct Dependent;

    #[service(interval = 60, depends_on = ["store"], discover = false)]
    impl Dependent {
        async fn update(&mut self) {}
    }

    let ended = soon(run_until(Dependent, CancellationToken::new())).await;
    assert_says(ended, &["service `dependent`", "single.rs:", "depends on `store`", "not registered"]);
}
