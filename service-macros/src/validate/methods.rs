//! The rules about lifecycle methods: receivers, arguments and what they return.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{
    Attribute, Error, FnArg, GenericParam, Pat, PatType, Receiver, ReceiverKind, ReturnType, Safety, Signature, Type,
};

use crate::diagnostics::Diagnostics;
use crate::model::{Lifecycle, Model};
use crate::parse::item::{Impl, arguments};
use crate::parse::words::mentions;
use crate::validate::signatures::{
    CLEANUP, CONFIGURE, ON_FAILURE, RUN, UPDATE, is_context, is_future, is_named_context, is_reference,
    is_shared_reference, text,
};
use crate::validate::suggestions;

const UPDATE_OR_RUN: &str =
    "a service has either `update` or `run`: rename this method, or move it to another impl block";

/// Checks every lifecycle method of an impl.
pub(crate) fn check(item: &Impl, model: &mut Model, diagnostics: &mut Diagnostics) {
    let unreadable = unreadable(item);
    if model.updates.is_empty() && !unreadable.iter().any(|(_, write)| [UPDATE, RUN].contains(write)) {
        diagnostics.push(suggestions::no_update(item));
    }
    for (name, write) in unreadable {
        let message = format!("`#[service]` cannot read the signature of `{name}`: write `{write}`");
        diagnostics.push(Error::new(name.span(), message));
    }
    for (methods, name) in [
        (&model.updates, "update"),
        (&model.configures, "configure"),
        (&model.on_failures, "on_failure"),
        (&model.cleanups, "cleanup"),
    ] {
        let mut always = methods.iter().filter(|method| method.inherited.cfg.is_none());
        let Some(first) = always.next() else { continue };
        for second in always {
            let message = if first.long == second.long {
                let name = if first.long { "run" } else { name };
                format!("a service has only one `{name}`: rename this method, or put a `#[cfg(…)]` on each of them")
            } else {
                UPDATE_OR_RUN.to_owned()
            };
            diagnostics.push(Error::new(second.sig.ident.span(), message));
        }
        // Where its `#[cfg]` is true, the service has both.
        for other in methods.iter().filter(|other| other.inherited.cfg.is_some() && other.long != first.long) {
            diagnostics.push(Error::new(other.sig.ident.span(), UPDATE_OR_RUN));
        }
    }
    for method in &model.updates {
        update(method, diagnostics);
    }
    for method in &model.configures {
        configure(&method.sig, diagnostics);
    }
    for method in &model.on_failures {
        on_failure(&method.sig, diagnostics);
    }
    for method in &model.cleanups {
        plain(&method.sig, CLEANUP, diagnostics);
        receiver(&method.sig, CLEANUP, diagnostics);
        only_context(&method.sig, &with_context(CLEANUP), diagnostics);
    }
    model.hints = suggestions::hints(item, model);
}

/// The lifecycle methods that could not be parsed, each with what to write instead. They need an error here: the
/// compiler has none if it knows more syntax than this macro.
fn unreadable(item: &Impl) -> Vec<(&Ident, &'static str)> {
    let written = item.unreadable.iter().filter_map(|name| {
        let write = match &*name.unraw().to_string() {
            "update" => UPDATE,
            "run" => RUN,
            "configure" => CONFIGURE,
            "on_failure" => ON_FAILURE,
            "cleanup" => CLEANUP,
            _ => return None,
        };
        Some((name, write))
    });
    written.collect()
}

fn update(method: &Lifecycle, diagnostics: &mut Diagnostics) {
    let sig = &method.sig;
    let (name, write) = if method.long { ("run", RUN) } else { ("update", UPDATE) };
    plain(sig, write, diagnostics);
    receiver(sig, write, diagnostics);
    only_context(sig, &with_context(write), diagnostics);
    if !method.is_async()
        && let ReturnType::Type(_, ty) = &sig.output
        && is_future(ty)
    {
        let message = format!("a plain `fn {name}` is blocking code and cannot return a future: write `{write}`");
        diagnostics.push(Error::new_spanned(ty, message));
    }
}

fn configure(sig: &Signature, diagnostics: &mut Diagnostics) {
    plain(sig, CONFIGURE, diagnostics);
    if let Some(receiver) = sig.receiver() {
        let message = format!("`configure` has no `self`, because it builds the instance: write `{CONFIGURE}`");
        diagnostics.push(Error::new_spanned(receiver, message));
    }
    let mut arguments = arguments(sig);
    let (first, second) = (arguments.next(), arguments.next());
    if let Some(cx) = first
        && !is_context(&cx.ty)
    {
        let message = match second {
            Some(other) if is_context(&other.ty) => {
                format!("`cx` is the first argument, the settings are the second: write `{CONFIGURE}`")
            }
            _ if second.is_none() && !is_named_context(&cx.ty) && !matches!(&*cx.ty, Type::Reference(_)) => {
                format!("the settings are the second argument, after `cx`: write `{}`", configure_with(cx))
            }
            _ => format!("the first argument of `configure` is `cx: &Context`: write `{CONFIGURE}`"),
        };
        diagnostics.push(Error::new_spanned(&cx.ty, message));
    } else if let Some(config) = second
        && let Type::Reference(_) | Type::ImplTrait(_) = &*config.ty
    {
        let message = format!(
            "`configure` takes its settings by value, as a type that derives `Deserialize`: write `{CONFIGURE}`"
        );
        diagnostics.push(Error::new_spanned(&config.ty, message));
    }
    for extra in arguments {
        let message = format!(
            "`configure` takes only `cx` and one argument for settings, which can be a struct with many fields: write `{CONFIGURE}`"
        );
        diagnostics.push(Error::new_spanned(extra, message));
    }
    if let ReturnType::Default = sig.output {
        diagnostics.push(Error::new(
            sig.ident.span(),
            "`configure` returns the instance: write `-> Self` or `-> Result<Self>`",
        ));
    }
}

