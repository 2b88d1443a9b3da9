//! The rules about keys that depend on each other, as the table of keys declares them.

use syn::Error;
use syn::ext::IdentExt;

use crate::diagnostics::Diagnostics;
use crate::parse::args::{Arg, Args};
use crate::parse::item::Impl;
use crate::parse::keys::{Kind, Rule};
use crate::validate::signatures::RUN;

/// Checks every rule of every argument.
pub(crate) fn check(args: &Args, diagnostics: &mut Diagnostics) {
    for arg in args.iter() {
        // What a key for `update` needs, `check_form` checks.
        for rule in arg.key.rules.iter().filter(|rule| !(is_for_update(arg) && matches!(rule, Rule::Needs { .. }))) {
            if let Some(error) = broken(rule, arg, args) {
                diagnostics.push(error);
            }
        }
    }
}

fn is_for_update(arg: &Arg) -> bool {
    arg.key.rules.iter().any(|rule| matches!(rule, Rule::Update))
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
    // `None`: a function whose `long_running` is wrong.
    let is_long = match form {
        Form::Update => Some(false),
        Form::Run => Some(true),
        Form::Function => args.switch("long_running", false),
    };
    for arg in args.iter() {
        let name = arg.key.name;
        for rule in arg.key.rules {
            let message = match rule {
                Rule::Schedule | Rule::Update if is_long == Some(true) => {
                    format!("`{name}` does not apply to work that continues until a stop is requested: remove it")
                }
                Rule::Run if is_long == Some(false) && form == Form::Function => {
                    format!(
                        "`{name}` is for work that continues until a stop is requested: add `long_running = true` or remove `{name}`"
                    )
                }
                Rule::Run if is_long == Some(false) => {
                    format!(
                        "`{name}` is for a service with `run`: write `{RUN}` in place of `update`, or remove `{name}`"
                    )
                }
                Rule::Function if form != Form::Function => {
                    format!("`{name}` is for functions: in an impl, write `{RUN}`, and remove `{name}`")
                }
                Rule::Needs { .. } if is_long == Some(false) && is_for_update(arg) => {
                    if let Some(error) = broken(rule, arg, args) {
                        diagnostics.push(error);
                    }
                    continue;
                }
                _ => continue,
            };
            diagnostics.push(Error::new(arg.span, message));
        }
    }
}

/// Whether the argument is a schedule, which `on_demand = false` is not.
fn is_schedule(arg: &Arg) -> bool {
    let has_rule = arg.key.rules.iter().any(|rule| matches!(rule, Rule::Schedule));
    has_rule && (arg.key.kind != Kind::Switch || arg.switch() == Some(true))
}

