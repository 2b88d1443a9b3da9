//! What generated items have in common: the path of the runtime, the service's type, attributes, the head of an impl.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Generics, parse_quote_spanned};

use crate::model::{Model, Subject};

/// The path of the runtime's module for generated code. `at`: where an error about an item of it is shown.
pub(crate) fn private(model: &Model, at: Span) -> TokenStream {
    match &model.runtime {
        Some(path) => quote_spanned!(at=> #path::__private),
        // The crate's name always has the span of the attribute, so that a missing crate is one error, not several.
        None => {
            let service_core = Ident::new("service_core", Span::call_site());
            quote_spanned!(at=> ::#service_core::__private)
        }
    }
}

pub(crate) fn self_type(model: &Model) -> TokenStream {
    match &model.subject {
        Subject::Impl { ty, .. } => ty.to_token_stream(),
        Subject::Function { service, .. } => service.to_token_stream(),
    }
}

/// `#[cfg]` and lint levels of the user's item, for a generated item.
pub(crate) fn attributes(model: &Model) -> TokenStream {
    let (cfg, lints) = (cfg(model.inherited.cfg.as_ref()), &model.inherited.lints);
    quote!(#cfg #lints)
}

pub(crate) fn cfg(condition: Option<&TokenStream>) -> Option<TokenStream> {
    condition.map(|condition| quote!(#[cfg(#condition)]))
}

/// `impl Trait for Type { … }`, as if the user had written it.
pub(crate) fn implementation(model: &Model, trait_: &str, body: &TokenStream) -> TokenStream {
    let attributes = attributes(model);
    let ty = self_type(model);
    let (at, generics) = match &model.subject {
        Subject::Impl { at, generics, ty } => {
            let mut generics = Generics::clone(generics);
            // The body may rely on this, so that the error about a type that is not `Send` appears once, and not for
            // every method. A generic impl is restricted to the types that can be services.
            let sendable = parse_quote_spanned!(ty.span()=> #ty: ::core::marker::Send + 'static);
            generics.make_where_clause().predicates.push(sendable);
            (*at, generics)
        }
        Subject::Function { ident, .. } => (ident.span(), Generics::default()),
    };
    let (parameters, _, where_clause) = generics.split_for_impl();
    let private = private(model, at);
    let trait_ = Ident::new(trait_, at);
    let implementation = quote_spanned!(at=> impl #parameters #private::#trait_ for #ty #where_clause { #body });
    quote! {
        #attributes
        #[automatically_derived]
        #implementation
    }
}
