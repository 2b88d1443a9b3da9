//! `impl Service`: the descriptor, and its place on the list of discovered services.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;

use crate::expand::items::{attributes, implementation, private, self_type};
use crate::expand::lifecycle_impl;
use crate::expand::variants::choose;
use crate::model::{Lifecycle, Model, Subject};
use crate::parse::item::arguments;
use crate::parse::lists::Dependency;
use crate::parse::reads::ReadsSettings;
use crate::parse::value::Literal;

/// `impl Service`.
pub(crate) fn descriptor(
    model: &Model,
    attributes: &TokenStream,
    build: &TokenStream,
    settings: &TokenStream,
    long_running: &TokenStream,
) -> TokenStream {
    let private = private(model, Span::call_site());
    let id = &model.id;
    let body = quote! {
        const ID: &'static ::core::primitive::str = #id;
        const DESCRIPTOR: &'static #private::ServiceDescriptor = &#private::descriptor::<Self>(
            #private::place!(),
            #attributes,
            #settings,
            #long_running,
        );
        const BUILD: #private::Option<#private::Build> = #build;
    };
    implementation(model, "Service", &body)
}

/// The entry on the list of services that the linker collects.
pub(crate) fn discovered(model: &Model) -> Option<TokenStream> {
    let private = private(model, Span::call_site());
    let attributes = attributes(model);
    let ty = self_type(model);
    // Attributes have no effect on a macro call, so that the call needs an item around it.
    model.discover.then(|| {
        quote! {
            #attributes
            const _: () = {
                #private::inventory::submit! {
                    #private::Discovered(
                        <#ty as #private::Service>::DESCRIPTOR,
                        <#ty as #private::Service>::BUILD,
                    )
                }
            };
        }
    })
}

pub(crate) fn literal(model: &Model, value: &Literal) -> TokenStream {
    let private = private(model, Span::call_site());
    let literal = quote!(#private::Literal);
    match value {
        Literal::Int(int) => quote!(#literal::Int(#int)),
        Literal::Float(float) => quote!(#literal::Float(#float)),
        Literal::Str(text) => quote!(#literal::Str(#text)),
        Literal::Bool(bool) => quote!(#literal::Bool(#bool)),
        Literal::Names(names) => quote!(#literal::List(&[#(#names),*])),
        Literal::Services(services) => {
            let ids = services.iter().map(|service| match service {
                Dependency::Id(id, _) => id.to_token_stream(),
                Dependency::Type(ty) => {
                    let private = self::private(model, ty.span());
                    quote_spanned!(ty.span()=> <#ty as #private::Service>::ID)
                }
            });
            quote!(#literal::List(&[#(#ids),*]))
        }
    }
}

/// The function that builds an instance: by `configure`, else by `Default`.
pub(crate) fn build(model: &Model) -> TokenStream {
    let private = private(model, Span::call_site());
    let by_default = match &model.subject {
        Subject::Impl { ty, .. } if model.discover => {
            let at = self::private(model, ty.span());
            let build = quote_spanned!(ty.span()=> <#ty as #at::ByDefault>::build);
            quote!(#private::Some(#build))
        }
        Subject::Function { .. } => quote!(#private::Some(<Self as #private::ByDefault>::build)),
        Subject::Impl { .. } => quote!({
            use #private::PerhapsDefault as _;
            let () = #private::Probe::<Self>::IN_USE;
            #private::Probe::<Self>::BUILD
        }),
    };
    choose(&model.configures, |method| lifecycle_impl::configure(model, method), by_default)
}

/// Whether the service has `run`.
pub(crate) fn long_running(model: &Model) -> TokenStream {
    let of = |method: &Lifecycle| {
        let long = method.long;
        quote!(#long)
    };
    choose(&model.updates, of, quote!(false))
}

/// The type of the settings that `configure` reads. Where it reads none, but other code of the service does or may, the
/// runtime cannot know their keys.
pub(crate) fn settings(model: &Model) -> TokenStream {
    let private = private(model, Span::call_site());
    let none = match model.reads_settings {
        ReadsSettings::Yes => quote!(#private::Some(#private::UNDECLARED_SETTINGS)),
        ReadsSettings::Perhaps => quote!(#private::Some(#private::POSSIBLE_SETTINGS)),
        ReadsSettings::No => quote!(#private::None),
    };
    let of = |method: &Lifecycle| match arguments(&method.sig).nth(1) {
        Some(config) => {
            let ty = &config.ty;
            // The span of the type and the trait that builds the settings: a type that is wrong is one error for both.
            let at = self::private(model, ty.span());
            let settings = quote_spanned!(ty.span()=> <#ty as #at::Config>::SETTINGS);
            quote!(#private::Some(#settings))
        }
        None => none.clone(),
    };
    choose(&model.configures, of, none.clone())
}
