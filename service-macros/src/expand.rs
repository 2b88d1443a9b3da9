//! Model → tokens. Cannot fail.
//!
//! The tricky thing is where the tokens say they come from. What the compiler may find fault with (the service's type,
//! what a method takes and returns, whether its future is `Send`) bears the span of the user's own word, so that the
//! error is shown there; everything else bears the attribute's.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;

use crate::args::Dependency;
use crate::model::{Lifecycle, Literal, Model, Subject};

/// The traits' impls, the descriptor and its place on the list of discovered services.
pub(crate) fn service(model: &Model) -> TokenStream {
    let runtime = &model.runtime;
    let lifecycle = lifecycle(model);
    let cfg = cfg(model.cfg.as_ref());
    let ty = self_type(model);
    let header = header(model, quote!(Service));
    let id = &model.id;
    let attributes = model.attributes.iter().map(|(key, value)| {
        let value = literal(value, runtime);
        quote!((#key, #value))
    });
    let build = build(model);
    let settings = settings(model);
    let discovered = model.discover.then(|| {
        quote! {
            #cfg
            #runtime::__private::inventory::submit! {
                #runtime::__private::Discovered(<#ty as #runtime::__private::Service>::DESCRIPTOR)
            }
        }
    });
    let hints = hints(model);
    let type_ = function_type(model);
    quote! {
        #type_
        #lifecycle
        #cfg
        #header {
            const ID: &'static str = #id;
            const DESCRIPTOR: &'static #runtime::__private::ServiceDescriptor = &#runtime::__private::descriptor::<Self>(
                #id,
                #runtime::__private::place!(),
                &[#(#attributes),*],
                #build,
                #settings,
            );
        }
        #discovered
        #hints
    }
}

/// After a mistake: just enough for the type to be a service, so that its uses elsewhere are not mistakes, too.
pub(crate) fn fallback(model: &Model) -> TokenStream {
    let runtime = &model.runtime;
    let cfg = cfg(model.cfg.as_ref());
    let type_ = function_type(model);
    let (lifecycle, service) = (header(model, quote!(Lifecycle)), header(model, quote!(Service)));
    let id = &model.id;
    quote! {
        #type_
        #cfg
        #lifecycle {
            fn __shape(&self) -> #runtime::__private::Shape {
                #runtime::__private::Shape::NONE
            }
        }
        #cfg
        #service {
            const ID: &'static str = #id;
            const DESCRIPTOR: &'static #runtime::__private::ServiceDescriptor = &#runtime::__private::descriptor::<Self>(
                #id,
                #runtime::__private::place!(),
                &[],
                #runtime::__private::None,
                #runtime::__private::None,
            );
        }
    }
}

