//! `expect_services!` is an item, in any place.

#![deny(warnings, missing_docs)]

use service_core::prelude::*;

service_core::expect_services!["tick", "importer"];

#[service]
async fn tick() {}

mod inner {
    service_core::expect_services!["one_more",];
    service_core::expect_services![];
}

#[test]
fn all_that_is_expected_is_found() {
    let mut expected: Vec<(&[&str], u32)> =
        inventory::iter::<service_core::__private::ExpectedServices>().map(|found| (found.ids, found.line)).collect();
    expected.sort_by_key(|(_, line)| *line);
    assert_eq!(expected[0].0, ["tick", "importer"]);
    assert_eq!(expected[1].0, ["one_more"]);
    assert_eq!(expected.len(), 3);
}
