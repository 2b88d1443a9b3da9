//! `#[work_item(…)]`'s keys and their spanned values.

use proc_macro2::Span;
use syn::punctuated::Punctuated;
use syn::{Attribute, DeriveInput, Error, Expr, ExprLit, Lit, Meta, Path, Token};

use crate::diagnostics::Diagnostics;
use crate::spelling::nearest;

const COLUMNS: [&str; 5] = ["status", "error", "attempts", "available_at", "updated_at"];
const KEYS: [&str; 7] = ["status", "error", "attempts", "max_attempts", "available_at", "updated_at", "crate"];

/// The keys, as far as they could be read.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) columns: Vec<Named>,
    pub(crate) max_attempts: Option<(u32, Span)>,
    pub(crate) krate: Option<Path>,
    /// Where the attribute is.
    pub(crate) span: Option<Span>,
    /// Something could not be read, so that what seems missing may not be.
    pub(crate) broken: bool,
}

/// A key that names a column.
pub(crate) struct Named {
    pub(crate) key: &'static str,
    pub(crate) column: String,
    pub(crate) span: Span,
}

impl Keys {
    pub(crate) fn parse(input: &DeriveInput, diagnostics: &mut Diagnostics) -> Self {
        let mut keys = Self::default();
        let mut seen = Vec::new();
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("work_item")) {
            keys.span = keys.span.or(attribute.path().get_ident().map(syn::Ident::span));
            for meta in metas(attribute, &mut keys, diagnostics) {
                if let Err(error) = keys.read(&meta, &mut seen) {
                    keys.broken = true;
                    diagnostics.push(error);
                }
            }
        }
        keys
    }

    fn read(&mut self, meta: &Meta, seen: &mut Vec<String>) -> Result<(), Error> {
        let Some(ident) = meta.path().get_ident() else {
            return Err(Error::new_spanned(meta.path(), format!("unknown key; the keys are {}", list(&KEYS))));
        };
        let key = ident.to_string();
        let Some(known) = KEYS.into_iter().find(|known| *known == key) else {
            let advice = match nearest(&key, KEYS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys are {}", list(&KEYS)),
            };
            return Err(Error::new(ident.span(), format!("unknown key `{key}`; {advice}")));
        };
        if seen.contains(&key) {
            return Err(Error::new(ident.span(), format!("`{key}` is given twice; keep one")));
        }
        seen.push(key);
        let Meta::NameValue(pair) = meta else {
            return Err(Error::new_spanned(meta, format!("`{known}` needs a value: write {}", example(known))));
        };
        if known == "crate" {
            let Expr::Path(path) = &pair.value else {
                return Err(Error::new_spanned(&pair.value, "`crate` is a path: write `crate = ::service_core`"));
            };
            self.krate = Some(path.path.clone());
            return Ok(());
        }
        match (known, &pair.value) {
            ("max_attempts", Expr::Lit(ExprLit { lit: Lit::Int(number), .. })) => {
                let attempts = number.base10_parse::<u32>().ok().filter(|attempts| *attempts > 0);
                let wrong = || Error::new(number.span(), "`max_attempts` is how often a row is tried: 1 or more");
                self.max_attempts = Some((attempts.ok_or_else(wrong)?, number.span()));
            }
            ("max_attempts", value) => {
                return Err(Error::new_spanned(value, "`max_attempts` is a number: write `max_attempts = 5`"));
            }
            (_, Expr::Lit(ExprLit { lit: Lit::Str(column), .. })) => {
                let key = COLUMNS.into_iter().find(|key| *key == known).unwrap_or("status");
                self.columns.push(Named { key, column: column.value(), span: column.span() });
            }
            (_, value) => {
                let text = format!("`{known}` names a column: write {}", example(known));
                return Err(Error::new_spanned(value, text));
            }
        }
        Ok(())
    }
}

/// The attribute's parts; none where it cannot be read.
fn metas(attribute: &Attribute, keys: &mut Keys, diagnostics: &mut Diagnostics) -> Vec<Meta> {
    if let Meta::Path(_) = attribute.meta {
        return Vec::new();
    }
    let parsed = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    parsed.map(|metas| metas.into_iter().collect()).unwrap_or_else(|error| {
        keys.broken = true;
        let text = format!("{error}: write `#[work_item(status = \"status\", error = \"error_message\")]`");
        diagnostics.push(Error::new(error.span(), text));
        Vec::new()
    })
}

fn example(key: &str) -> &'static str {
    match key {
        "status" => "`status = \"status\"`",
        "error" => "`error = \"error_message\"`",
        "attempts" => "`attempts = \"attempts\"`",
        "max_attempts" => "`max_attempts = 5`",
        "available_at" => "`available_at = \"due\"`",
        "updated_at" => "`updated_at = \"updated_at\"`",
        _ => "`crate = ::service_core`",
    }
}

pub(crate) fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