fn cfg(condition: Option<&TokenStream>) -> Option<TokenStream> {
    condition.map(|condition| quote!(#[cfg(#condition)]))
}

fn self_type(model: &Model) -> TokenStream {
    match &model.subject {
        Subject::Impl { ty, .. } => ty.to_token_stream(),
        Subject::Function { ident, .. } => ident.to_token_stream(),
    }
}

/// `impl Trait for Type`, as if the user had written it.
fn header(model: &Model, trait_: TokenStream) -> TokenStream {
    let runtime = &model.runtime;
    let ty = self_type(model);
    let at = match &model.subject {
        Subject::Impl { at, .. } => *at,
        Subject::Function { ident, .. } => ident.span(),
    };
    let impl_ = quote_spanned!(at=> impl);
    quote! {
        #[automatically_derived]
        #impl_ #runtime::__private::#trait_ for #ty
    }
}

/// A function's service is an empty struct of its name, which lives beside it: one is a type, the other a value.
fn function_type(model: &Model) -> Option<TokenStream> {
    let Subject::Function { vis, ident, docs } = &model.subject else { return None };
    let cfg = cfg(model.cfg.as_ref());
    let doc = docs.is_empty().then(|| {
        let doc = format!("The service that [`{ident}()`] is.");
        quote!(#[doc = #doc])
    });
    Some(quote! {
        #cfg
        #(#docs)*
        #doc
        #[allow(non_camel_case_types)]
        #[derive(Debug, Default)]
        #vis struct #ident {}
    })
}

fn literal(value: &Literal, runtime: &TokenStream) -> TokenStream {
    let literal = quote!(#runtime::__private::Literal);
    match value {
        Literal::Int(int) => quote!(#literal::Int(#int)),
        Literal::Float(float) => quote!(#literal::Float(#float)),
        Literal::Str(text) => quote!(#literal::Str(#text)),
        Literal::Bool(bool) => quote!(#literal::Bool(#bool)),
        Literal::Services(services) => {
            let ids = services.iter().map(|service| match service {
                Dependency::Id(id, _) => id.to_token_stream(),
                Dependency::Type(ty) => quote!(<#ty as #runtime::__private::Service>::ID),
            });
            quote!(#literal::List(&[#(#ids),*]))
        }
    }
}

/// `impl Lifecycle`: forwarders to the user's methods, under names that are not in their way.
fn lifecycle(model: &Model) -> TokenStream {
    let cfg = cfg(model.cfg.as_ref());
    let header = header(model, quote!(Lifecycle));
    let shape = shape(model);
    let updates = forwarders(&model.updates, |method| update(model, method));
    let on_failures = forwarders(&model.on_failures, |method| on_failure(model, method));
    let cleanups = forwarders(&model.cleanups, |method| cleanup(model, method));
    let no_update = no_update_left(model);
    quote! {
        #no_update
        #cfg
        #header {
            #shape
            #updates
            #on_failures
            #cleanups
        }
    }
}

/// One forwarder for each variant of a method, each under its `#[cfg]`.
fn forwarders(methods: &[Lifecycle], forward: impl Fn(&Lifecycle) -> TokenStream) -> TokenStream {
    let conditions = conditions(methods).0;
    let forwarders = methods.iter().zip(conditions).map(|(method, condition)| {
        let (cfg, forwarder) = (cfg(condition.as_ref()), forward(method));
        quote!(#cfg #forwarder)
    });
    quote!(#(#forwarders)*)
}

/// When each variant counts (no two at once), and when none does.
fn conditions(methods: &[Lifecycle]) -> (Vec<Option<TokenStream>>, Option<TokenStream>) {
    let mut before: Vec<TokenStream> = Vec::new();
    let mut each = Vec::new();
    for method in methods {
        let own = method.cfg.clone();
        each.push(match (&own, before.as_slice()) {
            (None, []) => None,
            (None, before) => Some(quote!(not(any(#(#before),*)))),
            (Some(own), []) => Some(own.clone()),
            (Some(own), before) => Some(quote!(all(#own, not(any(#(#before),*))))),
        });
        before.push(own.unwrap_or_else(|| quote!(all())));
    }
    let always = methods.iter().any(|method| method.cfg.is_none());
    (each, (!always).then(|| quote!(not(any(#(#before),*)))))
}

/// The expression of whichever variant counts.
fn choose(methods: &[Lifecycle], of: impl Fn(&Lifecycle) -> TokenStream, otherwise: TokenStream) -> TokenStream {
    if let [only] = methods
        && only.cfg.is_none()
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
    let private = private(model);
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

fn private(model: &Model) -> TokenStream {
    let runtime = &model.runtime;
    quote!(#runtime::__private)
}

/// `Self::method(self, cx)`, spanned to be the user's own words; a context is passed to those that take one.
fn call(model: &Model, method: &Lifecycle) -> TokenStream {
    let name = &method.sig.ident;
    let cx = method.arguments().first().map(|cx| quote_spanned!(cx.ty.span()=> cx));
    match &model.subject {
        Subject::Impl { .. } => quote_spanned!(name.span()=> Self::#name(self, #cx)),
        Subject::Function { .. } => quote_spanned!(name.span()=> #name(#cx)),
    }
}

/// `async move { let outcome = …; IntoOutcome::into_outcome(outcome) }`, boxed, with faults shown on the user's words.
fn boxed(private: &TokenStream, at: Span, body: TokenStream) -> TokenStream {
    let block = quote_spanned!(at=> async move { #body });
    quote!(#private::Box::pin(#block))
}

/// A `let` and a conversion whose fault is shown where the method says what it returns.
fn converted(method: &Lifecycle, value: TokenStream, conversion: TokenStream) -> TokenStream {
    let output = quote_spanned!(method.output_span()=> output);
    quote! {
        let #output = #value;
        #conversion(#output)
    }
}

fn update(model: &Model, method: &Lifecycle) -> TokenStream {
    let private = private(model);
    let call = call(model, method);
    let into = quote!(#private::IntoOutcome::into_outcome);
    if method.is_async() {
        let body = boxed(&private, method.sig.ident.span(), converted(method, quote!(#call.await), into));
        quote! {
            fn __update<'a>(&'a mut self, cx: &'a #private::Context) -> #private::BoxFuture<'a, #private::Result<#private::Outcome>> {
                let _ = cx;
                #body
            }
        }
    } else {
        let body = converted(method, call, into);
        quote! {
            fn __update_blocking(&mut self, cx: &#private::Context) -> #private::Result<#private::Outcome> {
                let _ = cx;
                #body
            }
        }
    }
}

fn on_failure(model: &Model, method: &Lifecycle) -> TokenStream {
    let private = private(model);
    let name = &method.sig.ident;
    let failure = method.arguments().first().map(|failure| quote_spanned!(failure.ty.span()=> failure));
    let call = quote_spanned!(name.span()=> Self::#name(self, #failure));
    let body = converted(method, call, quote!(#private::IntoRecovery::into_recovery));
    quote! {
        fn __on_failure(&mut self, failure: &#private::Failure) -> #private::Recovery {
            #body
        }
    }
}

fn cleanup(model: &Model, method: &Lifecycle) -> TokenStream {
    let private = private(model);
    let call = call(model, method);
    let into = quote!(#private::IntoCleaned::into_cleaned);
    if method.is_async() {
        let body = boxed(&private, method.sig.ident.span(), converted(method, quote!(#call.await), into));
        quote! {
            fn __cleanup<'a>(&'a mut self, cx: &'a #private::Context) -> #private::BoxFuture<'a, #private::Result<()>> {
                let _ = cx;
                #body
            }
        }
    } else {
        let body = converted(method, call, into);
        quote! {
            fn __cleanup_blocking(&mut self, cx: &#private::Context) -> #private::Result<()> {
                let _ = cx;
                #body
            }
        }
    }
}

/// How an instance is built: by `configure`, else by `Default`.
fn build(model: &Model) -> TokenStream {
    let private = private(model);
    let by_default = match &model.subject {
        Subject::Impl { ty, .. } if model.discover => quote!(#private::Some(#private::default_instance::<#ty>)),
        Subject::Function { .. } => quote!(#private::Some(#private::default_instance::<Self>)),
        Subject::Impl { .. } => quote!({
            #[allow(unused_imports)]
            use #private::PerhapsDefault as _;
            #private::Probe::<Self>::BUILD
        }),
    };
    choose(&model.configures, |method| configure(model, method), by_default)
}

fn configure(model: &Model, method: &Lifecycle) -> TokenStream {
    let private = private(model);
    let name = &method.sig.ident;
    let arguments = method.arguments();
    let cx = arguments.first().map(|cx| quote_spanned!(cx.ty.span()=> &cx,));
    let config = arguments.get(1).map(|config| {
        let ty = &config.ty;
        quote!(#private::config::<#ty>(&cx)?)
    });
    let call = quote_spanned!(name.span()=> Self::#name(#cx #config));
    let call = if method.is_async() { quote!(#call.await) } else { call };
    let body = converted(method, call, quote!(#private::instance::<Self, _>));
    let body = boxed(&private, name.span(), quote!(let _ = &cx; #body));
    quote!(#private::Some(|cx| #body))
}

/// The names of the settings that `configure` reads.
fn settings(model: &Model) -> TokenStream {
    let private = private(model);
    let none = quote!(#private::None);
    let of = |method: &Lifecycle| match method.arguments().get(1) {
        Some(config) => {
            let ty = &config.ty;
            quote!(#private::Some(#private::fields::<#ty>))
        }
        None => none.clone(),
    };
    choose(&model.configures, of, none.clone())
}

/// Every `update` stands under a `#[cfg]`: an error where none of them holds.
fn no_update_left(model: &Model) -> Option<TokenStream> {
    let none = conditions(&model.updates).1.filter(|_| !model.updates.is_empty())?;
    let none = match &model.cfg {
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
            quote! {
                const _: () = {
                    #[deprecated(note = #note)]
                    const fn #ident() {}
                    #called
                };
            }
        })
        .collect()
}
