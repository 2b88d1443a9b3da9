//! The attributes of the user's item and methods that concern generated code: conditions, lint levels, deprecation.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Meta, Token};

use crate::parse::words::mentions;

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
                // `true` and `false` are conditions, and no attributes.
                let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(sign) if sign.as_char() == ',');
                let mut tokens = list.tokens.clone().into_iter();
                let condition = tokens.by_ref().take_while(|token| !is_comma(token)).collect();
                let when: Vec<TokenStream> = when.iter().cloned().chain([condition]).collect();
                for meta in metas(tokens.collect()) {
                    self.read(&meta, &when, conditions);
                }
            }
            // `deny` and `forbid` could only report in generated code what they report in the user's.
            (Some("allow" | "warn"), Meta::List(_)) => self.lints.extend(attribute(meta.to_token_stream())),
            // The expectation is fulfilled by the user's item; in generated code there may be nothing to expect.
            (Some("expect"), Meta::List(list)) => {
                self.expects_deprecated |= mentions(list.tokens.clone(), "deprecated");
                // Code that allows to be unused counts as a use of what it calls, which then is not unused, as
                // expected.
                let lints = metas(list.tokens.clone()).into_iter().filter(|lint| {
                    ["dead_code", "unused", "reason"].iter().all(|excluded| !lint.path().is_ident(excluded))
                });
                let lints: Vec<Meta> = lints.collect();
                if !lints.is_empty() {
                    self.lints.extend(attribute(quote!(allow(#(#lints),*))));
                }
            }
            (Some("deprecated"), _) => {
                self.deprecated.extend(attribute(meta.to_token_stream()));
                // The runtime's call is not one that the deprecation warns of.
                self.lints.extend(attribute(quote!(allow(deprecated))));
            }
            _ => {}
        }
    }
}

fn metas(list: TokenStream) -> Vec<Meta> {
    let metas = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(list);
    metas.map(|metas| metas.into_iter().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(attributes: TokenStream) -> (String, String, String) {
        let inherited = Inherited::of(&Attribute::parse_outer.parse2(attributes).unwrap());
        let cfg = inherited.cfg.map(|cfg| cfg.to_string()).unwrap_or_default();
        (cfg, inherited.lints.to_string(), inherited.deprecated.to_string())
    }

    fn is(attributes: TokenStream, cfg: TokenStream, lints: TokenStream, deprecated: TokenStream) {
        assert_eq!(of(attributes), (cfg.to_string(), lints.to_string(), deprecated.to_string()));
    }

    #[test]
    fn lint_levels_are_taken_over_and_expectations_become_permissions() {
        is(
            quote!(#[allow(a, reason = "r")] #[warn(b)] #[deny(c)] #[forbid(d)] #[inline] #[doc = "text"]),
            quote!(),
            quote!(#[allow(a, reason = "r")] #[warn(b)]),
            quote!(),
        );
        is(
            quote!(#[expect(a, clippy::b, reason = "r")] #[expect(dead_code, reason = "r")] #[expect(unused, c)]),
            quote!(),
            quote!(#[allow(a, clippy::b)] #[allow(c)]),
            quote!(),
        );
    }

    #[test]
    fn what_is_deprecated_may_be_called_by_generated_code() {
        for deprecated in [quote!(deprecated), quote!(deprecated = "old"), quote!(deprecated(note = "old"))] {
            is(quote!(#[#deprecated]), quote!(), quote!(#[allow(deprecated)]), quote!(#[#deprecated]));
        }
    }

    #[test]
    fn conditions_are_joined() {
        is(quote!(#[cfg(unix)]), quote!(unix), quote!(), quote!());
        is(quote!(#[cfg(unix)] #[cfg(test)]), quote!(all(unix, test)), quote!(), quote!());
        is(
            quote!(#[cfg_attr(unix, allow(a), deprecated, cfg(test), cfg_attr(windows, expect(b)))]),
            quote!(any(not(all(unix)), test)),
            quote!(
                #[cfg_attr(all(unix), allow(a))]
                #[cfg_attr(all(unix), allow(deprecated))]
                #[cfg_attr(all(unix, windows), allow(b))]
            ),
            quote!(#[cfg_attr(all(unix), deprecated)]),
        );
        is(
            quote!(#[cfg_attr(true, cfg(false), cfg_attr(false, allow(a)))]),
            quote!(any(not(all(true)), false)),
            quote!(#[cfg_attr(all(true, false), allow(a))]),
            quote!(),
        );
        is(quote!(#[cfg_attr()] #[cfg_attr(unix)] #[cfg_attr = 5] #[allow]), quote!(), quote!(), quote!());
    }
}
