//! [`SingleTask`]: a task of the registry that runs at most once at a time.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;

/// A task that runs at most once at a time. If its runtime shuts down, it can be started again.
#[derive(Debug, Default)]
pub(crate) struct SingleTask(Arc<AtomicBool>);

impl SingleTask {
    /// Spawns the task on this runtime, unless it runs already.
    pub(crate) fn start<F>(&self, runtime: &Handle, task: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.0.swap(true, Ordering::SeqCst) {
            return;
        }
        let (running, task) = (Running(Arc::clone(&self.0)), task());
        runtime.spawn(async move {
            task.await;
            drop(running);
        });
    }
}

struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
