//! `#[service(…)]`'s argument list: keys and their spanned values.
//!
//! It is split at its commas first, so that a broken argument spoils only itself and every mistake is told at once.

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::Error;

use crate::diagnostics::Diagnostics;
use crate::parse::keys::{self, Key};
use crate::parse::value::{self, Value};

/// The arguments, in the order written.
#[derive(Default)]
pub(crate) struct Args(Vec<Arg>);

pub(crate) struct Arg {
    pub(crate) key: &'static Key,
    /// The key as written.
    pub(crate) ident: Ident,
    /// The value's first token.
    pub(crate) span: Span,
    /// `None`: it was wrong, and has been told.
    pub(crate) value: Option<Value>,
}

impl Args {
    pub(crate) fn parse(tokens: TokenStream, diagnostics: &mut Diagnostics) -> Self {
        let mut args = Self::default();
        for argument in split_at_commas(tokens, diagnostics) {
            match args.argument(argument) {
                Ok(()) => {}
                Err(error) => diagnostics.push(error),
            }
        }
        args
    }

    fn argument(&mut self, tokens: Vec<TokenTree>) -> Result<(), Error> {
        let mut tokens = tokens.into_iter();
        let ident = match tokens.next() {
            Some(TokenTree::Ident(ident)) => ident,
            Some(other) => return Err(no_key(&other)),
            None => return Ok(()),
        };
        let Some(key) = keys::find(&ident.to_string()) else { return Err(unknown_key(&ident)) };
        if self.get(key.name).is_some() {
            return Err(Error::new(ident.span(), format!("`{}` is written twice: leave one out", key.name)));
        }
        let tokens: Vec<TokenTree> = tokens.collect();
        let span = tokens.get(1).map_or(ident.span(), TokenTree::span);
        let value = value_tokens(key, &ident, &tokens).and_then(|tokens| value::read(key, tokens));
        let (value, told) = match value {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.0.push(Arg { key, ident, span, value });
        told
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arg> {
        self.0.iter().find(|arg| arg.key.name == key)
    }
}

impl Args {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arg> {
        self.0.iter()
    }
}

impl IntoIterator for Args {
    type Item = Arg;
    type IntoIter = std::vec::IntoIter<Arg>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Arg {
    /// The value as a time; also a number of seconds.
    pub(crate) fn duration(&self) -> Option<Duration> {
        match self.value.as_ref()? {
            Value::Int(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
            Value::Str(text) => crate::parse::units::duration(text).ok(),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self.value.as_ref()? {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}

fn split_at_commas(tokens: TokenStream, diagnostics: &mut Diagnostics) -> Vec<Vec<TokenTree>> {
    let mut arguments = vec![Vec::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => {
                if arguments.last().is_some_and(Vec::is_empty) {
                    diagnostics.push(Error::new(comma.span(), "nothing stands before this comma: leave it out"));
                } else {
                    arguments.push(Vec::new());
                }
            }
            _ => {
                if let Some(argument) = arguments.last_mut() {
                    argument.push(token);
                }
            }
        }
    }
    arguments
}

fn no_key(found: &TokenTree) -> Error {
    let text = found.to_string();
    let unquoted = text.trim_matches('"');
    let message = match keys::find(unquoted) {
        Some(key) => format!("keys stand without quotes: `{} = {}`", key.name, key.example),
        None if matches!(found, TokenTree::Literal(_)) => {
            format!("a value without its key: write `key = {text}`, as in `interval = 30`")
        }
        None => "expected `key = value`, as in `interval = 30`".to_owned(),
    };
    Error::new(found.span(), message)
}

fn unknown_key(ident: &Ident) -> Error {
    let message = match keys::meant(&ident.to_string()) {
        Some(key) if ident == "disabled" => {
            format!("there is no key `{ident}`; did you mean `{} = {}`?", key.name, key.example)
        }
        Some(key) => format!("there is no key `{ident}`; did you mean `{}`?", key.name),
        None => {
            let all: Vec<&str> = keys::KEYS.iter().map(|key| key.name).collect();
            format!(
                "there is no key `{ident}`; keys are {}. A setting of the service's own goes into `services.toml`",
                all.join(", ")
            )
        }
    };
    Error::new(ident.span(), message)
}

/// What stands behind the `=`.
fn value_tokens<'t>(key: &Key, ident: &Ident, tokens: &'t [TokenTree]) -> Result<&'t [TokenTree], Error> {
    let write = format!("write `{} = {}`", key.name, key.example);
    match tokens {
        [] => Err(Error::new(ident.span(), format!("`{}` has no value: {write}", key.name))),
        [TokenTree::Punct(equals), rest @ ..] if equals.as_char() == '=' => match rest {
            [] => Err(Error::new(ident.span(), format!("`{}` has no value: {write}", key.name))),
            [TokenTree::Punct(second), ..] if second.as_char() == '=' => {
                Err(Error::new(second.span(), format!("one `=` is enough: {write}")))
            }
            rest => Ok(rest),
        },
        [other, ..] => Err(Error::new(other.span(), format!("expected `=` after `{}`: {write}", key.name))),
    }
}
