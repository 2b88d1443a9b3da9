//! Failures are counted and retried up to a limit; and what follows a panic.

use service_core::prelude::*;

use crate::support::{Log, Scripted, Step, built, secs};

#[tokio::test(start_paused = true)]
async fn the_fourth_failure_in_a_row_makes_the_service_failed() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fail; 9])).await;
    service.wait_for(ServiceState::Failed).await.unwrap();
    assert_eq!(log.times("run"), [0.0, 5.0, 10.0, 15.0]);
    assert_eq!(log.count("cleanup"), 1);
    let health = service.health();
    assert_eq!((health.failures, health.error_count, health.runs), (4, 4, 4));
    assert!(!health.running);
    assert!(service.start().await.unwrap_err().to_string().contains("reset"));
}

#[tokio::test(start_paused = true)]
async fn a_success_sets_the_count_of_failures_to_0() {
    let (bed, log) = (TestBed::new(), Log::default());
    let script = [Step::Fail, Step::Fail, Step::Fail, Step::Succeed, Step::Fail, Step::Fail, Step::Fail, Step::Succeed];
    let service = bed.start(Scripted::new(&log, &script)).await;
    bed.run_for(secs(100)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!(log.times("run"), [0.0, 5.0, 10.0, 15.0, 60.0, 65.0, 70.0, 75.0]);
}

#[tokio::test(start_paused = true)]
async fn after_a_panic_the_instance_is_cleaned_up_and_a_fresh_one_is_built() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start_fn(built(&log, |log, nth| {
            Scripted::new(log, if nth == 1 { &[Step::Succeed, Step::Panic] } else { &[] })
        }))
        .await;
    bed.run_for(secs(130)).await;
    assert_eq!(log.times("built"), [0.0, 65.0]);
    assert_eq!(log.times("failure 1 Panic"), [60.0]);
    assert_eq!(log.times("cleanup"), [60.0]);
    assert_eq!(log.times("run"), [0.0, 60.0, 65.0, 120.0]);
    assert_eq!(service.health().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_ready_made_instance_that_panics_is_not_replaced() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Panic])).await;
    service.wait_for(ServiceState::Failed).await.unwrap();
    assert_eq!(log.count("cleanup"), 1);
    let error = service.reset().await.unwrap_err().to_string();
    assert!(error.contains("service_fn"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_cancels_the_run_and_keeps_the_instance() {
    let (bed, log) = (TestBed::new().set("timeout", 3), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Hang, Step::Succeed])).await;
    bed.run_for(secs(10)).await;
    assert_eq!(log.times("run"), [0.0, 8.0]);
    assert_eq!(log.times("failure 1 Timeout"), [3.0]);
    assert_eq!(log.count("cleanup"), 0);
    assert_eq!(service.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn an_error_sets_the_default_and_on_failure_decides() {
    let (bed, log) = (TestBed::new(), Log::default());
    let advised = bed.start(Scripted::new(&log, &[Step::RetryAfter(700.0)])).await;
    bed.run_for(secs(701)).await;
    assert_eq!(log.times("run"), [0.0, 700.0]);
    let fatal = bed.start(Scripted::new(&log, &[Step::Fatal])).await;
    fatal.wait_for(ServiceState::Failed).await.unwrap();
    let mut ignoring = Scripted::new(&log, &[Step::Fail; 5]);
    ignoring.recovery = Some(|_| Recovery::Ignore);
    let ignoring = bed.start(ignoring).await;
    bed.run_for(secs(301)).await;
    assert_eq!((ignoring.health().failures, ignoring.health().error_count, ignoring.health().runs), (0, 5, 6));
    let mut stopping = Scripted::new(&log, &[Step::Fail]);
    stopping.recovery = Some(|_| Recovery::Stop);
    let stopping = bed.start(stopping).await;
    stopping.wait_for(ServiceState::Stopped).await.unwrap();
    assert_eq!(advised.state(), ServiceState::Running);
}
