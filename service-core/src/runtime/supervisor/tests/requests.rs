//! No request is lost, whenever it arrives: before the loop checks, between its check and its wait, or from another
//! thread.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Task, Poll, Wake, Waker};

use tokio::time::{Instant, Sleep};

use super::*;
use crate::runtime::requests::{OverridePause, PausedBy, Rebuild};
use crate::runtime::status::{Activity, StartPhase};
use crate::runtime::supervisor::{Due, WaitEvent};
use crate::schedule::later;

/// Records whether it was woken.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Alarm {
    fn has_rung(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A loop with an instance that waits for a run which is due in an hour. The test polls it.
struct Waiting {
    service: Service,
    supervisor: Supervisor,
    timer: Pin<Box<Sleep>>,
    alarm: Arc<Alarm>,
}

impl Waiting {
    async fn new() -> Self {
        let (service, mut supervisor) =
            Script::new().begin(Options::default(), Shared::default(), Arc::new(NoExtension));
        assert_eq!(supervisor.build().await, None);
        supervisor.plan(Due::Regular, later(Instant::now(), secs(3600)));
        let timer = Box::pin(tokio::time::sleep_until(Instant::now()));
        Self { service, supervisor, timer, alarm: Arc::default() }
    }

    fn poll(&mut self) -> Poll<WaitEvent> {
        let waker = Waker::from(self.alarm.clone());
        self.supervisor.poll_wait(&mut Task::from_waker(&waker), self.timer.as_mut())
    }
}

type Request = (&'static str, fn(&ServiceInner), fn(&WaitEvent) -> bool);

const REQUESTS: [Request; 5] = [
    ("stop", |service| _ = service.request_stop(StopRequest::default()), |event| matches!(event, WaitEvent::Stop)),
    ("run", |service| service.request_run(None).expect("it runs"), |event| matches!(event, WaitEvent::Run)),
    ("options", |service| service.set_interval(secs(1)), |event| matches!(event, WaitEvent::Changed)),
    (
        "settings",
        |service| service.lock().request_rebuild(Rebuild::Settings),
        |event| matches!(event, WaitEvent::Changed),
    ),
    (
        "end of an outage",
        |service| {
            let mut state = service.lock();
            state.requests.outage_over = true;
            state.wake();
        },
        |event| matches!(event, WaitEvent::Run),
    ),
];

#[tokio::test(start_paused = true)]
async fn a_request_between_the_check_and_the_wait_wakes_the_loop() {
    for (name, ask, is_served) in REQUESTS {
        let mut waiting = Waiting::new().await;
        waiting.service.inner.update(|state| state.status.activity = Activity::BackingOff);
        assert!(waiting.poll().is_pending(), "{name}");
        assert!(!waiting.alarm.has_rung(), "{name}");
        // The loop has checked the requests, and its task does not wait yet.
        ask(&waiting.service.inner);
        assert!(waiting.alarm.has_rung(), "{name} wakes the loop");
        let event = waiting.poll();
        assert!(matches!(&event, Poll::Ready(event) if is_served(event)), "{name} is served");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_before_the_check_is_served_at_once() {
    for (name, ask, is_served) in REQUESTS {
        let mut waiting = Waiting::new().await;
        waiting.service.inner.update(|state| state.status.activity = Activity::BackingOff);
        ask(&waiting.service.inner);
        let event = waiting.poll();
        assert!(matches!(&event, Poll::Ready(event) if is_served(event)), "{name} is served");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_a_run_that_is_due_and_its_end_wakes_the_loop() {
    let mut waiting = Waiting::new().await;
    waiting.supervisor.plan(Due::Regular, Instant::now());
    waiting.service.inner.request_pause(PausedBy::Handle).expect("it runs");
    assert!(waiting.poll().is_pending());
    waiting.service.inner.request_resume().expect("it is paused");
    assert!(waiting.alarm.has_rung());
    assert!(matches!(waiting.poll(), Poll::Ready(WaitEvent::Run)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_by_an_override_holds_a_run_that_is_due_and_its_end_wakes_the_loop() {
    let mut waiting = Waiting::new().await;
    waiting.supervisor.plan(Due::Regular, Instant::now());
    waiting.service.inner.set_override_pause(Some(OverridePause { place: "a table".into(), since: None }));
    assert!(waiting.poll().is_pending());
    waiting.service.inner.set_override_pause(None);
    assert!(waiting.alarm.has_rung());
    assert!(matches!(waiting.poll(), Poll::Ready(WaitEvent::Run)));
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_gets_ready_between_the_check_and_the_wait_wakes_the_loop() {
    let options = Options { depends_on: vec!["job".to_owned()], ..Options::default() };
    let (service, mut supervisor) = Script::new().begin(options, Shared::default(), Arc::new(NoExtension));
    service.services.extend(vec![service.registered.clone()]);
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut task = Task::from_waker(&waker);
    let mut waits = pin!(supervisor.wait_for_dependencies());
    assert!(waits.as_mut().poll(&mut task).is_pending());
    assert!(!alarm.has_rung());
    // It depends on itself, which registration does not allow.
    service.inner.update(|state| state.status.reach(StartPhase::Ready));
    assert!(alarm.has_rung());
    assert_eq!(waits.as_mut().poll(&mut task), Poll::Ready(true));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_dependencies() {
    let options = Options { depends_on: vec!["another".to_owned()], ..Options::default() };
    let mut service = Script::new().start(options);
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(service.state(), ServiceState::Starting);
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert!(service.log.lines().is_empty());
}

#[test]
fn a_run_that_another_thread_requests_is_never_lost() {
    on_each_runtime(|| async {
        let mut service = Script::new().start(Options { initial_delay: secs(3600), ..Options::default() });
        service.started().await;
        let inner = service.inner.clone();
        let asking = std::thread::spawn(move || {
            for n in 1..=2_000 {
                let (waiter, report) = oneshot::channel();
                inner.request_run(Some(waiter)).expect("it runs");
                report.blocking_recv().unwrap_or_else(|_| panic!("run {n} is lost"));
            }
        });
        tokio::task::spawn_blocking(move || asking.join()).await.expect("it returns").expect("no run is lost");
        assert_eq!(service.inner.lock().status.stats.runs, 2_000);
        service.stop();
        service.ended().await;
    });
}

#[test]
fn a_stop_from_another_thread_is_never_lost() {
    on_each_runtime(|| async {
        let mut service = Script::new().start(Options { schedule: Schedule::Interval(ms(1)), ..Options::default() });
        for _ in 0..300 {
            let inner = service.inner.clone();
            let asking = std::thread::spawn(move || inner.request_stop(StopRequest::default()));
            assert_eq!(service.ended().await, Exit::Stopped);
            asking.join().expect("it returns");
            service = service.start_again();
        }
        service.stop();
        service.ended().await;
        service.log.assert_one_cleanup_each();
    });
}

#[test]
fn no_run_begins_after_a_pause_from_another_thread() {
    on_each_runtime(|| async {
        let mut service = Script::new().start(Options { schedule: Schedule::Interval(ms(1)), ..Options::default() });
        service.started().await;
        let inner = service.inner.clone();
        let asking = std::thread::spawn(move || {
            for _ in 0..200 {
                inner.request_pause(PausedBy::Handle).expect("it runs");
                let runs = inner.lock().status.stats.runs;
                std::thread::sleep(ms(2));
                assert_eq!(inner.lock().status.stats.runs, runs, "a run has begun");
                inner.request_resume().expect("it is paused");
                while inner.lock().status.stats.runs == runs {
                    std::thread::yield_now();
                }
            }
        });
        tokio::task::spawn_blocking(move || asking.join()).await.expect("it returns").expect("pauses hold");
        service.stop();
        service.ended().await;
    });
}

#[test]
fn options_from_another_thread_reach_a_loop_that_waits() {
    on_each_runtime(|| async {
        let mut service =
            Script::new().start(Options { schedule: Schedule::Interval(secs(3600)), ..Options::default() });
        service.started().await;
        service.run_now().await.expect("it runs");
        let inner = service.inner.clone();
        let asking = std::thread::spawn(move || {
            for _ in 0..100 {
                let runs = inner.lock().status.stats.runs;
                inner.set_interval(ms(1));
                while inner.lock().status.stats.runs == runs {
                    std::thread::yield_now();
                }
                inner.set_interval(secs(3600));
            }
        });
        tokio::task::spawn_blocking(move || asking.join()).await.expect("it returns").expect("each change is noticed");
        service.stop();
        service.ended().await;
    });
}

#[tokio::test(start_paused = true)]
async fn retries_without_a_delay_leave_time_for_other_tasks() {
    let script = Script::new().update(async |_| fails());
    let mut service =
        script.start(Options { retry_delay: Duration::ZERO, max_failures: u32::MAX, ..Options::default() });
    let mut turns = 0;
    while service.inner.lock().status.failures < 300 {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns >= 300, "another task was polled {turns} times in 300 retries");
    service.stop();
    service.ended().await;
}

#[tokio::test(start_paused = true)]
async fn runs_that_follow_at_once_leave_time_for_other_tasks() {
    let mut service = Script::new().update(async |_| Ok(Outcome::idle().again())).start(Options::default());
    let mut turns = 0;
    while service.inner.lock().status.stats.runs < 1_000 {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns >= 1_000, "another task was polled {turns} times in 1,000 runs");
    service.stop();
    service.ended().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_requests_a_fresh_one_in_every_configure_leaves_time_for_other_tasks() {
    let script = Script::new().configure(async |cx| {
        cx.service.lock().request_rebuild(Rebuild::Reset);
        Err(Error::fatal("it cannot be built"))
    });
    let mut service = script.start(Options::default());
    let mut turns = 0;
    while service.inner.lock().status.stats.errors < 1_000 {
        turns += 1;
        tokio::task::yield_now().await;
    }
    // The request wakes the loop at once. Then tokio polls a task that has yielded only after every 61 polls of others.
    assert!(turns >= 1_000 / 61, "another task was polled {turns} times while 1,000 instances could not be built");
    service.stop();
    service.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_shortens_the_time_of_a_run() {
    let mut service = Script::new().update(async |_| std::future::pending().await).start(Options::default());
    service.until(|state| state.status.in_run()).await;
    let begun = Instant::now();
    service.stop();
    tokio::time::sleep(secs(1)).await;
    let soon = StopRequest { run: Some(later(begun, secs(5))), ..StopRequest::default() };
    service.inner.request_stop(soon);
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(begun.elapsed(), secs(5));
    service.log.assert_one_cleanup_each();
}

#[tokio::test(start_paused = true)]
async fn a_context_sees_only_the_stop_of_its_own_incarnation() {
    let contexts: Arc<Mutex<Vec<Context>>> = Arc::default();
    let kept = contexts.clone();
    let script = Script::new().update(move |cx| {
        kept.lock().push(cx);
        async { Ok(Outcome::idle()) }
    });
    let mut service = script.start(Options::default());
    service.until(|state| state.status.stats.runs == 1).await;
    service.stop();
    service.ended().await;
    service = service.start_again();
    service.until(|state| state.status.stats.runs == 2).await;
    let contexts = contexts.lock().clone();
    let [earlier, current] = contexts.as_slice() else { panic!("two runs") };
    assert!(earlier.is_stopping(), "its incarnation has ended");
    assert!(!current.is_stopping());
    earlier.stop();
    earlier.pause();
    tokio::time::sleep(secs(120)).await;
    assert!(!current.is_stopping(), "the stop of an earlier incarnation does not concern this one");
    assert_eq!(service.state(), ServiceState::Running);
    service.stop();
    assert!(current.is_stopping());
    service.ended().await;
}
