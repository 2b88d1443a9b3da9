//! Suggestions for methods whose name is similar to that of a lifecycle method.
//!
//! Without an `update` such a method is an error. Otherwise it may be the user's own method, so that it is a warning at
//! most, and only if more indicates a mistake: the signature fits, the method is private, and nothing in the impl calls
//! it.

use proc_macro2::Ident;
use syn::ext::IdentExt;
use syn::{Error, PatType, ReturnType, Type, Visibility};

use crate::model::{Hint, Model};
use crate::parse::attributes::Inherited;
use crate::parse::item::{Impl, Method, arguments};
use crate::parse::words::mentions;
use crate::spelling::{self, distance};
use crate::validate::signatures::{CLEANUP, CONFIGURE, ON_FAILURE, RUN, UPDATE, is_named_context, is_reference, text};

/// The error for an impl without `update`, with a method that was probably meant.
pub(crate) fn no_update(item: &Impl) -> Error {
    let methods = || item.methods.iter().map(|method| &method.sig.ident);
    let near =
        methods().filter(|name| is_near(name, "update")).min_by_key(|name| distance(&name.to_string(), "update"));
    if let Some(near) = near {
        return Error::new(near.span(), format!("the runtime does not call `{near}`; did you mean `{UPDATE}`?"));
    }
    let other = methods().find(|name| {
        matches!(
            &*name.to_string(),
            "run_once" | "tick" | "execute" | "exec" | "poll" | "process" | "work" | "handle" | "call" | "step"
        )
    });
    let message = match other {
        Some(other) => format!(
            "a service needs a method `update`, which the runtime calls for every run: rename `{other}`, or add `{UPDATE}`"
        ),
        None => {
            format!(
                "a service needs a method `update`, which the runtime calls for every run: add `{UPDATE} {{ … }}`; or, for work \
                 that continues until a stop is requested, `{RUN} {{ … }}`"
            )
        }
    };
    Error::new_spanned(&item.ty, message)
}

fn is_near(name: &Ident, lifecycle: &str) -> bool {
    let name = name.unraw().to_string();
    name != lifecycle && spelling::nearest(&name, [lifecycle]).is_some()
}

/// Private methods with a similar name and a fitting signature that nothing in the impl calls.
pub(crate) fn hints(item: &Impl, model: &Model) -> Vec<Hint> {
    let mut hints = Vec::new();
    for method in &item.methods {
        let Some((meant, write)) = nearly_meant(method, model) else { continue };
        let ident = &method.sig.ident;
        let is_called = item.methods.iter().any(|other| mentions(other.body.clone(), &ident.to_string()));
        if is_called || !matches!(method.vis, Visibility::Inherited) {
            continue;
        }
        let note = format!(
            "the runtime calls `{meant}`, not `{ident}`; did you mean `{write}`? If not, put `#[allow(deprecated)]` on `{ident}`"
        );
        hints.push(Hint { ident: ident.clone(), note, inherited: Inherited::of(&method.attrs) });
    }
    hints
}

/// The lifecycle method that was probably meant: its name is similar and the signature fits.
fn nearly_meant(method: &Method, model: &Model) -> Option<(&'static str, &'static str)> {
    let sig = &method.sig;
    let name = sig.ident.unraw().to_string();
    let is_named = |lifecycle: &str, others: &[&str]| {
        name != lifecycle
            && (others.contains(&&*name)
                || spelling::nearest(&name.replace('_', ""), [&*lifecycle.replace('_', "")]).is_some())
    };
    let arguments: Vec<&PatType> = arguments(sig).collect();
    let by_reference = sig.receiver().is_some_and(is_reference);
    let only_context =
        arguments.iter().all(|argument| is_named_context_reference(&argument.ty)) && arguments.len() <= 1;
    let has_output = matches!(sig.output, ReturnType::Type(..));

    if model.cleanups.is_empty() && by_reference && only_context && is_named("cleanup", &[]) {
        return Some(("cleanup", CLEANUP));
    }
    let takes_failure = matches!(&arguments[..], [failure] if text(&failure.ty).ends_with("Failure"));
    if model.on_failures.is_empty()
        && by_reference
        && takes_failure
        && has_output
        && is_named("on_failure", &["on_error", "on_fail", "handle_failure"])
    {
        return Some(("on_failure", ON_FAILURE));
    }
    let returns_self =
        matches!(&sig.output, ReturnType::Type(_, ty) if text(ty) == "Self" || text(ty).contains("<Self"));
    let fits = sig.receiver().is_none()
        && returns_self
        && arguments.first().is_none_or(|first| is_named_context_reference(&first.ty));
    if model.configures.is_empty()
        && fits
        && arguments.len() <= 2
        && is_named("configure", &["configuration", "config"])
    {
        return Some(("configure", CONFIGURE));
    }
    None
}

fn is_named_context_reference(ty: &Type) -> bool {
    matches!(ty, Type::Reference(reference) if is_named_context(&reference.elem))
}
