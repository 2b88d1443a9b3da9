//! Model → tokens. Cannot fail.
//!
//! The tricky thing is where the tokens say they come from. What the compiler may find fault with (the service's type,
//! what a method takes and returns, whether its future is `Send`) bears the span of the user's own word, so that the
//! error is shown there; everything else bears the attribute's.

mod lifecycle_impl;
mod paths;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Generics, parse_quote_spanned};

use crate::expand::paths::private;
use crate::model::{Lifecycle, Model, Subject};
use crate::parse::value::{Dependency, Literal};

/// The traits' impls, the descriptor and its place on the list of discovered services.
pub(crate) fn service(model: &Model) -> TokenStream {
    let type_ = function_type(model);
    let no_update = no_update_left(model);
    let lifecycle = lifecycle(model);
    let attributes = model.attributes.iter().map(|(key, value)| {
        let value = literal(model, value);
        quote!((#key, #value))
    });
    let service = descriptor(model, &quote!(&[#(#attributes),*]), &build(model), &settings(model));
    let discovered = discovered(model);
    let hints = hints(model);
    quote! {
        #type_
        #no_update
        #lifecycle
        #service
        #discovered
        #hints
    }
}

/// An attribute before the user's item. What the item expects (`#[expect(deprecated)]`) may be in the arguments of
/// `#[service]`, which are checked in a generated item, so that the expectation seems unfulfilled.
pub(crate) fn expectation(model: &Model) -> Option<TokenStream> {
    let depends_on_types = model.attributes.iter().any(|(_, value)| match value {
        Literal::Services(services) => services.iter().any(|service| matches!(service, Dependency::Type(_))),
        _ => false,
    });
    let expected = depends_on_types && model.inherited.expects_deprecated;
    expected.then(|| quote!(#[allow(unfulfilled_lint_expectations)]))
}

/// After a mistake: just enough for the type to be a service, so that its uses elsewhere are not mistakes, too.
pub(crate) fn fallback(model: &Model) -> TokenStream {
    let type_ = function_type(model);
    let private = private(model, Span::call_site());
    let shape = quote! {
        fn __shape(&self) -> #private::Shape {
            #private::Shape::NONE
        }
    };
    let lifecycle = implementation(model, "Lifecycle", &shape);
    let service = descriptor(model, &quote!(&[]), &quote!(#private::None), &quote!(#private::None));
    quote! {
        #type_
        #lifecycle
        #service
    }
}

/// `impl Service`.
fn descriptor(model: &Model, attributes: &TokenStream, build: &TokenStream, settings: &TokenStream) -> TokenStream {
    let private = private(model, Span::call_site());
    let id = &model.id;
    let body = quote! {
        const ID: &'static str = #id;
        const DESCRIPTOR: &'static #private::ServiceDescriptor = &#private::descriptor::<Self>(
            #private::place!(),
            #attributes,
            #build,
            #settings,
        );
    };
    implementation(model, "Service", &body)
}

/// The descriptor, on the list that the linker collects.
fn discovered(model: &Model) -> Option<TokenStream> {
    let private = private(model, Span::call_site());
    let attributes = attributes(model);
    let ty = self_type(model);
    // A lint level has no effect on a macro call, so that the call needs an item around it.
    model.discover.then(|| {
        quote! {
            #attributes
            const _: () = {
                #private::inventory::submit! {
                    #private::Discovered(<#ty as #private::Service>::DESCRIPTOR)
                }
            };
        }
    })
}

/// `#[cfg]` and lint levels of the user's item, for a generated one.
fn attributes(model: &Model) -> TokenStream {
    let (cfg, lints) = (cfg(model.inherited.cfg.as_ref()), &model.inherited.lints);
    quote!(#cfg #lints)
}

fn cfg(condition: Option<&TokenStream>) -> Option<TokenStream> {
    condition.map(|condition| quote!(#[cfg(#condition)]))
}

fn self_type(model: &Model) -> TokenStream {
    match &model.subject {
        Subject::Impl { ty, .. } => ty.to_token_stream(),
        Subject::Function { service, .. } => service.to_token_stream(),
    }
}

/// `impl Trait for Type { … }`, as if the user had written it.
fn implementation(model: &Model, trait_: &str, body: &TokenStream) -> TokenStream {
    let attributes = attributes(model);
    let ty = self_type(model);
    let (at, generics) = match &model.subject {
        Subject::Impl { at, generics, ty } => {
            let mut generics = Generics::clone(generics);
            // Inside the impl this holds, so that a type that is not `Send` is reported here and not by every method. A
            // generic impl is one for those types alone for which it holds.
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

fn literal(model: &Model, value: &Literal) -> TokenStream {
    let private = private(model, Span::call_site());
    let literal = quote!(#private::Literal);
    match value {
        Literal::Int(int) => quote!(#literal::Int(#int)),
        Literal::Float(float) => quote!(#literal::Float(#float)),
        Literal::Str(text) => quote!(#literal::Str(#text)),
        Literal::Bool(bool) => quote!(#literal::Bool(#bool)),
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

/// `impl Lifecycle`: forwarders to the user's methods, under names that are not in their way.
fn lifecycle(model: &Model) -> TokenStream {
    let shape = shape(model);
    let updates = forwarders(&model.updates, |method| lifecycle_impl::update(model, method));
    let on_failures = forwarders(&model.on_failures, |method| lifecycle_impl::on_failure(model, method));
    let cleanups = forwarders(&model.cleanups, |method| lifecycle_impl::cleanup(model, method));
    implementation(model, "Lifecycle", &quote!(#shape #updates #on_failures #cleanups))
}

/// One forwarder for each variant of a method, each under its `#[cfg]`.
fn forwarders(methods: &[Lifecycle], forward: impl Fn(&Lifecycle) -> TokenStream) -> TokenStream {
    let conditions = conditions(methods).0;
    let forwarders = methods.iter().zip(conditions).map(|(method, condition)| {
        let (cfg, lints, forwarder) = (cfg(condition.as_ref()), &method.inherited.lints, forward(method));
        quote!(#cfg #lints #forwarder)
    });
    quote!(#(#forwarders)*)
}

/// When each variant counts (no two at once), and when none does.
fn conditions(methods: &[Lifecycle]) -> (Vec<Option<TokenStream>>, Option<TokenStream>) {
    let mut before: Vec<TokenStream> = Vec::new();
    let mut each = Vec::new();
    for method in methods {
        let own = method.inherited.cfg.clone();
        each.push(match (&own, before.as_slice()) {
            (None, []) => None,
            (None, before) => Some(quote!(not(any(#(#before),*)))),
            (Some(own), []) => Some(own.clone()),
            (Some(own), before) => Some(quote!(all(#own, not(any(#(#before),*))))),
        });
        before.push(own.unwrap_or_else(|| quote!(all())));
    }
    let always = methods.iter().any(|method| method.inherited.cfg.is_none());
    (each, (!always).then(|| quote!(not(any(#(#before),*)))))
}

/// The expression of whichever variant counts.
fn choose(methods: &[Lifecycle], of: impl Fn(&Lifecycle) -> TokenStream, otherwise: TokenStream) -> TokenStream {
    let of = |method: &Lifecycle| {
        let (lints, value) = (&method.inherited.lints, of(method));
        if lints.is_empty() { value } else { quote!({ #lints { #value } }) }
    };
    if let [only] = methods
        && only.inherited.cfg.is_none()
    {
        return of(only);
    }
    if methods.is_empty() {
        return otherwise;
    }
    let (each, none) = conditions(methods);
    let arms = methods.iter().zip(each).map(|(method, condition)| {
        let (cfg, value) = (cfg(condition.as_ref()), of(method));
        quote!(#cfg { #value })
    });
    let otherwise = cfg(none.as_ref()).map(|cfg| quote!(#cfg { #otherwise }));
    quote!({ #(#arms)* #otherwise })
}

fn shape(model: &Model) -> TokenStream {
    let private = private(model, Span::call_site());
    let blocking = choose(
        &model.updates,
        |method| {
            let blocking = !method.is_async();
            quote!(#blocking)
        },
        quote!(false),
    );
    let cleanup = choose(
        &model.cleanups,
        |method| if method.is_async() { quote!(#private::Cleanup::Async) } else { quote!(#private::Cleanup::Blocking) },
        quote!(#private::Cleanup::None),
    );
    quote! {
        fn __shape(&self) -> #private::Shape {
            #private::Shape { blocking_update: #blocking, cleanup: #cleanup }
        }
    }
}

/// How an instance is built: by `configure`, else by `Default`.
fn build(model: &Model) -> TokenStream {
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

/// The type of the settings that `configure` reads.
fn settings(model: &Model) -> TokenStream {
    let private = private(model, Span::call_site());
    let none = quote!(#private::None);
    let of = |method: &Lifecycle| match method.arguments().get(1) {
        Some(config) => {
            let ty = &config.ty;
            quote!(#private::Some(#private::settings::<#ty>()))
        }
        None => none.clone(),
    };
    choose(&model.configures, of, none.clone())
}

/// Every `update` stands under a `#[cfg]`: an error where none of them holds.
fn no_update_left(model: &Model) -> Option<TokenStream> {
    let none = conditions(&model.updates).1.filter(|_| !model.updates.is_empty())?;
    let none = match &model.inherited.cfg {
        Some(cfg) => quote!(all(#cfg, #none)),
        None => none,
    };
    let ident = &model.updates.first()?.sig.ident;
    let message =
        "no `update` is left under these `#[cfg]`s: add one for what remains, or put the `#[cfg]` on the impl";
    Some(quote_spanned!(ident.span()=> #[cfg(#none)] ::core::compile_error! { #message }))
}

/// Warnings, by way of deprecation: the only ones a macro can give on a stable compiler.
fn hints(model: &Model) -> TokenStream {
    model
        .hints
        .iter()
        .map(|hint| {
            let (ident, note) = (&hint.ident, &hint.note);
            let called = quote_spanned!(ident.span()=> #ident());
            let mut named = ident.clone();
            named.set_span(Span::call_site());
            quote! {
                const _: () = {
                    #[deprecated(note = #note)]
                    const fn #named() {}
                    #called
                };
            }
        })
        .collect()
}
