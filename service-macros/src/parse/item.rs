//! The annotated item, parsed leniently.
//!
//! Only the type of an impl and the signatures in it are parsed, never a body, so that an unfinished method body causes
//! no error here. A function whose signature cannot be parsed is skipped; `validate` reports it if the service would
//! lack it.
//!
//! The tricky part is the invisible groups around what came through a `macro_rules!` variable, as in
//! `fn update(&self) $body`. A [`Group`] or a [`TokenTree`] is not read through them; a word, a sign and [`braced!`]
//! are.

use proc_macro2::{Group, Ident, Punct, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::discouraged::Speculative;
use syn::parse::{ParseStream, Parser};
use syn::{
    Attribute, FnArg, Generics, PatType, Path, Receiver, ReceiverKind, Result, Signature, Token, Type, Visibility,
    WhereClause, braced, token,
};

pub(crate) enum Item {
    Impl(Box<Impl>),
    Function(Box<Function>),
    /// Something that cannot be a service: its keyword and, where it has one, its name.
    Other {
        keyword: Ident,
        name: Option<Ident>,
    },
    /// It could not be parsed.
    Unreadable,
}

pub(crate) struct Impl {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) impl_token: Token![impl],
    pub(crate) generics: Generics,
    pub(crate) trait_: Option<Path>,
    pub(crate) ty: Type,
    pub(crate) methods: Vec<Method>,
    /// The names of functions whose signature could not be parsed.
    pub(crate) unreadable: Vec<Ident>,
}

pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: TokenStream,
}

pub(crate) struct Method {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: TokenStream,
}

impl Item {
    pub(crate) fn parse(tokens: TokenStream) -> Self {
        Self::read.parse2(tokens).unwrap_or(Item::Unreadable)
    }

    fn read(input: ParseStream<'_>) -> Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis: Visibility = input.parse()?;
        if is_function(input) {
            let sig = read_signature(input)?;
            let body = input.parse()?;
            return Ok(Item::Function(Box::new(Function { attrs, vis, sig, body })));
        }
        if input.peek(Token![impl]) || (input.peek(Token![unsafe]) && input.peek2(Token![impl])) {
            input.parse::<Option<Token![unsafe]>>()?;
            return read_impl(attrs, input).map(|item| Item::Impl(Box::new(item)));
        }
        let mut keyword = input.call(Ident::parse_any)?;
        while matches!(&*keyword.to_string(), "unsafe" | "auto") {
            keyword = input.call(Ident::parse_any)?;
        }
        let name = input.call(Ident::parse_any).ok();
        skip_rest(input)?;
        Ok(Item::Other { keyword, name })
    }
}

fn is_function(input: ParseStream<'_>) -> bool {
    let ahead = input.fork();
    for _ in 0..8 {
        if ahead.peek(Token![fn]) {
            return true;
        }
        let qualifier = ahead.peek(Token![const])
            || ahead.peek(Token![async])
            || ahead.peek(Token![unsafe])
            || ahead.peek(Token![extern])
            || ahead.peek(syn::LitStr);
        if !qualifier || ahead.parse::<TokenTree>().is_err() {
            return false;
        }
    }
    false
}

fn read_impl(attrs: Vec<Attribute>, input: ParseStream<'_>) -> Result<Impl> {
    let impl_token = input.parse()?;
    let attempt = input.fork();
    // `impl <T as Trait>::Type {}` has a `<` as well.
    let mut generics = attempt.parse::<Generics>().unwrap_or_default();
    if !generics.params.is_empty() {
        input.advance_to(&attempt);
    }
    input.parse::<Option<Token![const]>>()?;
    input.parse::<Option<Token![!]>>()?;
    let first = ungrouped(input.parse()?);
    let (trait_, ty) = if input.parse::<Option<Token![for]>>()?.is_some() {
        let Type::Path(path) = first else { return Err(input.error("expected a trait")) };
        (Some(path.path), ungrouped(input.parse()?))
    } else {
        (None, first)
    };
    generics.where_clause = input.parse::<Option<WhereClause>>()?;
    let body: Group = input.parse()?;
    skip_rest(input)?;
    let (inner, methods, unreadable) = read_body.parse2(body.stream())?;
    let attrs = attrs.into_iter().chain(inner).collect();
    Ok(Impl { attrs, impl_token, generics, trait_, ty, methods, unreadable })
}

fn read_signature(input: ParseStream<'_>) -> Result<Signature> {
    let mut sig: Signature = input.parse()?;
    for input in &mut sig.inputs {
        if let FnArg::Typed(PatType { ty, .. }) | FnArg::Receiver(Receiver { kind: ReceiverKind::Typed(_, ty), .. }) =
            input
        {
            **ty = ungrouped((**ty).clone());
        }
    }
    Ok(sig)
}

/// The arguments without `self`.
pub(crate) fn arguments(sig: &Signature) -> impl Iterator<Item = &PatType> {
    sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(argument) => Some(argument),
        FnArg::Receiver(_) => None,
    })
}

/// A type that came through a `macro_rules!` variable is wrapped in an invisible group.
pub(crate) fn ungrouped(ty: Type) -> Type {
    match ty {
        Type::Group(group) => ungrouped(*group.elem),
        ty => ty,
    }
}

fn read_body(input: ParseStream<'_>) -> Result<(Vec<Attribute>, Vec<Method>, Vec<Ident>)> {
    let attrs = input.call(Attribute::parse_inner)?;
    let mut methods = Vec::new();
    let mut unreadable = Vec::new();
    while !input.is_empty() {
        let attempt = input.fork();
        if let Ok(method) = read_method(&attempt) {
            methods.push(method);
            input.advance_to(&attempt);
            continue;
        }
        if let Some(name) = skip_one(input)? {
            unreadable.push(name);
        }
    }
    Ok((attrs, methods, unreadable))
}

fn read_method(input: ParseStream<'_>) -> Result<Method> {
    let attrs = input.call(Attribute::parse_outer)?;
    let vis = input.parse()?;
    let sig = read_signature(input)?;
    // The compiler reports a method without a body.
    let body = match input.parse::<Option<Token![;]>>()? {
        Some(_) => TokenStream::new(),
        None => read_block(input)?,
    };
    Ok(Method { attrs, vis, sig, body })
}

fn read_block(input: ParseStream<'_>) -> Result<TokenStream> {
    let block;
    braced!(block in input);
    block.parse()
}

/// Skips one item, up to its `;` or block. Returns its name if it is a function.
fn skip_one(input: ParseStream<'_>) -> Result<Option<Ident>> {
    let mut name = None;
    while !input.is_empty() {
        if input.parse::<Option<Token![;]>>()?.is_some() {
            break;
        }
        if input.peek(token::Brace) {
            read_block(input)?;
            break;
        }
        if input.peek(Token![fn]) && input.peek2(syn::Ident) {
            input.parse::<Token![fn]>()?;
            name = Some(input.parse()?);
            continue;
        }
        if input.call(Ident::parse_any).is_err() && input.parse::<Punct>().is_err() {
            input.parse::<TokenTree>()?;
        }
    }
    Ok(name)
}

fn skip_rest(input: ParseStream<'_>) -> Result<()> {
    while !input.is_empty() {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}
