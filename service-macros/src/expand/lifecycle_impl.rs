//! `impl Lifecycle`: methods that call the user's methods.
//!
//! An error in such a call is an error in the user's signature, so that the tokens have the spans of the user's tokens:
//! an argument that of its type in the signature, the result that of the return type, a future that of the method's
//! name. A variable is bound again wherever its span changes, because with another span it may have another hygiene as
//! well (in an item that a `macro_rules!` macro wrote).
//!
//! Variables begin with `__`: a plain name would hide a function of the user's that has this name, and would not be a
//! variable where a `static`, a constant or a unit struct has it.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;

use crate::expand::items::{cfg, implementation, private};
use crate::expand::variants::{choose, conditions};
use crate::model::{Lifecycle, Model, Subject};
use crate::parse::item::arguments;

/// The impl. Its methods have other names than the user's, so that neither hides the other.
pub(crate) fn lifecycle(model: &Model) -> TokenStream {
    let shape = shape(model);
    let updates = forwarders(&model.updates, |method| update(model, method));
    let on_failures = forwarders(&model.on_failures, |method| on_failure(model, method));
    let cleanups = forwarders(&model.cleanups, |method| cleanup(model, method));
    implementation(model, "Lifecycle", &quote!(#shape #updates #on_failures #cleanups))
}

/// One forwarder for each variant of a method, with its `#[cfg]`.
fn forwarders(methods: &[Lifecycle], forward: impl Fn(&Lifecycle) -> TokenStream) -> TokenStream {
    let conditions = conditions(methods).0;
    let forwarders = methods.iter().zip(conditions).map(|(method, condition)| {
        let (cfg, lints, forwarder) = (cfg(condition.as_ref()), &method.inherited.lints, forward(method));
        quote!(#cfg #lints #forwarder)
    });
    quote!(#(#forwarders)*)
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

/// `let output = Self::method(…).await; IntoOutcome::into_outcome(output)`.
fn call(model: &Model, method: &Lifecycle, arguments: &TokenStream, conversion: &TokenStream) -> TokenStream {
    let name = &method.sig.ident;
    let at = name.span();
    let runtime = private(model, at);
    let callee = match &model.subject {
        Subject::Impl { .. } => quote_spanned!(at=> Self::#name),
        Subject::Function { .. } => quote!(#name),
    };
    let await_ = method.is_async().then(|| quote_spanned!(at=> .await));
    let output = quote_spanned!(method.output_span()=> __output);
    let call = quote_spanned!(at=> #callee(#arguments) #await_);
    let converted = quote_spanned!(at=> #runtime::#conversion(#output));
    quote! {
        let #output = #call;
        #converted
    }
}

/// A boxed future. It becomes a `dyn Future + Send` in the last expression, which has the span of the method's name:
/// the compiler reports there that a future is not `Send`.
fn boxed(model: &Model, method: &Lifecycle, body: &TokenStream) -> TokenStream {
    let at = method.sig.ident.span();
    let runtime = private(model, at);
    let block = quote_spanned!(at=> async move { #body });
    let future = quote_spanned!(at=> __future);
    quote! {
        let #future = #runtime::Boxed::pin(#block);
        #future
    }
}

fn update(model: &Model, method: &Lifecycle) -> TokenStream {
    let (private, at) = (private(model, Span::call_site()), method.sig.ident.span());
    let conversion = match method.long {
        true => quote_spanned!(at=> IntoRunEnd::into_run_end),
        false => quote_spanned!(at=> IntoOutcome::into_outcome),
    };
    with_context(model, method, "__update", &quote!(#private::Outcome), &conversion)
}

fn cleanup(model: &Model, method: &Lifecycle) -> TokenStream {
    let conversion = quote_spanned!(method.sig.ident.span()=> IntoCleaned::into_cleaned);
    with_context(model, method, "__cleanup", &quote!(()), &conversion)
}

/// A method that may take a context. `name`: that of the async method in the trait; the other one ends in `_blocking`.
fn with_context(
    model: &Model,
    method: &Lifecycle,
    name: &str,
    output: &TokenStream,
    conversion: &TokenStream,
) -> TokenStream {
    let private = private(model, Span::call_site());
    let this = match &model.subject {
        Subject::Impl { .. } => Some(quote_spanned!(method.sig.ident.span()=> __this)),
        Subject::Function { .. } => None,
    };
    let cx = arguments(&method.sig).next().map(|argument| quote_spanned!(argument.ty.span()=> __cx));
    let parameter = if cx.is_some() { quote!(__cx) } else { quote!(_) };
    let respan = [this.as_ref().map(|this| quote!(let #this = self;)), cx.as_ref().map(|cx| quote!(let #cx = __cx;))];
    let (respan, passed) = (respan.into_iter().flatten(), [this, cx].into_iter().flatten());
    let body = call(model, method, &quote!(#(#passed),*), conversion);
    if method.is_async() {
        let (name, body) = (format_ident!("{name}"), boxed(model, method, &body));
        quote! {
            fn #name<'a>(&'a mut self, #parameter: &'a #private::Context) -> #private::BoxFuture<'a, #private::Result<#output>> {
                #(#respan)*
                #body
            }
        }
    } else {
        let name = format_ident!("{name}_blocking");
        quote! {
            fn #name(&mut self, #parameter: &#private::Context) -> #private::Result<#output> {
                #(#respan)*
                #body
            }
        }
    }
}

fn on_failure(model: &Model, method: &Lifecycle) -> TokenStream {
    let at = method.sig.ident.span();
    let private = private(model, Span::call_site());
    let this = quote_spanned!(at=> __this);
    let failure = arguments(&method.sig).next().map(|failure| quote_spanned!(failure.ty.span()=> __failure));
    let body = call(model, method, &quote!(#this, #failure), &quote_spanned!(at=> IntoRecovery::into_recovery));
    quote! {
        fn __on_failure(&mut self, __failure: &#private::Failure) -> #private::Recovery {
            let #this = self;
            let #failure = __failure;
            #body
        }
    }
}

/// The closure that builds an instance.
pub(crate) fn configure(model: &Model, method: &Lifecycle) -> TokenStream {
    let at = method.sig.ident.span();
    let private = private(model, Span::call_site());
    let mut arguments = arguments(&method.sig);
    let cx = arguments.next().map(|cx| quote_spanned!(cx.ty.span()=> __cx));
    let parameter = if cx.is_some() { quote!(__cx) } else { quote!(_) };
    let respan = cx.as_ref().map(|cx| quote!(let #cx = &__cx;));
    let config = arguments.next().map(|config| {
        let (ty, at) = (&config.ty, config.ty.span());
        let private = self::private(model, at);
        (quote_spanned!(at=> __config), quote_spanned!(at=> <#ty as #private::Config>::of))
    });
    let (config, read) = config.unzip();
    let read = read.map(|read| quote!(let #config = #read(&__cx)?;));
    let passed = [cx, config].into_iter().flatten();
    let body = call(model, method, &quote!(#(#passed),*), &quote_spanned!(at=> IntoInstance::<Self>::into_instance));
    let body =
        boxed(model, method, &quote!(#read #respan let __instance = { #body }; #private::instance::<Self>(__instance)));
    quote!(#private::Some(|#parameter| { #body }))
}
