//! A service that the linker drops unless the program contains `use forgotten as _;`.

use service_core::prelude::*;

/// Discovered only if the program refers to this crate.
#[service(name = "forgotten")]
pub async fn forgotten() {}
