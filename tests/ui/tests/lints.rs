//! Lints other than `deprecated`: what an item allows or expects is fulfilled once, and generated code adds nothing.

#![deny(
    warnings,
    missing_copy_implementations,
    missing_debug_implementations,
    missing_docs,
    nonstandard_style,
    rust_2018_idioms,
    single_use_lifetimes,
    trivial_casts,
    unfulfilled_lint_expectations,
    unreachable_pub,
    unused,
    unused_lifetimes,
    unused_qualifications,
    unused_results
)]

use service_core::prelude::*;

#[expect(non_camel_case_types)]
#[derive(Debug, Default)]
struct lower_case;

#[allow(non_camel_case_types)]
#[service]
impl lower_case {
    async fn r#update(&mut self, r#cx: &Context) {
        let _ = r#cx;
    }

    fn r#cleanup(&mut self) {}
}

#[expect(non_snake_case)]
#[service(name = "clean_up")]
async fn CleanUp() {}

#[service]
async fn r#match() {}

mod private {
    use service_core::prelude::*;

    #[expect(unreachable_pub)]
    #[service]
    pub async fn too_public() {}
}

/// Never registered, so that the function is unused.
#[expect(dead_code)]
#[service(discover = false)]
async fn not_registered() {}

/// Registered by its type.
#[service(discover = false)]
pub(crate) async fn by_type() {}

#[derive(Debug, Default)]
struct Unused {
    #[expect(dead_code)]
    field: u32,
}

#[service]
impl Unused {
    async fn update(&mut self) {}

    #[expect(dead_code)]
    fn never_called(&self) {}

    #[expect(unused_variables, clippy::unused_self, reason = "an example of several")]
    fn cleanup(&mut self, cx: &Context) {}
}

#[derive(Debug, Default)]
struct MustUse;

#[service]
impl MustUse {
    #[must_use]
    async fn update(&mut self) -> Outcome {
        Outcome::idle()
    }

    #[must_use]
    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }
}

#[must_use]
#[service]
async fn must_use() -> Outcome {
    Outcome::idle()
}

#[derive(Debug, Default)]
struct Endless;

#[service]
impl Endless {
    #[expect(unreachable_code)]
    async fn update(&mut self) {
        panic!("always");
        self.cleanup();
    }

    fn cleanup(&mut self) {
        panic!("always")
    }
}

#[expect(single_use_lifetimes)]
#[service]
async fn named_lifetime<'a>(cx: &'a Context) {
    let _ = cx;
}

#[derive(Debug, Default)]
struct Levels;

// A level below the crate's, and one above.
#[warn(unused_qualifications)]
#[deny(dead_code)]
#[forbid(unused_must_use)]
#[service]
impl Levels {
    async fn update(&mut self) {}
}

#[test]
fn the_type_of_a_function_has_its_id() {
    assert_eq!(ByTypeService::ID, "by_type");
}
