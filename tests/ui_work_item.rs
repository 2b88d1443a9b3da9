//! What `#[derive(WorkItem)]` says: each file in `ui/work_item/fail` is one rule, with the compiler's words beside it.
//!
//! `TRYBUILD=overwrite cargo test --test ui_work_item` writes the words anew; read what changed before it is committed.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/work_item/pass/*.rs");
    cases.compile_fail("ui/work_item/fail/*.rs");
}
