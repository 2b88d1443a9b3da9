//! The rules. Each error is on the token that is wrong and says what to write instead; it does not stop the other
//! checks.

pub(crate) mod keys;
mod methods;
mod signatures;
mod suggestions;

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Attribute, Error, GenericArgument, Lifetime, PathArguments, Type};

use crate::diagnostics::Diagnostics;
use crate::model::{Model, Subject};
use crate::parse::item::{Function, Impl, Item};
use crate::parse::lists::Dependency;
use crate::parse::names;
use crate::parse::value::Literal;
use crate::validate::signatures::{blocking_impl_to_write, impl_to_write};

/// The error for a second `#[service]` on the same item. Only the last one writes code.
pub(crate) fn twice(item: &Item) -> Option<Error> {
    let attrs = match item {
        Item::Impl(block) => &block.attrs,
        Item::Function(function) => &function.attrs,
        Item::Other { .. } | Item::Unreadable => return None,
    };
    let mut paths = attrs.iter().map(Attribute::path);
    let second = paths.find(|path| {
        let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        words == ["service"] || words == ["service_core", "service"]
    })?;
    Some(Error::new_spanned(second, "`#[service]` is written twice: remove one of them"))
}

/// Rules about the id and the dependencies.
pub(crate) fn identity(model: &Model, diagnostics: &mut Diagnostics) {
    let Some(name) = model.subject.name() else { return };
    if model.id_derived
        && let Some(problem) = names::id_problem(&model.id)
    {
        let message = format!(
            "the service id derived from this name, `{}`, is not valid: {problem}; set another one, `#[service(name = \"…\")]`",
            model.id
        );
        diagnostics.push(Error::new(name.span(), message));
    }
    let lists = model.attributes.iter().filter_map(|(_, value)| match value {
        Literal::Services(services) => Some(services),
        _ => None,
    });
    for services in lists {
        let mut seen: Vec<String> = Vec::new();
        for service in services {
            let (text, span, own) = match service {
                Dependency::Id(id, span) => (format!("{id:?}"), *span, *id == model.id),
                Dependency::Type(ty) => (ty.to_token_stream().to_string(), ty.span(), is_own_type(ty, model)),
            };
            if own {
                diagnostics.push(Error::new(span, "a service cannot depend on itself: remove it"));
            } else if seen.contains(&text) {
                diagnostics.push(Error::new(span, "this service is already in the list: remove one of them"));
            }
            seen.push(text);
        }
    }
}

fn is_own_type(ty: &Type, model: &Model) -> bool {
    let text = ty.to_token_stream().to_string();
    match &model.subject {
        Subject::Impl { ty: own, .. } => text == "Self" || text == own.to_token_stream().to_string(),
        Subject::Function { service, .. } => *service == text,
    }
}

/// Rules about an impl. `false`: no code can be written for this type.
pub(crate) fn implementation(item: &Impl, model: &mut Model, diagnostics: &mut Diagnostics) -> bool {
    let Some(name) = self_type(&item.ty, diagnostics) else { return false };
    if let Some(trait_) = &item.trait_ {
        let message = format!(
            "`#[service]` goes on an inherent impl, not on the impl of a trait: write\n\n{}",
            impl_to_write(&name.to_string())
        );
        diagnostics.push(Error::new_spanned(trait_, message));
        return false;
    }
    methods::check(item, model, diagnostics);
    if item.generics.params.is_empty() {
        return true;
    }
    if let Some(lifetime) = item.generics.lifetimes().next() {
        diagnostics.push(Error::new_spanned(&lifetime.lifetime, BORROWS));
        return false;
    }
    if model.discover {
        let message = format!(
            "a generic service cannot be registered at link time: write `#[service(discover = false)]` and register \
             each concrete type by hand, or write `impl {name}<MyType>` for one type"
        );
        diagnostics.push(Error::new_spanned(&item.generics, message));
        return false;
    }
    true
}

const BORROWS: &str = "a service cannot borrow, as it lives longer than the code that starts it: use `'static`, an owned \
     value or an `Arc`";

