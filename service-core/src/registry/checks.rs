//! What is checked before services are registered: what their options need, their ids, and whether all expected
//! services are linked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::{ConfigErrors, Resolved, ServiceDescriptor};
use crate::registry::companion::LeasesBuilder;
use crate::registry::expect::ExpectedServices;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::extension::Extension;
use crate::runtime::registration::{RegisteredAt, Registration};
use crate::runtime::resource::{Resource, unknown_need};
use crate::schedule::{CatchUp, Schedule};
use crate::service::error::{Error, Result};
use crate::suggest::nearest;

/// Checks that the registry has what the options of a service need.
pub(super) fn check_resolved(
    id: &str,
    resolved: &Resolved,
    extension: &dyn Extension,
    resources: &[Arc<dyn Resource>],
) -> Result<()> {
    check_scope(id, resolved, extension)?;
    check_catch_up(id, resolved, extension)?;
    match unknown_need(id, resolved, resources) {
        Some(wrong) => Err(wrong.into()),
        None => Ok(()),
    }
}

/// `scope = "cluster"` needs what decides which replica runs the service.
fn check_scope(id: &str, resolved: &Resolved, extension: &dyn Extension) -> Result<()> {
    if resolved.options.lease.is_none() || extension.leases().is_some() {
        return Ok(());
    }
    let place = resolved.set_by("scope").map_or("", |set| &set.place);
    let fix = match inventory::iter::<LeasesBuilder>.into_iter().next() {
        None => {
            "the feature `cluster` of service-core, which this program was built without: add `features = [\"cluster\"]` to it in \
             Cargo.toml"
        }
        Some(_) => "a database that all replicas share: add `.database(…)` or `.database_url(\"…\")` to the builder",
    };
    Err(Error::msg(format!("service `{id}`: `scope = \"cluster\"` ({place}) needs {fix}, or remove `scope`")))
}

/// `catch_up` needs an extension that stores the last fire.
fn check_catch_up(id: &str, resolved: &Resolved, extension: &dyn Extension) -> Result<()> {
    match &resolved.options.schedule {
        Schedule::Cron(cron) if cron.catch_up != CatchUp::None && !extension.remembers_fires() => {}
        _ => return Ok(()),
    }
    let place = resolved.set_by("catch_up").map_or("", |set| &set.place);
    Err(Error::msg(format!(
        "service `{id}`: `catch_up` ({place}) needs a database that stores the last fire; add `.database(…)` or \
         `.database_url(…)` to the builder, or leave `catch_up` out"
    )))
}

/// Splits an error into the mistakes in one service's options.
pub(super) fn each(error: &Error) -> Vec<String> {
    match error.find::<ConfigErrors>() {
        Some(errors) => errors.iter().map(ToString::to_string).collect(),
        None => vec![error.to_string()],
    }
}

/// Checks that ids are well-formed, and that no two services have the same.
pub(super) fn check_ids(registrations: &[Registration], problems: &mut Vec<String>) {
    let mut first: BTreeMap<&str, &Registration> = BTreeMap::new();
    for service in registrations {
        if let Err(error) = service.check_id() {
            problems.push(error.to_string());
        }
        if let Some(earlier) = first.get(service.id.as_str()) {
            problems.push(format!(
                "two services have the id `{}`: {} ({}) and {} ({}); give one of them a `name` or an id of its own, \
                 or leave the annotated one out with `discover = false` or `.except`",
                service.id,
                earlier.descriptor.type_name(),
                earlier.place,
                service.descriptor.type_name(),
                service.place
            ));
        } else {
            first.insert(&service.id, service);
        }
    }
}

/// Checks that no id is the name of another type: the section of that name would configure both.
pub(super) fn check_names(registrations: &[Registration], problems: &mut Vec<String>) {
    let mut types: BTreeMap<&str, Vec<&'static ServiceDescriptor>> = BTreeMap::new();
    for Registration { descriptor, .. } in registrations {
        let named = types.entry(descriptor.id).or_default();
        if !named.iter().any(|known| known.is_same(descriptor)) {
            named.push(descriptor);
        }
    }
    for Registration { id, descriptor, place, .. } in registrations {
        let named = types.get(id.as_str()).into_iter().flatten();
        if let Some(other) = named.copied().find(|other| !other.is_same(descriptor)) {
            problems.push(name_clash(id, descriptor, *place, other));
        }
    }
}

/// The message for a service whose id is the name of another type.
pub(super) fn name_clash(id: &str, of: &ServiceDescriptor, place: RegisteredAt, other: &ServiceDescriptor) -> String {
    format!(
        "service `{id}` ({}, {place}): `{id}` is the name of another registered type, {} ({}), and a section of that name \
         would configure both; give the service another id, or the type another `name`",
        of.type_name(),
        other.type_name(),
        format_args!("{}:{}", other.file, other.line),
    )
}

/// Checks that every service that `expect_services!` names is linked.
pub(super) fn check_expected(registrations: &[Registration], problems: &mut Vec<String>) {
    let discovered = ServiceRegistry::discovered().into_iter().map(|descriptor| descriptor.id);
    let registered = registrations.iter().flat_map(|service| [service.id.as_str(), service.descriptor.id]);
    let found: BTreeSet<&str> = discovered.chain(registered).collect();
    for expected in inventory::iter::<ExpectedServices>() {
        let missing = expected.ids.iter().copied().filter(|id| !found.contains(id));
        let missing: Vec<String> = missing
            .map(|id| match nearest(id, found.iter().copied()) {
                Some(near) => format!("{id} (did you mean `{near}`?)"),
                None => id.to_owned(),
            })
            .collect();
        if !missing.is_empty() {
            problems.push(format!(
                "{}:{} expects services that are not linked into this program: {}; the linker drops crates to which no code \
                 refers: for the crate of each of these services, write `use that_crate as _;` in main.rs",
                expected.file,
                expected.line,
                missing.join(", ")
            ));
        }
    }
}
