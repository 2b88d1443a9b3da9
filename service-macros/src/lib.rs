//! The macros of `service-core`, which documents and re-exports them. Use them from there.
//!
//! A macro runs through four stages, and each file imports only from its own stage and from those before it:
//!
//! 1. `parse` reads the arguments and the annotated item;
//! 2. `model` is the result: one service, its options and its lifecycle methods;
//! 3. `validate` collects every error;
//! 4. `expand` writes the code, or after an error just enough for the type to count as a service.
//!
//! `diagnostics` (the errors found so far) and `spelling` (the nearest known word) import nothing. `work_item` is
//! `#[derive(WorkItem)]`, which has the same stages in one folder.
//!
//! The output begins with the user's item, unchanged, with or without errors.

mod diagnostics;
mod expand;
mod model;
mod parse;
mod spelling;
mod validate;
mod work_item;

use proc_macro2::TokenStream;
use quote::quote;

use diagnostics::Diagnostics;
use model::Model;
use parse::args::Args;
use parse::item::Item;
use parse::keys;
use validate::keys::Form;

#[allow(missing_docs, reason = "documented where service-core re-exports it")]
#[proc_macro_attribute]
pub fn service(args: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    attribute(args.into(), item.into()).into()
}

#[allow(missing_docs, reason = "documented where service-core re-exports it")]
#[proc_macro_derive(WorkItem, attributes(work_item))]
pub fn work_item(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    work_item::derive(input.into()).into()
}

/// The attribute as a plain function, so that tests can inspect the output.
fn attribute(args: TokenStream, item: TokenStream) -> TokenStream {
    let parsed = Item::parse(item.clone());
    if let Some(error) = validate::twice(&parsed) {
        let error = error.into_compile_error();
        return quote!(#item #error);
    }
    let mut diagnostics = Diagnostics::default();
    let args = Args::parse(keys::SERVICE, [args], &mut diagnostics);
    validate::keys::check(&args, &mut diagnostics);

    let (model, expandable) = match parsed {
        Item::Impl(block) => {
            if let Some(form) = Form::of_impl(&block) {
                validate::keys::check_form(&args, form, &mut diagnostics);
            }
            let mut model = Model::of_impl(&block, args);
            let expandable = validate::implementation(&block, &mut model, &mut diagnostics);
            (Some(model), expandable)
        }
        Item::Function(function) => {
            validate::keys::check_form(&args, Form::Function, &mut diagnostics);
            let expandable = validate::function(&function, &mut diagnostics);
            (Some(Model::of_function(&function, args)), expandable)
        }
        Item::Other { keyword, name } => {
            diagnostics.push(validate::other(&keyword, name.as_ref()));
            (None, false)
        }
        Item::Unreadable => {
            diagnostics.push(validate::unreadable(item.clone()));
            (None, false)
        }
    };
    let generated = match &model {
        Some(model) if expandable => {
            validate::identity(model, &mut diagnostics);
            if diagnostics.is_empty() && !model.updates.is_empty() {
                expand::service(model)
            } else {
                expand::fallback(model)
            }
        }
        _ => TokenStream::new(),
    };
    let expectation = model.as_ref().and_then(expand::expectation);
    let diagnostics = diagnostics.into_compile_errors();
    quote!(#expectation #item #diagnostics #generated)
}

#[cfg(test)]
mod snapshots;
