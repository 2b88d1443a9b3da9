//! Catches the panics of user code, with their places.

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Once;
use std::task::Poll;
use std::time::Duration;

/// The result of a call to user code.
#[derive(Debug)]
pub(crate) enum Caught<T> {
    Returned(T),
    Panicked(String),
}

/// Calls `work` and catches its panic. After a panic the caller must not use the values that `work` had borrowed,
/// except to clean up and drop them.
#[inline]
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Caught<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => Caught::Returned(value),
        Err(payload) => {
            let message = match PLACE.take() {
                Some(place) => format!("{} ({place})", panic_message(&*payload)),
                None => panic_message(&*payload),
            };
            // A payload that panics when it is dropped is leaked.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::forget);
            Caught::Panicked(message)
        }
    }
}

/// Polls a future and catches its panic. The caller pins it: a future that is moved into another one takes its space
/// twice.
pub(crate) fn catch_future<F: Future + ?Sized>(mut future: Pin<&mut F>) -> impl Future<Output = Caught<F::Output>> {
    poll_fn(move |task| match catch(|| future.as_mut().poll(task)) {
        Caught::Returned(polled) => polled.map(Caught::Returned),
        Caught::Panicked(message) => Poll::Ready(Caught::Panicked(message)),
    })
}

/// Awaits a future of user code for at most `limit`, and drops it. Catches the panics of both. `None`: it has not ended
/// in time.
pub(crate) async fn catch_within<T>(
    limit: Duration,
    mut future: Pin<Box<dyn Future<Output = T> + Send>>,
) -> Option<Caught<T>> {
    let result = tokio::time::timeout(limit, catch_future(future.as_mut())).await.ok();
    match catch(|| drop(future)) {
        Caught::Returned(()) => result,
        Caught::Panicked(message) => Some(Caught::Panicked(message)),
    }
}

/// Returns the message of a panic.
fn panic_message(payload: &(dyn Any + Send)) -> String {
    match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "the payload is not a text".to_owned()),
    }
}

thread_local! {
    /// File and line of the last panic on this thread.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs a panic hook that stores the place of each panic, which only a hook receives, and then calls the previous
/// hook. If the program sets another hook later, places are unknown.
pub(crate) fn note_places() {
    static ONCE: Once = Once::new();
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line()));
            // The variable no longer exists on a thread that is ending.
            let _ = PLACE.try_with(|noted| *noted.borrow_mut() = place);
            before(panic);
        }));
    });
}
