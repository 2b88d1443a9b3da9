//! The columns of a model, as far as their tokens show, and whether a column is suitable for a key.

use proc_macro2::{Ident, Span};
use quote::format_ident;
use syn::{Attribute, Expr, Field, FieldsNamed, GenericArgument, LitStr, PathArguments, Type};

pub(crate) struct Column {
    /// The field's name.
    pub(crate) field: String,
    /// The name in the table, if it differs from the field's.
    pub(crate) name: Option<String>,
    /// Its variant of `Column`.
    pub(crate) variant: Ident,
    pub(crate) ty: Type,
    pub(crate) primary_key: bool,
}

impl Column {
    pub(crate) fn is(&self, name: &str) -> bool {
        last_segment(&self.ty).is_some_and(|segment| segment == name)
    }
}

pub(crate) fn columns(fields: &FieldsNamed) -> Vec<Column> {
    fields.named.iter().filter_map(column).collect()
}

fn column(field: &Field) -> Option<Column> {
    let ident = field.ident.as_ref()?;
    let name = ident.to_string();
    let name = name.strip_prefix("r#").unwrap_or(&name);
    let mut column = Column {
        field: name.to_owned(),
        name: None,
        variant: variant(name, ident.span()),
        ty: field.ty.clone(),
        primary_key: false,
    };
    let mut ignored = false;
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("sea_orm")) {
        read(attribute, &mut column, &mut ignored);
    }
    (!ignored).then_some(column)
}

/// The variant that sea-orm gives a column's field.
pub(crate) fn variant(field: &str, span: Span) -> Ident {
    let mut name = String::new();
    for word in field.split('_').filter(|word| !word.is_empty()) {
        let mut previous_lower = false;
        for (index, letter) in word.chars().enumerate() {
            if index == 0 || previous_lower && letter.is_uppercase() {
                name.extend(letter.to_uppercase());
            } else {
                name.extend(letter.to_lowercase());
            }
            previous_lower = letter.is_lowercase();
        }
    }
    format_ident!("{name}", span = span)
}

fn read(attribute: &Attribute, column: &mut Column, ignored: &mut bool) {
    // sea-orm itself reports what it does not understand.
    let _ = attribute.parse_nested_meta(|meta| {
        if meta.path.is_ident("primary_key") {
            column.primary_key = true;
        } else if meta.path.is_ident("ignore") {
            *ignored = true;
        } else if meta.path.is_ident("column_name") {
            column.name = Some(meta.value()?.parse::<LitStr>()?.value());
            return Ok(());
        } else if meta.path.is_ident("enum_name") {
            column.variant = meta.value()?.parse::<LitStr>()?.parse()?;
            return Ok(());
        }
        if meta.input.peek(syn::Token![=]) {
            meta.value()?.parse::<Expr>()?;
        } else if meta.input.peek(syn::token::Paren) {
            let inside;
            syn::parenthesized!(inside in meta.input);
            inside.parse::<proc_macro2::TokenStream>()?;
        }
        Ok(())
    });
}

/// Why the column is not suitable for `key`, if its type is known well enough to say.
pub(crate) fn unsuitable(key: &str, column: &Column) -> Option<String> {
    let ty = type_name(&column.ty)?;
    let field = &column.field;
    let inner = option_of(&column.ty);
    let text = match key {
        "status" if column.primary_key => {
            format!("`{field}` is the primary key and cannot hold the status, which changes: name another column")
        }
        "status" if inner.is_some() => {
            format!("the status cannot be null: make `{field}` a `String`, or an enum stored as text")
        }
        "status" if is_number(&ty) || is_plain(&ty) => format!(
            "`{field}` holds the status as text (`pending`, `completed`, `failed`): make it a `String`, or an enum \
             stored as text, not `{ty}`"
        ),
        "error" if is_number(&ty) || is_plain(&ty) => {
            format!("`{field}` holds an error message: make it an `Option<String>`, not `{ty}`")
        }
        "attempts" if inner.is_some() => format!("the number of attempts cannot be null: make `{field}` an `i32`"),
        "attempts" if is_plain(&ty) || ty == "String" || ty.starts_with('f') && is_number(&ty) => {
            format!("`{field}` counts attempts: make it an `i32`, not `{ty}`")
        }
        "available_at" | "updated_at" if is_number(&ty) => format!(
            "`{field}` holds a time: make it a `DateTimeUtc`, or a `ChronoUnixTimestampMillis` where the table has a number, not `{ty}`"
        ),
        "available_at" | "updated_at" if ty == "String" || ty == "bool" || ty == "char" => {
            format!("`{field}` holds a time: make it a `DateTimeUtc`, not `{ty}`")
        }
        _ => return None,
    };
    Some(text)
}

fn is_number(ty: &str) -> bool {
    matches!(ty, "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "f32" | "f64")
}

fn is_plain(ty: &str) -> bool {
    matches!(
        ty,
        "bool"
            | "char"
            | "Vec"
            | "Uuid"
            | "Json"
            | "Date"
            | "Time"
            | "DateTime"
            | "DateTimeUtc"
            | "DateTimeWithTimeZone"
            | "Decimal"
    )
}

/// The type's own name, inside an `Option` too.
fn type_name(ty: &Type) -> Option<String> {
    last_segment(option_of(ty).unwrap_or(ty)).map(ToString::to_string)
}

fn last_segment(ty: &Type) -> Option<&Ident> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        Type::Group(group) => last_segment(&group.elem),
        _ => None,
    }
}

fn option_of(ty: &Type) -> Option<&Type> {
    let path = match ty {
        Type::Path(path) => path,
        Type::Group(group) => return option_of(&group.elem),
        _ => return None,
    };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) => Some(inner),
        _ => None,
    }
}