fn configure_with(config: &PatType) -> String {
    let name = match &*config.pat {
        Pat::Ident(pat) => pat.ident.to_string(),
        _ => "config".to_owned(),
    };
    format!("fn configure(cx: &Context, {name}: {})", text(&config.ty))
}

fn on_failure(sig: &Signature, diagnostics: &mut Diagnostics) {
    plain(sig, ON_FAILURE, diagnostics);
    if let Some(async_) = &sig.asyncness {
        let message = format!("`on_failure` cannot be async: write `{ON_FAILURE}`, and do work that waits in `update`");
        diagnostics.push(Error::new_spanned(async_, message));
    }
    receiver(sig, ON_FAILURE, diagnostics);
    let mut arguments = arguments(sig);
    match arguments.next() {
        None => {
            let message = format!("`on_failure` takes the failure: write `{ON_FAILURE}`");
            diagnostics.push(Error::new(sig.ident.span(), message));
        }
        Some(failure) if !is_shared_reference(&failure.ty) => {
            diagnostics.push(Error::new_spanned(
                &failure.ty,
                format!("the failure is passed by shared reference: write `{ON_FAILURE}`"),
            ));
        }
        Some(_) => {}
    }
    for extra in arguments {
        diagnostics
            .push(Error::new_spanned(extra, format!("`on_failure` takes only the failure: write `{ON_FAILURE}`")));
    }
    if let ReturnType::Default = sig.output {
        diagnostics.push(Error::new(sig.ident.span(), "`on_failure` returns its decision: write `-> Recovery`"));
    }
}

/// No `unsafe`, no ABI, no type parameters, no `#[cfg]` on a parameter.
pub(crate) fn plain(sig: &Signature, write: &str, diagnostics: &mut Diagnostics) {
    let name = sig.ident.unraw();
    if let Safety::Unsafe(unsafe_) = &sig.safety {
        let message = format!(
            "`{name}` cannot be an `unsafe fn`, because the runtime calls it: write `{write}`, with an `unsafe` block inside"
        );
        diagnostics.push(Error::new(unsafe_.span, message));
    }
    if let Some(abi) = &sig.abi {
        diagnostics.push(Error::new_spanned(abi, format!("`{name}` cannot be an `extern` function: write `{write}`")));
    }
    for input in &sig.inputs {
        let (FnArg::Typed(PatType { attrs, .. }) | FnArg::Receiver(Receiver { attrs, .. })) = input;
        for attr in attrs.iter().filter(|attr| may_remove(attr)) {
            let message = format!(
                "a parameter of `{name}` cannot have `#[cfg]`, because the runtime passes the same arguments in each case: write \
                 `{name}` twice, each with a `#[cfg(…)]`"
            );
            diagnostics.push(Error::new_spanned(attr, message));
        }
    }
    if let Some(parameter) = type_parameter(sig) {
        let message = format!(
            "`{name}` cannot have the generic parameter `{}`, because the runtime calls it: write `{write}`",
            text(parameter)
        );
        diagnostics.push(Error::new_spanned(parameter, message));
    }
}

/// Whether the attribute may remove its parameter: `#[cfg(…)]`, also in a `#[cfg_attr(…)]`.
fn may_remove(attr: &Attribute) -> bool {
    attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr") && mentions(attr.meta.to_token_stream(), "cfg")
}

/// `&self` or `&mut self`.
fn receiver(sig: &Signature, write: &str, diagnostics: &mut Diagnostics) {
    let name = sig.ident.unraw();
    let Some(receiver) = sig.receiver() else {
        let message = format!("`{name}` needs `&mut self` or `&self`: write `{write}`");
        diagnostics.push(Error::new(sig.ident.span(), message));
        return;
    };
    if is_reference(receiver) {
        return;
    }
    let written = match &receiver.kind {
        ReceiverKind::Typed(_, ty) => text(ty),
        _ => text(receiver),
    };
    let message = match written.contains('&') {
        true => format!("`{name}` cannot take the instance as `{written}`: write `&mut self` or `&self`"),
        false => format!(
            "`{name}` cannot take the instance by value, because the runtime needs it afterwards: write `&mut self` or `&self`"
        ),
    };
    diagnostics.push(Error::new_spanned(receiver, message));
}

fn with_context(signature: &str) -> String {
    format!("write `{signature}`; keep values in the struct and read settings in `configure`")
}

/// At most one argument beside `self`: the context. `write` ends the error message.
pub(crate) fn only_context(sig: &Signature, write: &str, diagnostics: &mut Diagnostics) {
    let name = sig.ident.unraw();
    let mut arguments = arguments(sig);
    if let Some(cx) = arguments.next()
        && !is_context(&cx.ty)
    {
        let message = match &*cx.ty {
            ty if is_named_context(ty) => "the context is passed by shared reference: write `cx: &Context`".to_owned(),
            Type::Reference(reference) if is_named_context(&reference.elem) => {
                "the context is passed by shared reference: write `cx: &Context`".to_owned()
            }
            _ => format!("`{name}` takes only the context: {write}"),
        };
        diagnostics.push(Error::new_spanned(&cx.ty, message));
    }
    for extra in arguments {
        diagnostics.push(Error::new_spanned(extra, format!("`{name}` takes only the context: {write}")));
    }
}

/// The first parameter of a function that is not a lifetime.
fn type_parameter(sig: &Signature) -> Option<&GenericParam> {
    sig.generics.params.iter().find(|param| !matches!(param, GenericParam::Lifetime(_)))
}
