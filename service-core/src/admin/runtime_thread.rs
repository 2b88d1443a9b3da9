//! [`RuntimeThread`]: a tokio runtime on a thread of its own, so that its work goes on even if every thread of the program's runtime
//! is blocked.
//!
//! The tricky part is the end: the work may call the application's code, which may block this thread, or a blocking
//! thread of its runtime, for as long as it likes. A shutdown does not wait for that.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::humanize;
use crate::log::warn;

/// Becomes `true`, or is closed, when the work has to end.
pub(crate) type Stop = watch::Receiver<bool>;

/// A thread that runs.
pub(crate) struct RuntimeThread {
    name: &'static str,
    stop: watch::Sender<bool>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
}

impl RuntimeThread {
    /// Starts the thread. It ends with its work.
    ///
    /// # Errors
    /// The system has no resources for it.
    pub(crate) fn start<F: Future<Output = ()>>(
        name: &'static str,
        work: impl FnOnce(Stop) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let (ends, ended) = channel();
        let (sender, started) = channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _ends: Sender<()> = ends;
            // Built here: without a thread, it would be dropped on one of the program's runtime, which tokio does not
            // allow.
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let _ = sender.send(Ok(()));
            runtime.block_on(work(stopping));
            // Dropped, it would wait for the application's blocking code, and for the system's DNS resolver.
            runtime.shutdown_background();
        })?;
        started.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(Self { name, stop, ended })
    }

    /// Asks the work to end, and waits until the thread has ended, at most for `limit` of real time.
    pub(crate) async fn stop(self, limit: Duration) {
        let Self { name, stop, ended } = self;
        // An error means that the thread has ended already.
        let _ = stop.send(true);
        let (sender, in_time) = oneshot::channel();
        // On a thread, because the clock of the program's runtime may be paused.
        let waiting = std::thread::Builder::new().name(format!("{name}-end")).spawn(move || {
            let _ = sender.send(!matches!(ended.recv_timeout(limit), Err(RecvTimeoutError::Timeout)));
        });
        if waiting.is_err() || !in_time.await.unwrap_or_default() {
            warn!(
                "the thread `{name}` did not end within {}, the shutdown continues without it",
                humanize::long(limit)
            );
        }
    }
}

/// Waits until the work has to end.
pub(crate) async fn stopping(stop: &mut Stop) {
    // An error means that it was closed.
    let _ = stop.wait_for(|is_stopping| *is_stopping).await;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    async fn stopped(thread: RuntimeThread) -> Duration {
        let begun = std::time::Instant::now();
        thread.stop(LIMIT).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_work_is_awaited() {
        let (ended, has_ended) = sync_channel(1);
        let thread = RuntimeThread::start("test", async move |mut stop| {
            stopping(&mut stop).await;
            let _ = ended.send(());
        });
        thread.unwrap().stop(Duration::from_secs(60)).await;
        assert!(has_ended.try_recv().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_blocks_its_thread_is_left() {
        let (begun, has_begun) = sync_channel(1);
        let (release, blocked) = channel::<()>();
        let thread = RuntimeThread::start("test", async move |_stop| {
            let _ = begun.send(());
            let _ = blocked.recv();
        });
        has_begun.recv().unwrap();
        assert!(stopped(thread.unwrap()).await >= LIMIT);
        drop(release);
    }

    #[tokio::test(start_paused = true)]
    async fn blocking_code_that_the_work_has_begun_is_not_awaited() {
        let (begun, has_begun) = sync_channel(1);
        let (release, blocked) = channel::<()>();
        let thread = RuntimeThread::start("test", async move |mut stop| {
            let _code = tokio::task::spawn_blocking(move || {
                let _ = begun.send(());
                let _ = blocked.recv();
            });
            stopping(&mut stop).await;
        });
        has_begun.recv().unwrap();
        thread.unwrap().stop(Duration::from_secs(60)).await;
        // It still blocks.
        assert!(release.send(()).is_ok());
    }
}
