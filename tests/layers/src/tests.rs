use std::collections::BTreeMap;

use crate::check::{Layers, Report};
use crate::source::Sources;

const LAYERS: Layers = Layers {
    name: "example",
    modules: &[&["humanize"], &["config"], &["runtime"], &["registry"], &["database"]],
    features: &[("sqlite", "database")],
    root_only_reexports: true,
};

/// Returns the violations in a crate of these files.
fn violations(files: &[(&str, &str)]) -> Vec<String> {
    let modules = "mod config; mod registry; mod runtime; #[cfg(feature = \"database\")] pub mod database;
        pub use registry::handle::Handle; pub mod prelude { pub use crate::registry::handle::Handle; }";
    let mut texts: BTreeMap<String, String> = [
        "config.rs",
        "registry/mod.rs",
        "registry/handle.rs",
        "runtime/mod.rs",
        "runtime/status.rs",
        "database/mod.rs",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), String::new()))
    .collect();
    texts.insert("lib.rs".to_owned(), modules.to_owned());
    texts.insert("registry/mod.rs".to_owned(), "pub(crate) mod handle; pub(crate) use handle::Handle;".to_owned());
    texts.insert("registry/handle.rs".to_owned(), "pub struct Handle;".to_owned());
    texts.insert("runtime/mod.rs".to_owned(), "pub(crate) mod status;".to_owned());
    texts.insert("runtime/status.rs".to_owned(), "pub(crate) struct Status; pub(crate) fn read() {}".to_owned());
    for (name, text) in files {
        texts.insert((*name).to_owned(), (*text).to_owned());
    }
    let sources = Sources::parse(texts).unwrap();
    Report::new(&LAYERS, &sources).violations
}

#[track_caller]
fn found(files: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(violations(files), expected, "{files:?}");
}

#[test]
fn arrows_to_lower_layers_are_allowed() {
    found(&[("registry/handle.rs", "use crate::runtime::status::Status; pub struct Handle(Status);")], &[]);
    found(&[("registry/handle.rs", "use super::super::runtime::status; fn f() { status::read() }")], &[]);
    found(&[("database/mod.rs", "impl crate::Handle { fn db(&self) {} }")], &[]);
}

#[test]
fn every_form_of_an_arrow_to_a_higher_layer_is_reported() {
    for (line, path) in [
        ("use crate::registry::handle::Handle;", "crate::registry::handle::Handle"),
        ("use crate::{registry::{handle::{self, Handle as H}}, config};", "crate::registry::handle::Handle"),
        ("fn f() -> crate::registry::Handle {}", "crate::registry::Handle"),
        ("fn f(handle: &super::super::registry::Handle) {}", "super::super::registry::Handle"),
        ("use crate::Handle;", "crate::Handle"),
        ("use crate::prelude::*; fn f() { Handle::new() }", "Handle::new"),
        ("use crate::registry; struct S { handle: registry::handle::Handle }", "registry::handle::Handle"),
        (
            "mod inner { fn f() { super::super::super::registry::handle::Handle; } }",
            "super::super::super::registry::handle::Handle",
        ),
    ] {
        found(
            &[("runtime/status.rs", line)],
            &[&format!("runtime/status.rs:1: `{path}` points up, to registry/handle.rs")],
        );
    }
}

#[test]
fn tests_comments_strings_and_generated_code_are_not_read() {
    for text in [
        "//! [`Handle`](crate::registry::handle::Handle)\n/* crate::registry::Handle */ /// `crate::registry::Handle`\nfn f() {}",
        "const TEXT: &str = \"crate::registry::Handle\"; const RAW: &str = r#\"crate::registry::Handle\"#;",
        "#[cfg(test)] use crate::registry::Handle;",
        "#[cfg(test)] mod tests { use crate::registry::Handle; }",
        "#[cfg(test)] mod tests;",
        "struct S { #[cfg(test)] handle: crate::registry::Handle, other: u8 }",
        "#[cfg(test)] impl<A, B> S<A, B> { fn f() -> crate::registry::Handle {} }",
        "fn f() { quote! { crate::registry::Handle } }",
        "use crate::registry;",
        "fn f() { ::registry::handle::Handle; std::mem::take(&mut 1); }",
    ] {
        found(&[("runtime/status.rs", text)], &[]);
    }
    found(
        &[("runtime/status.rs", "#[cfg(test)] fn f<A, B>() { }\nuse crate::registry::Handle;")],
        &["runtime/status.rs:2: `crate::registry::Handle` points up, to registry/handle.rs"],
    );
}

