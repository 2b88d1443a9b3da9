//! The attributes of the user's item and methods that concern generated code: conditions, lint levels, deprecation.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Meta, Token};

/// What generated code takes over from an item.
#[derive(Default)]
pub(crate) struct Inherited {
    /// The conditions of all `#[cfg]`s, as one.
    pub(crate) cfg: Option<TokenStream>,
    /// Attributes that set lint levels, for code that is generated for the item.
    pub(crate) lints: TokenStream,
    /// `#[deprecated]`, for an item that can be used in place of the user's.
    pub(crate) deprecated: TokenStream,
    /// The item expects a use of something deprecated in it.
    pub(crate) expects_deprecated: bool,
}

impl Inherited {
    pub(crate) fn of(attributes: &[Attribute]) -> Self {
        let mut inherited = Self::default();
        let mut conditions = Vec::new();
        for attribute in attributes {
            inherited.read(&attribute.meta, &[], &mut conditions);
        }
        inherited.cfg = match conditions.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(quote!(all(#(#many),*))),
        };
        inherited
    }

    /// Reads one attribute, which counts where all of `when` is true.
    fn read(&mut self, meta: &Meta, when: &[TokenStream], conditions: &mut Vec<TokenStream>) {
        let attribute = |meta: TokenStream| match when {
            [] => quote!(#[#meta]),
            when => quote!(#[cfg_attr(all(#(#when),*), #meta)]),
        };
        let name = meta.path().get_ident().map(ToString::to_string);
        match (name.as_deref(), meta) {
            (Some("cfg"), Meta::List(list)) => {
                let condition = &list.tokens;
                conditions.push(match when {
                    [] => condition.clone(),
                    when => quote!(any(not(all(#(#when),*)), #condition)),
                });
            }
            (Some("cfg_attr"), Meta::List(list)) => {
                let Ok(metas) = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(list.tokens.clone()) else {
                    return;
                };
                let mut metas = metas.iter();
                let Some(condition) = metas.next() else { return };
                let when: Vec<TokenStream> = when.iter().cloned().chain([condition.to_token_stream()]).collect();
                for meta in metas {
                    self.read(meta, &when, conditions);
                }
            }
            // `deny` and `forbid` could only report in generated code what they report in the user's.
            (Some("allow" | "warn"), Meta::List(_)) => self.lints.extend(attribute(meta.to_token_stream())),
            // The expectation is fulfilled by the user's item; in generated code there may be nothing to expect.
            (Some("expect"), Meta::List(list)) => {
                let lints = &list.tokens;
                self.expects_deprecated |= mentions_deprecated(lints);
                self.lints.extend(attribute(quote!(allow(#lints))));
            }
            (Some("deprecated"), _) => {
                self.deprecated.extend(attribute(meta.to_token_stream()));
                // The runtime's call is not one that the deprecation warns of.
                self.lints.extend(attribute(quote!(allow(deprecated))));
            }
            _ => {}
        }
    }

    /// Whether the attributes allow the use of something deprecated.
    pub(crate) fn allows_deprecated(&self) -> bool {
        mentions_deprecated(&self.lints)
    }
}

fn mentions_deprecated(tokens: &TokenStream) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(ident) => ident == "deprecated",
        proc_macro2::TokenTree::Group(group) => mentions_deprecated(&group.stream()),
        _ => false,
    })
}
