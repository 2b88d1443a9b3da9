//! The rules about keys that depend on each other, as the table of keys declares them.

use syn::Error;
use syn::ext::IdentExt;

use crate::diagnostics::Diagnostics;
use crate::parse::args::{Arg, Args};
use crate::parse::item::Impl;
use crate::parse::keys::Rule;
use crate::validate::signatures::RUN;

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

/// Whether the service has `run` or `update`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Update,
    Run,
    /// An `async fn`: `long_running` decides.
    Function,
}

impl Form {
    /// The form of an impl with these lifecycle methods. `None`: none of them, or both under `#[cfg]`.
    pub(crate) fn of_impl(item: &Impl) -> Option<Self> {
        let has = |name: &str| item.methods.iter().any(|method| method.sig.ident.unraw() == name);
        match (has("update"), has("run")) {
            (true, false) => Some(Self::Update),
            (false, true) => Some(Self::Run),
            _ => None,
        }
    }
}

/// Checks that every key is for this form of service.
pub(crate) fn check_form(args: &Args, form: Form, diagnostics: &mut Diagnostics) {
    let is_long = form == Form::Run || (form == Form::Function && args.is_on("long_running"));
    for arg in args.iter() {
        let name = arg.key.name;
        for rule in arg.key.rules {
            let message = match rule {
                Rule::Schedule | Rule::Update if is_long => {
                    format!("`{name}` does not apply to work that continues until a stop is requested: remove it")
                }
                Rule::Run if !is_long && form == Form::Function => {
                    format!(
                        "`{name}` is for work that continues until a stop is requested: add `long_running = true` or remove `{name}`"
                    )
                }
                Rule::Run if !is_long => {
                    format!(
                        "`{name}` is for a service with `run`: write `{RUN}` in place of `update`, or remove `{name}`"
                    )
                }
                Rule::Function if form != Form::Function => {
                    format!("`{name}` is for functions: in an impl, write `{RUN}`, and remove `{name}`")
                }
                _ => continue,
            };
            diagnostics.push(Error::new(arg.span, message));
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
        // `check_form` checks these.
        Rule::Update | Rule::Run | Rule::Function => return None,
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
    };
    Some(Error::new(arg.span, message))
}
