//! Methods that the user wrote several times, each with its own `#[cfg]`.

use proc_macro2::TokenStream;
use quote::quote;

use crate::expand::items::cfg;
use crate::model::Lifecycle;

/// The condition of each variant, so that no two are true at once, and the condition that none is.
pub(crate) fn conditions(methods: &[Lifecycle]) -> (Vec<Option<TokenStream>>, Option<TokenStream>) {
    let mut before: Vec<TokenStream> = Vec::new();
    let mut each = Vec::new();
    for method in methods {
        let own = method.inherited.cfg.clone();
        each.push(match (&own, before.as_slice()) {
            (None, []) => None,
            (None, before) => Some(quote!(not(any(#(#before),*)))),
            (Some(own), []) => Some(own.clone()),
            (Some(own), before) => Some(quote!(all(#own, not(any(#(#before),*))))),
        });
        before.push(own.unwrap_or_else(|| quote!(all())));
    }
    let always = methods.iter().any(|method| method.inherited.cfg.is_none());
    (each, (!always).then(|| quote!(not(any(#(#before),*)))))
}

/// The expression of the variant whose condition is true.
pub(crate) fn choose(
    methods: &[Lifecycle],
    of: impl Fn(&Lifecycle) -> TokenStream,
    otherwise: TokenStream,
) -> TokenStream {
    let of = |method: &Lifecycle| {
        let (lints, value) = (&method.inherited.lints, of(method));
        if lints.is_empty() { value } else { quote!({ #lints { #value } }) }
    };
    if let [only] = methods
        && only.inherited.cfg.is_none()
    {
        return of(only);
    }
    if methods.is_empty() {
        return otherwise;
    }
    let (each, none) = conditions(methods);
    let arms = methods.iter().zip(each).map(|(method, condition)| {
        let (cfg, value) = (cfg(condition.as_ref()), of(method));
        quote!(#cfg { #value })
    });
    let otherwise = cfg(none.as_ref()).map(|cfg| quote!(#cfg { #otherwise }));
    quote!({ #(#arms)* #otherwise })
}
