//! The argument list of an attribute: keys and their values.
//!
//! The list is split at its commas first, so that an error in one argument does not hide the errors in the others.

use std::mem::take;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::{Error, Path};

use crate::diagnostics::{Diagnostics, combined};
use crate::parse::keys::{Key, Table};
use crate::parse::value::{self, Literal, Value};
use crate::parse::words::visible;

/// The arguments, in the order written.
pub(crate) struct Args {
    table: Table,
    args: Vec<Arg>,
    /// Words of arguments that could not be read, each in the place of a key.
    unread: Vec<String>,
}

pub(crate) struct Arg {
    pub(crate) key: Key,
    /// Where the key is written.
    pub(crate) span: Span,
    /// Where the value is written: its first token.
    pub(crate) value_span: Span,
    /// `None`: the value was wrong, and its error has been reported.
    pub(crate) value: Option<Value>,
}

impl Args {
    /// Reads the tokens between the parentheses of each attribute.
    pub(crate) fn parse(
        table: Table,
        attributes: impl IntoIterator<Item = TokenStream>,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut args = Self { table, args: Vec::new(), unread: Vec::new() };
        for tokens in attributes {
            for argument in split_at_commas(tokens, diagnostics) {
                if let Err(error) = args.argument(argument) {
                    diagnostics.push(error);
                }
            }
        }
        args
    }

