//! Two futures of which only one is awaited to its end. The functions differ in what counts if both are ready.

use std::pin::pin;
use std::task::Poll;

/// Returns the output of `work`, or `None` if `end` is ready first. If both are ready, `work` counts.
pub(crate) async fn first<T>(work: impl Future<Output = T>, end: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut end) = (pin!(work), pin!(end));
    std::future::poll_fn(|task| match work.as_mut().poll(task) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => end.as_mut().poll(task).map(|()| None),
    })
    .await
}

/// Runs `work`, and drops it unfinished when `end` comes first. If both are ready, `end` counts.
pub(crate) async fn unless<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut end, mut work) = (pin!(end), pin!(work));
    std::future::poll_fn(|task| {
        if end.as_mut().poll(task).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(task).map(Some)
    })
    .await
}

/// Returns the output of the one that is ready first. If both are ready, that of `first` counts.
pub(crate) async fn either<T>(first: impl Future<Output = T>, second: impl Future<Output = T>) -> T {
    let (mut first, mut second) = (pin!(first), pin!(second));
    std::future::poll_fn(|task| match first.as_mut().poll(task) {
        Poll::Ready(output) => Poll::Ready(output),
        Poll::Pending => second.as_mut().poll(task),
    })
    .await
}