/// The name of the type, if it is one that can be a service.
fn self_type<'i>(ty: &'i Type, diagnostics: &mut Diagnostics) -> Option<&'i Ident> {
    let last = match ty {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        _ => None,
    };
    let Some(last) = last else {
        let message = "a service is a struct or an enum of this crate: write `impl MyService`";
        diagnostics.push(Error::new_spanned(ty, message));
        return None;
    };
    if let Some(borrowed) = borrowed(ty) {
        diagnostics.push(Error::new_spanned(borrowed, BORROWS));
        return None;
    }
    Some(&last.ident)
}

/// The first lifetime or reference in a type that is not `'static`.
fn borrowed(ty: &Type) -> Option<TokenStream> {
    let not_static = |lifetime: &Lifetime| (lifetime.ident != "static").then(|| lifetime.to_token_stream());
    match ty {
        Type::Path(path) => path.path.segments.iter().find_map(|segment| match &segment.arguments {
            PathArguments::AngleBracketed(arguments) => arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Lifetime(lifetime) => not_static(lifetime),
                GenericArgument::Type(ty) => borrowed(ty),
                _ => None,
            }),
            _ => None,
        }),
        Type::Reference(reference) => match &reference.lifetime {
            Some(lifetime) => not_static(lifetime).or_else(|| borrowed(&reference.elem)),
            None => Some(reference.and_token.to_token_stream()),
        },
        Type::Tuple(tuple) => tuple.elems.iter().find_map(borrowed),
        Type::Array(array) => borrowed(&array.elem),
        Type::Slice(slice) => borrowed(&slice.elem),
        Type::Ptr(pointer) => borrowed(&pointer.elem),
        Type::Paren(inner) => borrowed(&inner.elem),
        Type::Group(inner) => borrowed(&inner.elem),
        // Function pointers and trait objects have lifetimes of their own.
        _ => None,
    }
}

/// Rules about a function. `false`: it is a method, so that no code can be written.
pub(crate) fn function(item: &Function, diagnostics: &mut Diagnostics) -> bool {
    let sig = &item.sig;
    let name = &sig.ident;
    if let Some(receiver) = sig.receiver() {
        let message = "`#[service]` goes on the impl block, not on a method; the method for one run is called `update`";
        diagnostics.push(Error::new_spanned(receiver, message));
        return false;
    }
    if let Some(const_) = &sig.constness {
        diagnostics.push(Error::new(
            const_.span,
            format!("a service cannot be a `const fn`: write `async fn {name}(cx: &Context)`"),
        ));
    } else if sig.asyncness.is_none() {
        let message = format!(
            "a service that is a function has to be async: write `async fn {name}`; for blocking code write an impl:\n\n{}",
            blocking_impl_to_write(&names::camel_case(&name.to_string()))
        );
        diagnostics.push(Error::new(sig.fn_token.span, message));
    }
    methods::plain(sig, &format!("async fn {name}(cx: &Context)"), diagnostics);
    let write = format!("write `async fn {name}(cx: &Context)`, or an impl, which can have fields and settings");
    methods::only_context(sig, &write, diagnostics);
    true
}

/// The error for an item that could not be parsed.
pub(crate) fn unreadable(item: TokenStream) -> Error {
    let message = format!(
        "`#[service]` cannot read this item: write an `async fn`, or an impl:\n\n{}",
        impl_to_write("MyService")
    );
    Error::new_spanned(item, message)
}

/// The error for an item that cannot be a service.
pub(crate) fn other(keyword: &Ident, name: Option<&Ident>) -> Error {
    let name = name.map(ToString::to_string);
    let word = keyword.to_string();
    let message = match (&*word, &name) {
        ("struct" | "enum" | "union", Some(name)) => {
            let article = if word == "enum" { "an" } else { "a" };
            format!("`#[service]` goes on an impl, not on {article} {word}: write\n\n{}", impl_to_write(name))
        }
        ("type", Some(name)) => {
            format!("`#[service]` goes on an impl, not on a type alias: write\n\n{}", impl_to_write(name))
        }
        ("trait", _) => {
            format!("`#[service]` goes on an impl, not on a trait: write\n\n{}", impl_to_write("MyService"))
        }
        ("mod", Some(name)) => {
            let ty = names::camel_case(name);
            format!("`#[service]` goes on an impl, not on a module: write inside it\n\n{}", impl_to_write(&ty))
        }
        _ => format!("`#[service]` goes on an impl or an `async fn`: write\n\n{}", impl_to_write("MyService")),
    };
    Error::new_spanned(keyword, message)
}
