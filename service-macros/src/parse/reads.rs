//! Whether the code of a service reads settings by itself, apart from those that `configure` takes.
//!
//! The tokens are only searched for words, because a macro does not know types. Code outside the annotated item that
//! receives the context may read settings, too.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{Pat, PatType, Signature};

use crate::parse::item::{Function, Method, arguments};
use crate::parse::words::{mentions, visible};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReadsSettings {
    No,
    /// It passes the context on to code that is not seen here.
    Perhaps,
    /// It calls `config`.
    Yes,
}

pub(crate) fn by_methods(methods: &[Method]) -> ReadsSettings {
    let called_with_context = methods.iter().filter(|method| arguments(&method.sig).any(is_named_context));
    let search = Search {
        contexts: methods.iter().flat_map(|method| contexts(&method.sig, is_lifecycle(&method.sig.ident))).collect(),
        own: called_with_context.map(|method| &method.sig.ident).collect(),
    };
    methods.iter().map(|method| search.read(method.body.clone(), false)).max().unwrap_or(ReadsSettings::No)
}

pub(crate) fn by_function(function: &Function) -> ReadsSettings {
    let search = Search { contexts: contexts(&function.sig, true).collect(), own: Vec::new() };
    search.read(function.body.clone(), false)
}

fn is_lifecycle(name: &Ident) -> bool {
    matches!(&*name.unraw().to_string(), "configure" | "update" | "run" | "cleanup")
}

fn is_named_context(argument: &PatType) -> bool {
    mentions(argument.ty.to_token_stream(), "Context")
}

/// The names of the arguments that are the context. The first of a lifecycle method is, whatever its type is called.
fn contexts(sig: &Signature, is_lifecycle: bool) -> impl Iterator<Item = &Ident> {
    let contexts = arguments(sig)
        .enumerate()
        .filter(move |(place, argument)| (is_lifecycle && *place == 0) || is_named_context(argument));
    contexts.filter_map(|(_, argument)| match &*argument.pat {
        Pat::Ident(name) => Some(&name.ident),
        _ => None,
    })
}

struct Search<'a> {
    /// The names of the context.
    contexts: Vec<&'a Ident>,
    /// Methods of the same impl that take the context. Their code is searched as well.
    own: Vec<&'a Ident>,
}

impl Search<'_> {
    /// `for_own`: the code is the arguments of a method of the same impl.
    fn read(&self, code: TokenStream, for_own: bool) -> ReadsSettings {
        let tokens = visible(code);
        let read = |(at, token): (usize, &TokenTree)| {
            let (before, after) = (&tokens[..at], &tokens[at + 1..]);
            match token {
                TokenTree::Group(group) => {
                    let for_own = group.delimiter() == Delimiter::Parenthesis && self.is_own(before);
                    self.read(group.stream(), for_own)
                }
                TokenTree::Ident(word) if word == "config" && self.is_call(before, after) => ReadsSettings::Yes,
                TokenTree::Ident(word) if self.contexts.contains(&word) => {
                    let is_argument = for_own && after.first().is_none_or(|next| is_sign(next, ','));
                    match is_argument || stays(before, after) {
                        true => ReadsSettings::No,
                        false => ReadsSettings::Perhaps,
                    }
                }
                _ => ReadsSettings::No,
            }
        };
        tokens.iter().enumerate().map(read).max().unwrap_or(ReadsSettings::No)
    }

    /// Whether these tokens end with `self.name` or `Self::name`, for a method of the same impl.
    fn is_own(&self, tokens: &[TokenTree]) -> bool {
        let [rest @ .., TokenTree::Ident(name)] = tokens else { return false };
        let of_self = match rest {
            [.., TokenTree::Ident(this), dot] if is_sign(dot, '.') => this == "self",
            [.., TokenTree::Ident(this), _, colon] if is_sign(colon, ':') => this == "Self",
            _ => false,
        };
        of_self && self.own.contains(&name)
    }

    /// Whether `config` between these tokens is that of the context: `cx.config()`, `….config::<T>()`,
    /// `Context::config`. Other types can have a method of this name, but then without a type. A context with another
    /// name comes from one of these names, and that code passes it on.
    fn is_call(&self, before: &[TokenTree], after: &[TokenTree]) -> bool {
        match before {
            [.., TokenTree::Ident(ty), _, colon] if is_sign(colon, ':') => ty == "Context",
            [receiver @ .., dot] if is_sign(dot, '.') => match after.first() {
                Some(TokenTree::Group(arguments)) if arguments.delimiter() == Delimiter::Parenthesis => {
                    matches!(receiver.last(), Some(TokenTree::Ident(name)) if self.contexts.contains(&name))
                }
                Some(path) => is_sign(path, ':'),
                None => false,
            },
            _ => false,
        }
    }
}

