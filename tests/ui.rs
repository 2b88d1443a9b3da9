//! What the attribute says: each file in `ui/fail` is one rule, with the compiler's words beside it.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/fail/*.rs");
}
