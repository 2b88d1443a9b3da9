//! Tokens as words: without invisible groups, or searched for one word.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The tokens without the invisible groups around what came through a `macro_rules!` variable.
pub(crate) fn visible(code: TokenStream) -> Vec<TokenTree> {
    let tokens = code.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::None => visible(group.stream()),
        token => vec![token],
    });
    tokens.collect()
}

/// Whether the word is among the tokens.
pub(crate) fn mentions(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(found) => found == word,
        TokenTree::Group(group) => mentions(group.stream(), word),
        _ => false,
    })
}
