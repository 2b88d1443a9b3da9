//! [`Home`]: the tokio runtime on which all services of a registry run, even if `start` is called from another one.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::service::error::Result;
use crate::sync::Mutex;

/// The runtime on which the registry was first started. After that runtime has shut down: the next one that starts a
/// service.
#[derive(Debug, Default)]
pub(crate) struct Home(Mutex<Option<Runtime>>);

#[derive(Debug)]
struct Runtime {
    handle: Handle,
    /// A task that never ends by itself: it is finished when the runtime has shut down.
    canary: JoinHandle<()>,
}

impl Home {
    /// Returns the runtime, if the registry has been started.
    pub(crate) fn current(&self) -> Option<Handle> {
        let home = self.0.lock();
        home.as_ref().filter(|runtime| !runtime.canary.is_finished()).map(|runtime| runtime.handle.clone())
    }

    /// Returns the runtime. If there is none yet, it is the caller's.
    ///
    /// # Errors
    /// There is none, and the caller is not on a tokio runtime.
    pub(crate) fn handle(&self) -> Result<Handle> {
        let mut home = self.0.lock();
        if let Some(runtime) = home.as_ref().filter(|runtime| !runtime.canary.is_finished()) {
            return Ok(runtime.handle.clone());
        }
        let handle = Handle::try_current()?;
        let canary = handle.spawn(std::future::pending());
        *home = Some(Runtime { handle: handle.clone(), canary });
        Ok(handle)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.canary.abort();
    }
}
