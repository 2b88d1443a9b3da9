//! Writes the code for a model. This cannot fail.
//!
//! The tricky part is the spans. Whatever can be an error (the service's type, the arguments and results of methods, a
//! future that is not `Send`) has the span of the user's token, so that the compiler shows the error there. Everything
//! else has the span of the attribute.

mod descriptor;
mod items;
mod lifecycle_impl;
mod variants;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;

use crate::expand::descriptor::{build, descriptor, discovered, literal, long_running, settings};
use crate::expand::items::{attributes, cfg, implementation, private};
use crate::expand::lifecycle_impl::lifecycle;
use crate::expand::variants::conditions;
use crate::model::{Lifecycle, Model, Subject};
use crate::parse::lists::Dependency;
use crate::parse::value::Literal;

/// The impls of the traits, the descriptor and its entry on the list of discovered services.
pub(crate) fn service(model: &Model) -> TokenStream {
    let type_ = function_type(model);
    let no_update = no_update_left(model);
    let both = update_and_run(model);
    let lifecycle = lifecycle(model);
    let attributes = model.attributes.iter().map(|(key, value)| {
        let value = literal(model, value);
        quote!((#key, #value))
    });
    let service =
        descriptor(model, &quote!(&[#(#attributes),*]), &build(model), &settings(model), &long_running(model));
    let discovered = discovered(model);
    let hints = hints(model);
    quote! {
        #type_
        #no_update
        #both
        #lifecycle
        #service
        #discovered
        #hints
    }
}

/// After an error: just enough for the type to count as a service, so that its uses elsewhere are not further errors.
pub(crate) fn fallback(model: &Model) -> TokenStream {
    let type_ = function_type(model);
    let private = private(model, Span::call_site());
    let shape = quote! {
        fn __shape(&self) -> #private::Shape {
            #private::Shape::NONE
        }
    };
    let lifecycle = implementation(model, "Lifecycle", &shape);
    let service = descriptor(model, &quote!(&[]), &quote!(#private::None), &quote!(#private::None), &quote!(false));
    quote! {
        #type_
        #lifecycle
        #service
    }
}

/// An attribute for the user's item. The use of something deprecated that the item expects may be in `depends_on`,
/// which becomes part of another item, so that the compiler would report the expectation as unfulfilled.
pub(crate) fn expectation(model: &Model) -> Option<TokenStream> {
    let depends_on_types = model.attributes.iter().any(|(_, value)| match value {
        Literal::Services(services) => services.iter().any(|service| matches!(service, Dependency::Type(_))),
        _ => false,
    });
    let expected = depends_on_types && model.inherited.expects_deprecated;
    expected.then(|| quote!(#[allow(unfulfilled_lint_expectations)]))
}

/// The type of a function's service.
fn function_type(model: &Model) -> Option<TokenStream> {
    let Subject::Function { vis, ident, service, docs } = &model.subject else { return None };
    let (attributes, deprecated) = (attributes(model), &model.inherited.deprecated);
    let doc = format!(" The service that runs [`{}()`].", ident.unraw());
    let definition = quote_spanned!(service.span()=> struct #service;);
    Some(quote! {
        #attributes
        #deprecated
        #[doc = #doc]
        #(#docs)*
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug, ::core::default::Default)]
        #vis #definition
    })
}

/// Where every `update` and `run` has a `#[cfg]`: an error for the case that all of them are false.
fn no_update_left(model: &Model) -> Option<TokenStream> {
    let none = conditions(&model.updates).1.filter(|_| !model.updates.is_empty())?;
    let message = "neither `update` nor `run` is left where these `#[cfg]`s are false: add one for that case, or put the `#[cfg]` on the impl";
    Some(error_where(model, &none, model.updates.first()?, message))
}

/// Where `update` and `run` each have a `#[cfg]`: an error for the case that both are true. One of them would never run.
fn update_and_run(model: &Model) -> TokenStream {
    let (runs, updates): (Vec<&Lifecycle>, Vec<&Lifecycle>) = model.updates.iter().partition(|method| method.long);
    let pairs = runs.iter().flat_map(|run| updates.iter().map(move |update| (run, update)));
    let errors = pairs.filter_map(|(run, update)| {
        let (run_cfg, update_cfg) = (run.inherited.cfg.as_ref()?, update.inherited.cfg.as_ref()?);
        let message = "a service has either `update` or `run`, and here both of their `#[cfg]`s are true: let one exclude the other, for example with `not(…)`";
        Some(error_where(model, &quote!(all(#run_cfg, #update_cfg)), run, message))
    });
    errors.collect()
}

/// An error at a method, where this condition and that of the impl are true.
fn error_where(model: &Model, condition: &TokenStream, method: &Lifecycle, message: &str) -> TokenStream {
    let condition = match &model.inherited.cfg {
        Some(cfg) => quote!(all(#cfg, #condition)),
        None => condition.clone(),
    };
    quote_spanned!(method.sig.ident.span()=> #[cfg(#condition)] ::core::compile_error! { #message })
}

/// Warnings. The use of a deprecated function is the only one that a macro can cause on a stable compiler.
fn hints(model: &Model) -> TokenStream {
    let of_item = attributes(model);
    let hints = model.hints.iter().map(|hint| {
        let (ident, note) = (&hint.ident, &hint.note);
        let (cfg, lints) = (cfg(hint.inherited.cfg.as_ref()), &hint.inherited.lints);
        let called = quote_spanned!(ident.span()=> #ident());
        let mut named = ident.clone();
        named.set_span(Span::call_site());
        quote! {
            #of_item
            #cfg
            #lints
            const _: () = {
                #[deprecated(note = #note)]
                const fn #named() {}
                #called
            };
        }
    });
    hints.collect()
}
