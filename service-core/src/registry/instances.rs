//! `instances`: one registration becomes several, with ids of their own.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Sources;
use crate::runtime::fit::ONLY_ONE;
use crate::runtime::registration::Registration;

/// Replaces each registration with `instances` above one by that many. Adds what is wrong to `problems`.
pub(crate) fn repeat(
    registrations: Vec<Registration>,
    sources: &Sources,
    problems: &mut Vec<String>,
) -> Vec<Registration> {
    if !registrations.iter().any(|registration| sources.sets_key(registration.target(), KEY)) {
        return registrations;
    }
    let mut all = Vec::new();
    for registration in registrations {
        match instances(&registration, sources) {
            (1, _) => all.push(registration),
            // Two `_` separate id and key in the names of variables.
            (count, place) if registration.id.ends_with('_') => problems.push(format!(
                "service `{}` ({}): `{KEY} = {count}` ({place}) needs an id that does not end in `_`: `{}_1` is no id",
                registration.id, registration.place, registration.id
            )),
            (count, place) => match registration.repeat(count) {
                Some(several) => all.extend(several),
                None => problems.push(format!(
                    "service `{}` ({}): `{KEY} = {count}` ({place}) {ONLY_ONE}",
                    registration.id, registration.place
                )),
            },
        }
    }
    check_clashes(&all, problems);
    all
}

/// The key that [`repeat`] reads.
pub(crate) const KEY: &str = "instances";

/// Returns how many services the registration stands for, and the place of that number. Wrong options are reported when
/// the service is made.
fn instances(registration: &Registration, sources: &Sources) -> (u32, String) {
    let one = (1, String::new());
    if !sources.sets_key(registration.target(), KEY) {
        return one;
    }
    let Ok(resolved) = sources.resolve(registration.target(), &[]) else { return one };
    let place = resolved.set_by(KEY).map(|set| set.place.clone());
    (resolved.options.instances, place.unwrap_or_default())
}

/// Finds ids that two registrations have after they were repeated. For two registrations, one of the ids is reported.
fn check_clashes(all: &[Registration], problems: &mut Vec<String>) {
    let (mut first, mut reported) = (BTreeMap::<&str, &Registration>::new(), BTreeSet::new());
    for service in all {
        let Some(earlier) = first.insert(&service.id, service) else { continue };
        // With the same number, the ids are the same without it, too, which has been reported already.
        let number =
            |registration: &Registration| Some(registration.instance.0).filter(|_| registration.instance.1 > 1);
        let is_new = number(service) != number(earlier);
        let (here, there) = (service.place.to_string(), earlier.place.to_string());
        if is_new && reported.insert((here.clone(), there.clone())) {
            problems.push(format!(
                "two services have the id `{}`: {} ({there}) and {} ({here}); give one of them another id, or change `{KEY}`",
                service.id,
                described(earlier),
                described(service)
            ));
        }
    }
}

fn described(registration: &Registration) -> String {
    let type_name = registration.descriptor.type_name();
    match registration.instance {
        (_, 1) => type_name.to_owned(),
        (number, of) => format!("{type_name}, instance {number} of {of}"),
    }
}

#[cfg(test)]
mod tests {
    use service_macros::service;

    use crate::config::Inputs;
    use crate::registry::service_registry::ServiceRegistry;

    #[derive(Default)]
    struct Packer;

    #[service(crate = crate, discover = false)]
    impl Packer {
        async fn update(&mut self) {}
    }

    /// A test cannot set the variables of its own process.
    #[tokio::test]
    async fn the_environment_sets_the_number_for_the_type_and_options_for_one() {
        let environment = [("SERVICES__PACKER__INSTANCES", "3"), ("SERVICES__PACKER_2__INTERVAL", "7")];
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut builder = ServiceRegistry::builder().without_discovered().service_of::<Packer>("packer");
        builder.inputs = Some(Inputs { environment, ..Inputs::default() });
        let services = builder.build().await.unwrap();
        let ids = services.list();
        assert_eq!(ids, ["packer_1", "packer_2", "packer_3"]);
        let schedules = ids.iter().map(|id| services.get(id).unwrap().explain().schedule);
        assert_eq!(schedules.collect::<Vec<_>>(), ["every 1m", "every 7s", "every 1m"]);
    }
}
