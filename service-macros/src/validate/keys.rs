//! The rules about keys that depend on each other, as the table of keys declares them.

use syn::Error;

use crate::diagnostics::Diagnostics;
use crate::parse::args::{Arg, Args};
use crate::parse::keys::Rule;

/// Checks every rule of every argument.
pub(crate) fn check(args: &Args, diagnostics: &mut Diagnostics) {
    for arg in args.iter() {
        for rule in arg.key.rules {
            if let Some(error) = broken(rule, arg, args) {
                diagnostics.push(error);
            }
        }
    }
}

fn broken(rule: &Rule, arg: &Arg, args: &Args) -> Option<Error> {
    let name = arg.key.name;
    let message = match *rule {
        Rule::Schedule => {
            let first = args.iter().find(|arg| arg.key.rules.iter().any(|rule| matches!(rule, Rule::Schedule)))?;
            if first.key.name == name {
                return None;
            }
            let first = first.key.name;
            format!("`{name}` cannot be used together with `{first}`: a service has one schedule, remove one of them")
        }
        Rule::Needs { key, value } => {
            // A wrong value of the other key has been reported already.
            let satisfied =
                args.get(key).is_some_and(|other| other.value.is_none() || value.is_none() || other.text() == value);
            if satisfied {
                return None;
            }
            match value {
                Some(value) => {
                    format!("`{name}` has no effect without `{key} = \"{value}\"`: add that or remove `{name}`")
                }
                None => {
                    let needed = args.declared(key)?.assignment();
                    format!("`{name}` has no effect without `{key}`: add `{needed}` or remove `{name}`")
                }
            }
        }
        Rule::AtLeast(key) => {
            let time = |arg: &Arg| arg.literal()?.duration();
            if time(arg)? >= time(args.get(key)?)? {
                return None;
            }
            format!("`{name}` is shorter than `{key}`: write a longer time or remove one of them")
        }
        Rule::Feature { name: feature, enabled } => {
            if enabled {
                return None;
            }
            format!(
                "`{name}` needs the feature `{feature}` of service-core: add `features = [\"{feature}\"]` to it in Cargo.toml"
            )
        }
        Rule::Unavailable { value, instead } => {
            if arg.text() != Some(value) {
                return None;
            }
            return Some(Error::new(arg.value_span, format!("`{name} = \"{value}\"` is not available yet: {instead}")));
        }
    };
    Some(Error::new(arg.span, message))
}
