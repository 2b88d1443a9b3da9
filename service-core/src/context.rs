//! [`Context`]: what a service sees of the runtime.

use crate::error::Result;

/// What a service sees of the runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    _shared: std::sync::Arc<()>,
}

impl Context {
    /// The service's own settings.
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        Err(crate::Error::msg("not yet"))
    }
}
