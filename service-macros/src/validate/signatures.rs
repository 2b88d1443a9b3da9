//! Signatures: the ones that errors show, and questions about written ones.

use quote::ToTokens;
use syn::{GenericArgument, Lifetime, Path, PathArguments, Receiver, ReceiverKind, Type};

use crate::parse::words::mentions;

pub(crate) const UPDATE: &str = "async fn update(&mut self, cx: &Context) -> Result<Outcome>";
pub(crate) const RUN: &str = "async fn run(&mut self, cx: &Context) -> Result<()>";
pub(crate) const CONFIGURE: &str = "async fn configure(cx: &Context, config: MyConfig) -> Result<Self>";
pub(crate) const ON_FAILURE: &str = "fn on_failure(&mut self, failure: &Failure) -> Recovery";
pub(crate) const CLEANUP: &str = "async fn cleanup(&mut self, cx: &Context)";

/// The impl that an error shows.
pub(crate) fn impl_to_write(ty: &str) -> String {
    format!("    #[service(interval = 30)]\n    impl {ty} {{\n        {UPDATE} {{ … }}\n    }}\n")
}

pub(crate) fn blocking_impl_to_write(ty: &str) -> String {
    let update = UPDATE.trim_start_matches("async ");
    format!("    #[service(interval = 30)]\n    impl {ty} {{\n        {update} {{ … }}\n    }}\n")
}

/// Whether a receiver is a reference to the instance, for any lifetime.
pub(crate) fn is_reference(receiver: &Receiver) -> bool {
    match &receiver.kind {
        ReceiverKind::Reference(_, lifetime, _) => !lifetime.as_ref().is_some_and(is_static),
        ReceiverKind::Typed(_, ty) => match &**ty {
            Type::Reference(reference) => {
                !reference.lifetime.as_ref().is_some_and(is_static) && !is_pointer(&reference.elem)
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether a lifetime is `'static`. The runtime lends what it passes, for one call only.
fn is_static(lifetime: &Lifetime) -> bool {
    lifetime.ident == "static"
}

/// Whether a receiver's type is one of those around `Self`, such as `Box<Self>`. A type of the user's may have the name
/// of one.
fn is_pointer(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| {
            ["Box", "Rc", "Arc", "Pin"].iter().any(|pointer| last.ident == pointer)
                && mentions(last.arguments.to_token_stream(), "Self")
        }),
        Type::Reference(_) => true,
        Type::Group(inner) => is_pointer(&inner.elem),
        _ => false,
    }
}

/// Whether a type may be `&Context`. A type with a lifetime other than `'static` may be an alias for it.
pub(crate) fn is_context(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| match &last.arguments {
            PathArguments::AngleBracketed(arguments) => {
                let mut args = arguments.args.iter();
                args.any(|argument| matches!(argument, GenericArgument::Lifetime(lifetime) if !is_static(lifetime)))
            }
            _ => false,
        }),
        Type::Reference(reference) => {
            is_shared_reference(ty)
                && !matches!(&*reference.elem, Type::Path(path) if is_known_not_to_be_context(&path.path))
        }
        Type::Paren(inner) => is_context(&inner.elem),
        Type::Group(inner) => is_context(&inner.elem),
        _ => false,
    }
}

fn is_known_not_to_be_context(path: &Path) -> bool {
    let known =
        ["str", "String", "Self", "Failure", "bool", "char", "u8", "u16", "u32", "u64", "usize", "i32", "i64", "f64"];
    path.get_ident().is_some_and(|ident| known.iter().any(|known| ident == known))
}

pub(crate) fn is_named_context(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Context"))
}

/// Whether a type is a reference as the runtime passes it.
pub(crate) fn is_shared_reference(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else { return false };
    reference.mutability.is_none() && !reference.lifetime.as_ref().is_some_and(is_static)
}

pub(crate) fn is_future(ty: &Type) -> bool {
    let named =
        |path: &Path| path.segments.last().is_some_and(|last| matches!(&*last.ident.to_string(), "Pin" | "BoxFuture"));
    match ty {
        Type::Path(path) => named(&path.path),
        Type::ImplTrait(_) => text(ty).contains("Future"),
        _ => false,
    }
}

pub(crate) fn text(tokens: &impl ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    text.replace(" <", "<")
        .replace("< ", "<")
        .replace(" >", ">")
        .replace(" :: ", "::")
        .replace("& ", "&")
        .replace(" ,", ",")
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[test]
    fn a_static_reference_is_not_what_the_runtime_passes() {
        for ty in [parse_quote!(&'static Context), parse_quote!(Cx<'static>), parse_quote!(Cx<'static, Context>)] {
            assert!(!is_context(&ty), "{}", text(&ty));
        }
        for ty in [parse_quote!(&'a Context), parse_quote!(Cx<'_>), parse_quote!(Cx<'static, '_>)] {
            assert!(is_context(&ty), "{}", text(&ty));
        }
        assert!(!is_shared_reference(&parse_quote!(&'static Failure)));
        assert!(is_shared_reference(&parse_quote!(&'a Failure)));
    }

    #[test]
    fn a_type_of_the_users_may_have_the_name_of_a_pointer() {
        for receiver in [parse_quote!(self: &mut Pin<Gpio4>), parse_quote!(self: &Self), parse_quote!(&self)] {
            assert!(is_reference(&receiver), "{}", text(&receiver));
        }
        for receiver in [parse_quote!(self: &Box<Self>), parse_quote!(self: &mut Pin<Box<Self>>)] {
            assert!(!is_reference(&receiver), "{}", text(&receiver));
        }
    }
}