/// Whether the name of the context between these tokens does not pass it on: a method is called on it, or it is the
/// name of a field or of an argument.
fn stays(before: &[TokenTree], after: &[TokenTree]) -> bool {
    let is_field = before.last().is_some_and(|dot| is_sign(dot, '.'));
    is_field
        || match after {
            [dot, TokenTree::Ident(method), ..] if is_sign(dot, '.') => method != "clone" && method != "to_owned",
            [first, second, ..] if is_sign(first, ':') => !is_sign(second, ':'),
            _ => false,
        }
}

fn is_sign(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

#[cfg(test)]
mod tests {
    use proc_macro2::Group;
    use quote::quote;

    use super::*;
    use crate::parse::item::Item;

    fn read(code: &str) -> ReadsSettings {
        read_tokens(code.parse().unwrap())
    }

    fn read_tokens(code: TokenStream) -> ReadsSettings {
        match Item::parse(code.clone()) {
            Item::Impl(block) => by_methods(&block.methods),
            Item::Function(function) => by_function(&function),
            _ => panic!("{code}"),
        }
    }

    #[test]
    fn calls_of_config_are_found_wherever_they_stand() {
        for code in [
            "impl S { fn configure(cx: &Context) -> Self { S(cx.config().unwrap_or_default()) } }",
            "impl S { async fn update(&self, cx: &Context) { if let Ok(s) = cx.config::<Settings>() {} } }",
            "impl S { fn all(cx: &Context) -> Vec<u8> { vec![cx.config().unwrap()] } }",
            "impl S { fn update(&self, cx: &Context) { let read = Context::config::<Settings>; } }",
            "async fn tick(cx: &Context) { other(cx); service_core::Context::config::<Settings>(cx); }",
            "impl S { async fn update(&self) { let read = self.context.config::<Settings>(); } }",
            "impl S { fn configure(cx: &Context) -> Self { S { cx: cx.clone() } } fn update(&self) { self.cx.config() } }",
        ] {
            assert_eq!(read(code), ReadsSettings::Yes, "{code}");
        }
    }

    #[test]
    fn code_that_came_through_macro_variables_is_read() {
        let invisible = |tokens| Group::new(Delimiter::None, tokens);
        let cx = invisible(quote!(cx));
        let nested = invisible(cx.to_token_stream());
        for (body, reads) in [
            (quote!(#nested.config()), ReadsSettings::Yes),
            (invisible(quote!(cx.config())).to_token_stream(), ReadsSettings::Yes),
            (quote!(load(#cx)), ReadsSettings::Perhaps),
            (quote!(#cx.sleep(d).await), ReadsSettings::No),
            (quote!(self.check(#nested)), ReadsSettings::No),
        ] {
            let code = quote!(impl S { fn update(&self, cx: &Context) { #body } fn check(&self, cx: &Context) {} });
            assert_eq!(read_tokens(code), reads, "{body}");
        }
    }

    #[test]
    fn code_that_receives_the_context_may_read_settings() {
        for body in [
            "load(cx)",
            "self.load(cx)?",
            "self.client.check(cx)",
            "Self::load(&self, cx)",
            "check(load(cx))",
            "self.check(load(cx))",
            "self.check(Load { cx })",
            "load(1, &cx).await",
            "read!(cx)",
            "let other = cx;",
            "let other = cx.clone();",
            "self.cx = Some(cx.to_owned());",
            "Load { cx: cx }",
            "Load { cx }",
            "Load::default().with(&*cx)",
            "cx.unless_stopping(load(cx))",
            "cx.clone().config()",
            "let other = cx; other.config()",
        ] {
            let method =
                format!("impl S {{ fn update(&self, cx: &Context) {{ {body} }} fn check(&self, c: &Context) {{}} }}");
            assert_eq!(read(&method), ReadsSettings::Perhaps, "{body}");
            let function = format!("async fn tick(cx: Cx<'_>) {{ {body} }}");
            assert_eq!(read(&function), ReadsSettings::Perhaps, "{body}");
        }
        let helper = "impl S { fn update(&self) {} fn check(&self, context: &Context) { load(context) } }";
        assert_eq!(read(helper), ReadsSettings::Perhaps);
    }

    #[test]
    fn a_context_that_stays_in_the_service_reads_no_settings() {
        for body in [
            "cx.sleep(d).await",
            "cx.unless_stopping(self.next()).await",
            "self.cx.len()",
            "self.check(cx).await?",
            "self.check(1, cx)",
            "Self::check(self, cx)",
            "fn inner(cx: u8) {}",
            "self.config.host.len()",
            "config()",
            "println!(\"cx.config()\")",
            "self.s3.config().region()",
        ] {
            let code = format!(
                "impl S {{ fn update(&self, cx: &Context) {{ {body} }} fn check(&self, n: u8, cx: &Context) {{ cx.stop() }} }}"
            );
            assert_eq!(read(&code), ReadsSettings::No, "{body}");
        }
    }
}
