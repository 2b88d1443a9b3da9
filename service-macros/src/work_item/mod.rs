//! `#[derive(WorkItem)]`: checks what `#[work_item(…)]` names against the model's columns, and writes the trait's impl.
//!
//! The tricky part is sea-orm's `#[sea_orm::model]`, which puts a model's derives on its `ModelEx` too: there, nothing is
//! written. After a mistake an impl is written all the same, so that its users are not told a second time.

mod args;
mod columns;

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Path};

use crate::diagnostics::Diagnostics;
use crate::spelling::nearest;
use crate::work_item::args::{Keys, Named, list};
use crate::work_item::columns::{Column, columns, unsuitable};

/// The derive as a plain function, so that tests can look at what it writes.
pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    if input.ident.to_string().ends_with("ModelEx") {
        return TokenStream::new();
    }
    let mut diagnostics = Diagnostics::default();
    let keys = Keys::parse(&input, &mut diagnostics);
    let krate = keys.krate.clone().unwrap_or_else(|| syn::parse_quote!(::service_core));
    let Data::Struct(data) = &input.data else {
        diagnostics.push(Error::new(input.ident.span(), NOT_A_MODEL));
        return diagnostics.into_compile_errors();
    };
    let Fields::Named(fields) = &data.fields else {
        diagnostics.push(Error::new(input.ident.span(), NOT_A_MODEL));
        return diagnostics.into_compile_errors();
    };
    if !input.attrs.iter().any(|attribute| attribute.path().is_ident("sea_orm")) {
        diagnostics.push(Error::new(input.ident.span(), NOT_A_MODEL));
        return diagnostics.into_compile_errors();
    }
    let columns = columns(fields);
    let model = WorkItem::new(&input.ident, &keys, &columns, &mut diagnostics);
    if !diagnostics.is_empty() {
        let errors = diagnostics.into_compile_errors();
        let stand_in = implement(&krate, &quote!(::core::unreachable!()));
        return quote!(#errors #stand_in);
    }
    match model {
        Some(model) => model.expand(&krate),
        None => TokenStream::new(),
    }
}

const NOT_A_MODEL: &str = "a work item is a row: derive `WorkItem` on a sea-orm model, \
     a `struct Model { … }` with `#[derive(DeriveEntityModel)]` and `#[sea_orm(table_name = \"…\")]`";

/// What is meant.
struct WorkItem<'a> {
    status: &'a Column,
    error: Option<&'a Column>,
    attempts: Option<&'a Column>,
    max_attempts: u32,
    available_at: Option<&'a Column>,
    updated_at: Option<&'a Column>,
}

/// How often a row is tried where `attempts` is named and `max_attempts` is not.
const DEFAULT_ATTEMPTS: u32 = 3;

impl<'a> WorkItem<'a> {
    fn new(name: &Ident, keys: &Keys, columns: &'a [Column], diagnostics: &mut Diagnostics) -> Option<Self> {
        if !columns.iter().any(|column| column.primary_key) {
            diagnostics.push(Error::new(
                name.span(),
                "a work item needs a primary key: put `#[sea_orm(primary_key)]` on the column (or columns) that tell rows apart",
            ));
        }
        let mut taken: Vec<(&'static str, &Column)> = Vec::new();
        let mut find = |key: &'static str| {
            let named = keys.columns.iter().find(|named| named.key == key)?;
            let column = resolve(named, columns, diagnostics)?;
            if let Some((other, _)) = taken.iter().find(|(_, other)| other.field == column.field) {
                let text = format!("`{other}` names `{}` already: `{key}` needs a column of its own", column.field);
                diagnostics.push(Error::new(named.span, text));
                return None;
            }
            taken.push((key, column));
            if let Some(text) = unsuitable(key, column) {
                diagnostics.push(Error::new(column.ty.span(), text));
                return None;
            }
            Some(column)
        };
        let (status, error) = (find("status"), find("error"));
        let (attempts, available_at, updated_at) = (find("attempts"), find("available_at"), find("updated_at"));
        if keys.columns.iter().all(|named| named.key != "status") && !keys.broken {
            diagnostics.push(Error::new(keys.span.unwrap_or_else(|| name.span()), missing_status(keys, columns)));
        }
        let named_attempts = keys.columns.iter().any(|named| named.key == "attempts");
        if let Some((_, span)) = keys.max_attempts.filter(|_| !named_attempts && !keys.broken) {
            diagnostics.push(Error::new(
                span,
                "`max_attempts` needs a column that counts them: add an integer column and `attempts = \"…\"`",
            ));
        }
        let max_attempts = keys.max_attempts.map_or(DEFAULT_ATTEMPTS, |(number, _)| number);
        Some(Self { status: status?, error, attempts, max_attempts, available_at, updated_at })
    }

    fn expand(&self, krate: &Path) -> TokenStream {
        let optional = |column: Option<&Column>| match column.map(|column| &column.variant) {
            Some(variant) => quote!(::core::option::Option::Some(Column::#variant)),
            None => quote!(::core::option::Option::None),
        };
        let time = |column: Option<&Column>| match column {
            Some(Column { variant, ty, .. }) => {
                let value = quote_spanned!(ty.span()=> #krate::__private::database::time_value::<#ty>);
                quote!(::core::option::Option::Some((Column::#variant, #value)))
            }
            None => quote!(::core::option::Option::None),
        };
        let (status, max_attempts) = (&self.status.variant, self.max_attempts);
        let (error, attempts) = (optional(self.error), optional(self.attempts));
        let (available_at, updated_at) = (time(self.available_at), time(self.updated_at));
        let known = if self.status.is("String") {
            quote!(#krate::__private::database::any_status)
        } else {
            let ty = &self.status.ty;
            quote_spanned!(ty.span()=> #krate::__private::database::known_statuses::<#ty>)
        };
        let body = quote! {
            #krate::__private::database::Work {
                status: Column::#status,
                known_statuses: #known,
                error: #error,
                attempts: #attempts,
                max_attempts: #max_attempts,
                available_at: #available_at,
                updated_at: #updated_at,
            }
        };
        implement(krate, &body)
    }
}

fn implement(krate: &Path, body: &TokenStream) -> TokenStream {
    quote! {
        #[automatically_derived]
        impl #krate::__private::database::WorkItem for Entity {
            fn __work() -> #krate::__private::database::Work<Column> {
                #body
            }
        }
    }
}

fn resolve<'a>(named: &Named, columns: &'a [Column], diagnostics: &mut Diagnostics) -> Option<&'a Column> {
    let found =
        columns.iter().find(|column| column.field == named.column || column.name.as_ref() == Some(&named.column));
    if found.is_none() {
        let names: Vec<&str> = columns.iter().map(|column| column.field.as_str()).collect();
        let near = nearest(&named.column, names.iter().copied());
        // A word of the name alone is often what is remembered: `message` for `error_message`.
        let part = || names.iter().copied().find(|name| name.split('_').any(|word| word == named.column));
        let advice = match near.or_else(part) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the columns are {}", list(&names)),
        };
        diagnostics.push(Error::new(named.span, format!("there is no column `{}`; {advice}", named.column)));
    }
    found
}

fn missing_status(keys: &Keys, columns: &[Column]) -> String {
    let guess = columns.iter().find(|column| column.field == "status" || column.field == "state");
    let guess = guess.map_or("…", |column| column.field.as_str());
    match keys.span {
        None => {
            format!("say which column holds the status: add `#[work_item(status = \"{guess}\")]` below the derives")
        }
        Some(_) => format!("`status` is missing: say which column holds it, `status = \"{guess}\"`"),
    }
}

#[cfg(test)]
mod tests;