#[test]
fn files_that_use_each_other_are_reported() {
    found(
        &[
            ("runtime/mod.rs", "mod one; mod two; mod three;"),
            ("runtime/one.rs", "use super::two::Two; pub(super) struct One;"),
            ("runtime/two.rs", "pub(super) struct Two(super::three::Three);"),
            ("runtime/three.rs", "\nuse crate::runtime::one::One;\npub(super) struct Three;"),
        ],
        &["3 files use each other in a circle (runtime/three.rs, runtime/two.rs, runtime/one.rs): \
           runtime/three.rs:2 uses `crate::runtime::one::One` of runtime/one.rs; \
           runtime/one.rs:1 uses `super::two::Two` of runtime/two.rs; \
           runtime/two.rs:1 uses `super::three::Three` of runtime/three.rs"],
    );
}

#[test]
fn a_parent_may_use_its_children_or_they_may_use_it_but_not_both() {
    let child = ("runtime/status.rs", "use super::Runtime; pub(crate) struct Status;");
    found(&[child, ("runtime/mod.rs", "mod status; pub(crate) use status::Status; pub(crate) struct Runtime;")], &[]);
    found(
        &[child, ("runtime/mod.rs", "mod status; use status::Status; pub(crate) struct Runtime(Status);")],
        &["2 files use each other in a circle (runtime/mod.rs, runtime/status.rs): \
           runtime/mod.rs:1 uses `status::Status` of runtime/status.rs; \
           runtime/status.rs:1 uses `super::Runtime` of runtime/mod.rs"],
    );
}

#[test]
fn a_feature_stays_in_its_folder() {
    let stray = |line| {
        format!("runtime/status.rs:{line}: `feature = \"sqlite\"` belongs in database/, or on a `mod` or `use` line")
    };
    for text in [
        "#[cfg(feature = \"sqlite\")] fn f() {}",
        "fn f() { if cfg!(feature = \"sqlite\") {} }",
        "fn f() { #[cfg(all(unix, not(feature = \"sqlite\")))] let x = 1; }",
        "struct S { #[cfg(feature = \"sqlite\")] x: u8 }",
        "#[cfg_attr(feature = \"sqlite\", derive(Debug))] struct S;",
    ] {
        found(&[("runtime/status.rs", text)], &[&stray(1)]);
        found(&[("database/mod.rs", text)], &[]);
    }
    found(
        &[("runtime/status.rs", "#[cfg(feature = \"sqlite\")] #[doc(hidden)] pub(crate) use crate::config::X;")],
        &[],
    );
    found(&[("runtime/status.rs", "#[cfg(feature = \"sqlite\")] mod inner {}")], &[]);
    found(&[("runtime/status.rs", "#[cfg(test)] fn f() { cfg!(feature = \"sqlite\") }")], &[]);
}

#[test]
fn the_root_contains_only_re_exports() {
    found(
        &[("lib.rs", "mod config;\nmacro_rules! m { () => {}; }\npub use config::X;\npub fn f() {}")],
        &["lib.rs:4: `fn f` is more than a re-export"],
    );
}

#[test]
fn a_module_without_a_layer_is_reported() {
    found(&[("lib.rs", "mod config; mod helpers;"), ("helpers.rs", "")], &["helpers.rs: this module is in no layer"]);
}