fn broken(rule: &Rule, arg: &Arg, args: &Args) -> Option<Error> {
    let name = arg.key.name;
    let message = match *rule {
        Rule::Schedule => {
            let first = args.iter().find(|arg| is_schedule(arg))?;
            if first.key.name == name || !is_schedule(arg) {
                return None;
            }
            let first = first.key.name;
            format!("`{name}` cannot be used together with `{first}`: a service has one schedule, remove one of them")
        }
        Rule::Needs { key, value } => {
            // A wrong value or name of the other key has been reported already.
            let satisfied = match args.get(key) {
                Some(other) => other.value.is_none() || value.is_none() || other.text() == value,
                None => args.is_unread(key),
            };
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

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::parse::keys::SERVICE;

    /// The keys and their defaults, in the table of the documentation of `#[service]`.
    fn documented() -> Vec<(String, String)> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../service-core/src/service/attribute.md");
        let text = std::fs::read_to_string(file).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let rows = rows.filter_map(|(keys, rest)| Some((keys, rest.split_once(" | ")?.0)));
        let keys = rows.flat_map(|(keys, defaults)| keys.split("`, `").zip(defaults.split(", ")));
        let written = keys.filter_map(|(key, default)| match default {
            "none" => Some((key, "\"none\"")),
            default => Some((key, default.strip_prefix('`')?.strip_suffix('`')?)),
        });
        written.map(|(key, default)| (key.to_owned(), default.to_owned())).collect()
    }

    fn errors(arguments: &str, form: Form) -> Option<String> {
        let mut diagnostics = Diagnostics::default();
        let args = Args::parse(SERVICE, [arguments.parse().unwrap()], &mut diagnostics);
        check(&args, &mut diagnostics);
        check_form(&args, form, &mut diagnostics);
        (!diagnostics.is_empty()).then(|| diagnostics.into_compile_errors().to_string())
    }

    #[test]
    fn every_documented_default_can_be_written() {
        let documented = documented();
        assert!(documented.len() >= 30, "{documented:?}");
        // Beside another value, the default of `restart` or `scope` contradicts keys that need that value.
        let changed = ["restart = \"on_failure\"", "scope = \"cluster\""].join(", ");
        for (form, with_cron) in
            [(Form::Update, false), (Form::Update, true), (Form::Run, false), (Form::Function, false)]
        {
            let mut arguments = changed.clone();
            if with_cron {
                arguments += ", cron = \"@daily\"";
            }
            for (name, default) in &documented {
                let key = SERVICE.find(name).unwrap();
                let fits = key.rules.iter().all(|rule| match rule {
                    Rule::Schedule => form != Form::Run && (name == "on_demand" || !with_cron),
                    Rule::Update => form != Form::Run,
                    Rule::Run => form == Form::Run,
                    Rule::Function => form == Form::Function,
                    Rule::Needs { key, .. } => *key != "cron" || with_cron,
                    Rule::AtLeast(_) | Rule::Feature { .. } => true,
                });
                if fits && !["restart", "scope"].contains(&&**name) {
                    write!(arguments, ", {name} = {default}").unwrap();
                }
            }
            assert_eq!(errors(&arguments, form), None, "{form:?}: {arguments}");
        }
        for alone in ["restart = \"never\"", "scope = \"process\""] {
            assert_eq!(errors(alone, Form::Update), None, "{alone}");
        }
    }

    #[test]
    fn on_demand_is_a_schedule_only_if_it_is_true() {
        for good in ["interval = 30, on_demand = false", "on_demand = false, cron = \"@daily\"", "on_demand = false"] {
            assert_eq!(errors(good, Form::Update), None, "{good}");
        }
        for (bad, message) in [
            ("interval = 30, on_demand = true", "`on_demand` cannot be used together with `interval`"),
            ("on_demand = true, delay = 30", "`delay` cannot be used together with `on_demand`"),
            ("on_demand = false, delay = 30, interval = 5", "`interval` cannot be used together with `delay`"),
        ] {
            assert!(errors(bad, Form::Update).unwrap().contains(message), "{bad}");
        }
        // A service with `run` has no key of a schedule, whatever its value.
        assert!(errors("on_demand = false", Form::Run).is_some());
    }

    #[test]
    fn what_a_wrong_argument_means_for_others_is_no_further_error() {
        for (arguments, form) in [
            ("long_running = \"yes\", idle_timeout = \"2m\", on_end = \"again\", jitter = 5", Form::Function),
            ("long_running = , timeout = 5, stable_after = 5", Form::Function),
            ("longrunning = true, idle_timeout = \"2m\"", Form::Function),
            ("jitter = 5 long_running = true, readiness = \"built\"", Form::Function),
            ("jitter = 5, \"long_running\" = true, readiness = \"built\"", Form::Function),
            ("on_demand = \"no\", delay = 5", Form::Update),
            ("croon = \"@daily\", catch_up = \"latest\"", Form::Update),
            ("max_failures = 5 cron = \"@daily\", timezone = \"UTC\"", Form::Update),
            ("skope = \"cluster\", lease = 5", Form::Update),
        ] {
            let errors = errors(arguments, form).unwrap();
            assert_eq!(errors.matches("compile_error").count(), 1, "{arguments}: {errors}");
        }
        let other = errors("intervall = 30, catch_up = \"latest\"", Form::Update).unwrap();
        assert_eq!(other.matches("compile_error").count(), 2, "the unknown key is not the missing one: {other}");
    }

    #[test]
    fn each_missing_comma_of_an_argument_is_an_error() {
        for arguments in [
            "max_failures = 5 retry_delay = 3 long_running = true, idle_timeout = \"2m\"",
            "max_failures = 5 long_running = true retry_delay, idle_timeout = \"2m\"",
        ] {
            let errors = errors(arguments, Form::Function).unwrap();
            assert_eq!(errors.matches("compile_error").count(), 2, "{arguments}: {errors}");
            for key in ["retry_delay", "long_running"] {
                assert!(errors.contains(&format!("a comma is missing before `{key}`")), "{arguments}: {errors}");
            }
        }
        let value_like_a_key = errors("max_failures = 5 name = timeout", Form::Update).unwrap();
        assert_eq!(value_like_a_key.matches("compile_error").count(), 1, "{value_like_a_key}");
    }

    #[test]
    fn the_path_of_the_crate_may_end_with_the_name_of_a_key() {
        assert_eq!(errors("crate = my_app::cron, jitter = 5", Form::Update), None);
        for bad in ["crate = my_app::core cron", "crate = my_app::core cron = \"@daily\""] {
            assert!(errors(bad, Form::Update).unwrap().contains("a comma is missing before `cron`"), "{bad}");
        }
    }

    #[test]
    fn keys_of_cron_do_not_ask_for_it_in_a_service_with_run() {
        for key in ["catch_up = \"latest\"", "timezone = \"UTC\""] {
            let long = errors(key, Form::Run).unwrap();
            assert!(long.contains("remove it") && !long.contains("add `cron"), "{long}");
            assert!(errors(key, Form::Update).unwrap().contains("has no effect without `cron`"), "{key}");
        }
    }
}
