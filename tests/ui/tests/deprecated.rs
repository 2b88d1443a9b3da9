//! `#[allow]`, `#[expect]` and `#[deprecated]` of items and methods reach the generated code, which adds no warning.

#![deny(warnings)]

use service_core::prelude::*;

#[deprecated]
#[derive(Default)]
pub struct Old;

#[allow(deprecated)]
#[service(interval = 1)]
impl Old {
    async fn update(&mut self) {}
}

#[deprecated(since = "1.0.0", note = "use `New`")]
#[derive(Default)]
pub struct Expected;

#[service(interval = 1)]
#[expect(deprecated, reason = "still used by two customers")]
impl Expected {
    fn update(&mut self) {}

    fn cleanup(&mut self) {}
}

#[deprecated]
#[derive(Default)]
pub struct Conditional;

#[cfg_attr(all(), allow(deprecated))]
#[service]
impl Conditional {
    async fn update(&mut self) {}
}

#[deprecated]
#[derive(Default)]
pub struct Inner;

#[service]
#[expect(deprecated)]
impl Inner {
    #![allow(unused)]

    async fn update(&mut self) {}

    fn never_called(&self) {}
}

#[deprecated]
pub struct ByHand;

#[allow(deprecated)]
#[service(discover = false)]
impl ByHand {
    async fn update(&mut self) {}
}

/// A service that is deprecated as a whole.
#[derive(Default)]
pub struct Whole;

#[deprecated]
#[service]
impl Whole {
    async fn update(&mut self) {}

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }
}

/// A function.
#[deprecated(note = "use `clean_outbox`")]
#[service]
pub async fn clean_inbox(cx: &Context) {
    let _ = cx;
}

#[service]
#[cfg_attr(all(), deprecated)]
async fn conditional() {}

/// Methods that are only for the runtime.
pub struct Methods;

#[service]
impl Methods {
    #[deprecated]
    pub fn configure() -> Self {
        Self
    }

    #[deprecated = "not by hand"]
    pub async fn update(&mut self) -> Result<Outcome> {
        Ok(Outcome::idle())
    }

    #[deprecated]
    pub fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }

    #[cfg_attr(all(), deprecated)]
    pub async fn cleanup(&mut self) {}
}

#[derive(Default)]
pub struct Blocking;

#[service]
impl Blocking {
    #[deprecated]
    pub fn update(&mut self) {}

    #[deprecated]
    pub fn cleanup(&mut self) {}
}

#[deprecated]
#[derive(serde::Deserialize)]
pub struct OldSettings {}

#[deprecated]
#[derive(Debug)]
pub struct OldError;

#[allow(deprecated)]
impl std::fmt::Display for OldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("old")
    }
}

#[allow(deprecated)]
impl std::error::Error for OldError {}

pub struct Types;

#[service]
impl Types {
    #[expect(deprecated)]
    async fn configure(_: &Context, settings: OldSettings) -> Result<Self, OldError> {
        let OldSettings {} = settings;
        Ok(Self)
    }

    #[allow(deprecated)]
    async fn update(&mut self) -> Result<(), OldError> {
        Ok(())
    }

    #[expect(deprecated)]
    fn cleanup(&mut self) -> Result<(), OldError> {
        Ok(())
    }
}

pub struct Variants;

#[service]
impl Variants {
    #[cfg(not(any()))]
    #[allow(deprecated)]
    fn configure(_: &Context, _: OldSettings) -> Self {
        Self
    }

    #[cfg(any())]
    fn configure() -> Self {
        Self
    }

    async fn update(&mut self) {}
}

#[derive(Default)]
pub struct Depends;

#[allow(deprecated)]
#[service(depends_on = [Old, clean_inbox])]
impl Depends {
    async fn update(&mut self) {}
}

#[derive(Default)]
pub struct ExpectsToDepend;

#[expect(deprecated)]
#[service(depends_on = [Old, Expected])]
impl ExpectsToDepend {
    async fn update(&mut self) {}
}

#[cfg_attr(all(), expect(deprecated))]
#[service(depends_on = [Old])]
async fn expects_to_depend() {}

/// Deprecated things may use each other.
pub mod elsewhere {
    #[allow(deprecated)]
    use super::{CleanInboxService, clean_inbox};
    use service_core::prelude::*;

    #[allow(deprecated)]
    #[service(depends_on = [clean_inbox])]
    async fn after_all() {
        clean_inbox_by_hand().await;
    }

    #[allow(deprecated)]
    async fn clean_inbox_by_hand() {
        let _ = clean_inbox;
        assert_eq!(CleanInboxService::ID, "clean_inbox");
    }
}

#[test]
fn it_compiles() {}
