//! Services of a crate of edition 2021 that renames and re-exports the library.

#![forbid(unsafe_code)]
#![deny(warnings, missing_docs)]

use svc::prelude::*;

/// Uses the library by its new name.
#[derive(Default)]
pub struct Renamed;

#[service(crate = svc, interval = 30, depends_on = [Reexported])]
impl Renamed {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let _ = cx;
        Ok(Outcome::idle())
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }

    async fn cleanup(&mut self) {}
}

/// Re-exports the library.
pub mod reexport {
    pub use svc::*;
}

/// Uses the library by a path of this crate.
pub struct Reexported;

#[reexport::service(crate = crate::reexport)]
impl Reexported {
    fn configure() -> Self {
        Self
    }

    fn update(&mut self) {}

    fn cleanup(&mut self) {}
}

/// Uses the library by a path that begins with `::`.
#[service(crate = ::svc)]
pub async fn renamed_function() {}
