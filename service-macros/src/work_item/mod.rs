//! `#[derive(WorkItem)]`: checks the columns that `#[work_item(…)]` names against the model, and writes the trait's
//! impl.
//!
//! The tricky part is sea-orm's `#[sea_orm::model]`, which copies a model's derives to its `ModelEx`: there, nothing is
//! written. After an error an impl is written anyway, so that the uses of the trait are not further errors.

mod columns;

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Meta, Path};

use crate::diagnostics::Diagnostics;
use crate::parse::args::{Arg, Args};
use crate::parse::keys;
use crate::parse::value::Literal;
use crate::spelling::nearest;
use crate::validate;
use crate::work_item::columns::{Column, columns, unsuitable};

/// The derive as a plain function, so that tests can inspect the output.
pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    if input.ident.to_string().ends_with("ModelEx") {
        return TokenStream::new();
    }
    let mut diagnostics = Diagnostics::default();
    let columns = match &input.data {
        Data::Struct(data) if input.attrs.iter().any(|attribute| attribute.path().is_ident("sea_orm")) => {
            match &data.fields {
                Fields::Named(fields) => Some(columns(fields)),
                _ => None,
            }
        }
        _ => None,
    };
    let Some(columns) = columns else {
        diagnostics.push(Error::new(input.ident.span(), NOT_A_MODEL));
        return diagnostics.into_compile_errors();
    };
    let attribute = Attribute::parse(&input, &mut diagnostics);
    let krate = attribute.krate();
    match WorkItem::new(&input.ident, &attribute, &columns, &mut diagnostics) {
        Some(item) if diagnostics.is_empty() => item.expand(&krate),
        _ => {
            let errors = diagnostics.into_compile_errors();
            let stand_in = implement(&krate, &quote!(::core::unreachable!()));
            quote!(#errors #stand_in)
        }
    }
}

const NOT_A_MODEL: &str = "a work item is a row of a table: derive `WorkItem` on a sea-orm model, \
     a `struct Model { … }` with `#[derive(DeriveEntityModel)]` and `#[sea_orm(table_name = \"…\")]`";

/// The arguments of every `#[work_item(…)]`.
struct Attribute {
    args: Args,
    /// Where the first one is written.
    span: Option<Span>,
}

impl Attribute {
    fn parse(input: &DeriveInput, diagnostics: &mut Diagnostics) -> Self {
        let attributes: Vec<_> =
            input.attrs.iter().filter(|attribute| attribute.path().is_ident("work_item")).collect();
        let mut lists = Vec::new();
        for attribute in &attributes {
            match &attribute.meta {
                Meta::List(list) => lists.push(list.tokens.clone()),
                Meta::Path(_) => {}
                Meta::NameValue(pair) => diagnostics.push(Error::new(
                    pair.eq_token.span,
                    "expected parentheses: write `#[work_item(status = \"status\")]`",
                )),
            }
        }
        let args = Args::parse(keys::WORK_ITEM, lists, diagnostics);
        validate::keys::check(&args, diagnostics);
        Self { args, span: attributes.first().map(|attribute| attribute.path().span()) }
    }

    fn krate(&self) -> Path {
        self.args.get("crate").and_then(Arg::path).cloned().unwrap_or_else(|| syn::parse_quote!(::service_core))
    }
}

/// The columns that a work item needs.
struct WorkItem<'a> {
    status: &'a Column,
    error: Option<&'a Column>,
    attempts: Option<&'a Column>,
    max_attempts: u32,
    available_at: Option<&'a Column>,
    updated_at: Option<&'a Column>,
    retain_completed: Option<Duration>,
}

/// How often a row is tried if the attribute has `attempts`, but not `max_attempts`.
const DEFAULT_ATTEMPTS: u32 = 3;

impl<'a> WorkItem<'a> {
    fn new(name: &Ident, attribute: &Attribute, columns: &'a [Column], diagnostics: &mut Diagnostics) -> Option<Self> {
        let args = &attribute.args;
        // The argument that seems to be missing may be one that could not be parsed.
        let readable = diagnostics.is_empty();
        if !columns.iter().any(|column| column.primary_key) {
            diagnostics.push(Error::new(
                name.span(),
                "a work item needs a primary key: put `#[sea_orm(primary_key)]` on each column of the key",
            ));
        }
        let mut taken: Vec<(&'static str, &Column)> = Vec::new();
        let mut find = |key: &'static str| {
            let arg = args.get(key)?;
            let column = resolve(arg, columns, diagnostics)?;
            if let Some((other, _)) = taken.iter().find(|(_, other)| other.field == column.field) {
                let text = format!("`{other}` uses the column `{}` already: `{key}` needs another one", column.field);
                diagnostics.push(Error::new(arg.value_span, text));
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
        if args.get("status").is_none() && readable {
            let span = attribute.span.unwrap_or_else(|| name.span());
            diagnostics.push(Error::new(span, missing_status(attribute, columns)));
        }
        let max_attempts = match args.get("max_attempts").and_then(Arg::literal) {
            Some(Literal::Int(number)) => u32::try_from(*number).unwrap_or(u32::MAX),
            _ => DEFAULT_ATTEMPTS,
        };
        let retain_completed = args.get("retain_completed").and_then(Arg::literal).and_then(Literal::duration);
        Some(Self { status: status?, error, attempts, max_attempts, available_at, updated_at, retain_completed })
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
        let retain_completed = match self.retain_completed {
            Some(time) => {
                let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
                quote!(::core::option::Option::Some(::core::time::Duration::new(#seconds, #nanos)))
            }
            None => quote!(::core::option::Option::None),
        };
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
                retain_completed: #retain_completed,
            }
        };
        let implementation = implement(krate, &body);
        // The entry on the list of tables that the linker collects.
        quote! {
            #implementation
            #krate::__private::inventory::submit! {
                #krate::__private::database::LinkedTable::of::<Entity>()
            }
        }
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

fn resolve<'a>(arg: &Arg, columns: &'a [Column], diagnostics: &mut Diagnostics) -> Option<&'a Column> {
    let written = arg.text()?;
    let found = columns.iter().find(|column| column.field == written || column.name.as_deref() == Some(written));
    if found.is_none() {
        let names: Vec<&str> = columns.iter().map(|column| column.field.as_str()).collect();
        let near = nearest(written, names.iter().copied());
        // People often remember one word of the name: `message` for `error_message`.
        let part = || names.iter().copied().find(|name| name.split('_').any(|word| word == written));
        let advice = match near.or_else(part) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the columns are {}", names.join(", ")),
        };
        diagnostics.push(Error::new(arg.value_span, format!("there is no column `{written}`; {advice}")));
    }
    found
}

fn missing_status(attribute: &Attribute, columns: &[Column]) -> String {
    let guess = columns.iter().find(|column| column.field == "status" || column.field == "state");
    let guess = guess.map_or("…", |column| column.field.as_str());
    match attribute.span {
        None => format!("the status column is not named: add `#[work_item(status = \"{guess}\")]` below the derives"),
        Some(_) => format!("the status column is not named: add `status = \"{guess}\"`"),
    }
}

#[cfg(test)]
mod tests;