    fn argument(&mut self, tokens: Vec<TokenTree>) -> Result<(), Error> {
        let mut tokens = tokens.into_iter();
        let Some(first) = tokens.next() else { return Ok(()) };
        let word = first.to_string();
        let (ident, key) = self.key(first).inspect_err(|_| self.unread.push(word))?;
        if self.get(key.name).is_some() {
            return Err(Error::new(ident.span(), format!("`{}` is written twice: remove one of them", key.name)));
        }
        let tokens: Vec<TokenTree> = tokens.collect();
        let (span, value_span) = (ident.span(), tokens.get(1).map_or(ident.span(), TokenTree::span));
        let value = value_tokens(key, &ident, &tokens).and_then(|tokens| {
            let next = self.after_missing_commas(tokens);
            self.unread.extend(next.iter().map(ToString::to_string));
            let missing =
                next.iter().map(|next| Error::new(next.span(), format!("a comma is missing before `{next}`")));
            combined(missing).map_or_else(|| value::read(key, tokens), Err)
        });
        let (value, result) = match value {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.args.push(Arg { key, span, value_span, value });
        result
    }

    /// `interval = 30 delay = 5` lacks a comma. Returns the key after each that is missing.
    fn after_missing_commas<'t>(&self, value: &'t [TokenTree]) -> Vec<&'t Ident> {
        let next = value.windows(2).skip(1).filter_map(|pair| match pair {
            [TokenTree::Ident(next), TokenTree::Punct(equals)] if equals.as_char() == '=' => Some(next),
            _ => None,
        });
        let last = match value {
            // The end of a path and the value of the next key may be called as a key is.
            [.., TokenTree::Punct(sign), TokenTree::Ident(_)] if matches!(sign.as_char(), ':' | '=') => None,
            [_, .., TokenTree::Ident(last)] if self.table.find(&last.to_string()).is_some() => Some(last),
            _ => None,
        };
        next.chain(last).collect()
    }

    /// Whether this key was probably meant by an argument that could not be read, which is an error already.
    pub(crate) fn is_unread(&self, key: &str) -> bool {
        self.unread.iter().any(|word| {
            let proposal = self.table.proposal(word.trim_matches('"'));
            proposal.is_some_and(|proposal| proposal.split(' ').next() == Some(key))
        })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arg> {
        self.args.iter().find(|arg| arg.key.name == key)
    }

    /// The value of a switch. `None`: it is not known, because of an error that has been reported.
    pub(crate) fn switch(&self, key: &str, default: bool) -> Option<bool> {
        match self.get(key) {
            Some(arg) => arg.switch(),
            None => (!self.is_unread(key)).then_some(default),
        }
    }

    /// The declaration of a key, written or not.
    pub(crate) fn declared(&self, key: &str) -> Option<&'static Key> {
        self.table.find(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arg> {
        self.args.iter()
    }

    fn key(&self, first: TokenTree) -> Result<(Ident, Key), Error> {
        let TokenTree::Ident(ident) = first else { return Err(self.no_key(&first)) };
        match self.table.find(&ident.to_string()) {
            Some(key) => Ok((ident, *key)),
            None => Err(self.unknown_key(&ident)),
        }
    }

    fn no_key(&self, found: &TokenTree) -> Error {
        let text = found.to_string();
        let message = match self.table.find(text.trim_matches('"')) {
            Some(key) => format!("a key needs no quotes: write `{}`", key.assignment()),
            None => format!("expected `key = value`, for example `{}`", self.table.example),
        };
        Error::new(found.span(), message)
    }

    fn unknown_key(&self, ident: &Ident) -> Error {
        let message = match self.table.proposal(&ident.to_string()) {
            Some(proposal) => format!("unknown key `{ident}`; did you mean `{proposal}`?"),
            None => {
                let names: Vec<&str> = self.table.names().collect();
                format!("unknown key `{ident}`: the keys are {}; {}", names.join(", "), self.table.advice)
            }
        };
        Error::new(ident.span(), message)
    }
}

impl IntoIterator for Args {
    type Item = Arg;
    type IntoIter = std::vec::IntoIter<Arg>;

    fn into_iter(self) -> Self::IntoIter {
        self.args.into_iter()
    }
}

impl Arg {
    pub(crate) fn literal(&self) -> Option<&Literal> {
        match self.value.as_ref()? {
            Value::Literal(literal) => Some(literal),
            Value::Path(_) => None,
        }
    }

    pub(crate) fn switch(&self) -> Option<bool> {
        match self.literal()? {
            Literal::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match self.value.as_ref()? {
            Value::Literal(_) => None,
            Value::Path(path) => Some(path),
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self.literal()? {
            Literal::Str(text) => Some(text),
            _ => None,
        }
    }
}

fn split_at_commas(tokens: TokenStream, diagnostics: &mut Diagnostics) -> Vec<Vec<TokenTree>> {
    let (mut arguments, mut argument) = (Vec::new(), Vec::new());
    for token in visible(tokens) {
        match token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => {
                if argument.is_empty() {
                    diagnostics.push(Error::new(comma.span(), "unexpected comma: remove it"));
                } else {
                    arguments.push(take(&mut argument));
                }
            }
            token => argument.push(token),
        }
    }
    arguments.push(argument);
    arguments
}

/// The tokens after the `=`.
fn value_tokens<'t>(key: Key, ident: &Ident, tokens: &'t [TokenTree]) -> Result<&'t [TokenTree], Error> {
    let write = format!("write `{}`", key.assignment());
    match tokens {
        [] => Err(Error::new(ident.span(), format!("`{ident}` has no value: {write}"))),
        [TokenTree::Punct(equals), rest @ ..] if equals.as_char() == '=' => match rest {
            [] => Err(Error::new(ident.span(), format!("`{ident}` has no value: {write}"))),
            [TokenTree::Punct(second), ..] if second.as_char() == '=' => {
                Err(Error::new(second.span(), format!("expected one `=`, not `==`: {write}")))
            }
            rest => Ok(rest),
        },
        [other, ..] => Err(Error::new(other.span(), format!("expected `=` after `{ident}`: {write}"))),
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::{Delimiter, Group};
    use quote::quote;

    use super::*;
    use crate::parse::keys::SERVICE;

    #[test]
    fn arguments_that_came_through_macro_variables_are_split() {
        let parse = |tokens: TokenStream| {
            let mut diagnostics = Diagnostics::default();
            let args = Args::parse(SERVICE, [tokens], &mut diagnostics);
            let keys: Vec<&str> = args.iter().map(|arg| arg.key.name).collect();
            (keys, diagnostics.into_compile_errors().to_string())
        };
        let invisible = |tokens| Group::new(Delimiter::None, tokens);
        let (first, five) = (invisible(quote!(interval = 30)), invisible(quote!(5)));
        let second = invisible(quote!(timeout = #five));
        assert_eq!(parse(quote!(#first, #second)), (vec!["interval", "timeout"], String::new()));
        let (_, errors) = parse(quote!(#first #second));
        assert_eq!(errors.matches("compile_error").count(), 1, "{errors}");
        assert!(errors.contains("a comma is missing before `timeout`"), "{errors}");
    }
}
