//! Searches tokens for a word.

use proc_macro2::{TokenStream, TokenTree};

/// Whether the word is among the tokens.
pub(crate) fn mentions(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(found) => found == word,
        TokenTree::Group(group) => mentions(group.stream(), word),
        _ => false,
    })
}
