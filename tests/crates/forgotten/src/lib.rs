//! A service that the linker drops as long as nobody writes `use forgotten as _;`.

use service_core::prelude::*;

/// Found only where its crate is referred to.
#[service(name = "forgotten")]
pub async fn forgotten() {}
