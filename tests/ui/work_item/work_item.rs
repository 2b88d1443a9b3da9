//! What `#[derive(WorkItem)]` says: each file in `fail` is one rule, with the compiler's words beside it.
//!
//! `TRYBUILD=overwrite cargo test --test work_item` writes the words anew; read what changed before it is committed.

#[test]
fn work_item() {
    trybuild::TestCases::new().compile_fail("fail/*.rs");
}
