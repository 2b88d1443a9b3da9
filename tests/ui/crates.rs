//! Services of other crates: renamed, of another edition, with strict lints, and one that no code refers to.

use std::collections::BTreeMap;

use pedantic as _;
use service_core::__private::{Discovered, ExpectedServices};
use service_core::{Service, ServiceDescriptor, ServiceRegistry, expect_services};

expect_services!["full", "forgotten"];

fn discovered() -> BTreeMap<&'static str, &'static ServiceDescriptor> {
    inventory::iter::<Discovered>().map(|found| (found.0.id(), found.0)).collect()
}

#[test]
fn services_of_a_renamed_dependency_are_discovered() {
    let found = discovered();
    for id in ["renamed", "reexported", "renamed_function"] {
        assert!(found.contains_key(id), "{id}");
    }
    assert_eq!(renamed::Renamed::ID, "renamed");
}

#[test]
fn services_of_a_strict_crate_are_discovered() {
    let found = discovered();
    for id in ["full", "blocking", "tick", "private_tick"] {
        assert!(found.contains_key(id), "{id}");
    }
    assert!(!found.contains_key("ready_made"));
}

#[test]
fn a_crate_that_no_code_refers_to_is_dropped_and_reported() {
    let found = discovered();
    let missing: Vec<&str> = inventory::iter::<ExpectedServices>()
        .flat_map(|expected| expected.ids)
        .copied()
        .filter(|id| !found.contains_key(id))
        .collect();
    assert_eq!(missing, ["forgotten"]);
    let expected = inventory::iter::<ExpectedServices>().next().map(|expected| (expected.file, expected.line));
    assert_eq!(expected, Some((file!(), 9)));
}

#[test]
fn a_descriptor_names_its_place() {
    let tick = discovered()["tick"];
    assert!(tick.file().ends_with("crates/pedantic/src/lib.rs"), "{}", tick.file());
    assert_eq!(tick.module_path(), "pedantic");
    assert_eq!(tick.type_name(), "pedantic::TickService");
    let full = discovered()["full"];
    assert_eq!(full.type_name(), "pedantic::Full");
    assert!(full.line() < tick.line());
}

#[tokio::test]
async fn the_start_names_services_that_the_linker_dropped() {
    let error = ServiceRegistry::builder().build().await.expect_err("`forgotten` is not linked");
    let words = error.to_string();
    for word in ["ui/crates.rs:9", "forgotten", "use that_crate as _;"] {
        assert!(words.contains(word), "{words}");
    }
    assert!(!words.contains("full"), "{words}");
}
