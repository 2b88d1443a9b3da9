//! Paths of the runtime crate in generated code.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote_spanned;

use crate::model::Model;

/// The module of the runtime that generated code names, spanned where a fault of its item is to be shown.
pub(crate) fn private(model: &Model, at: Span) -> TokenStream {
    match &model.runtime {
        Some(path) => quote_spanned!(at=> #path::__private),
        // Its name bears the attribute's span always, so that a missing crate is one error and not one a mention.
        None => {
            let service_core = Ident::new("service_core", Span::call_site());
            quote_spanned!(at=> ::#service_core::__private)
        }
    }
}
