//! The items of a list: read so that all wrong ones are reported together. And services as such items.

use proc_macro2::{Ident, Span, TokenStream};
use syn::parse::{ParseStream, Parser};
use syn::{Error, Lit, Path, Token, Type};

use crate::diagnostics::combined;
use crate::parse::item::ungrouped;
use crate::parse::names;

/// A service that another one depends on.
pub(crate) enum Dependency {
    Id(String, Span),
    Type(Box<Type>),
}

/// Reads the items of a list. After a wrong item whose end is not known,
/// the rest is not read.
pub(crate) fn items<T>(list: TokenStream, item: impl Fn(ParseStream<'_>) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let read = |input: ParseStream<'_>| {
        let (mut items, mut errors) = (Vec::new(), Vec::new());
        while !input.is_empty() {
            let wrong = item(input).map(|item| items.push(item)).err();
            let comma = if input.is_empty() { None } else { input.parse::<Token![,]>().err() };
            if comma.is_some() {
                input.parse::<TokenStream>()?;
            }
            errors.extend(wrong.or(comma));
        }
        Ok((items, errors))
    };
    let (items, errors) = read.parse2(list)?;
    combined(errors).map_or(Ok(items), Err)
}

pub(crate) const NOT_A_SERVICE: &str = "expected a service: write its type, its function or its id, as in `[OtherService, clean_outbox, \"other_service\"]`";

pub(crate) fn dependency(input: ParseStream<'_>) -> Result<Dependency, Error> {
    if input.peek(Lit) {
        return match input.parse::<Lit>()? {
            Lit::Str(text) => {
                names::check_id(&text)?;
                Ok(Dependency::Id(text.value(), text.span()))
            }
            other => Err(Error::new(other.span(), NOT_A_SERVICE)),
        };
    }
    let start = input.span();
    match input.parse::<Type>().map(ungrouped).map_err(|_| Error::new(start, NOT_A_SERVICE))? {
        Type::Path(path) if is_keyword(&path.path) => Err(Error::new_spanned(path, NOT_A_SERVICE)),
        Type::Path(mut path) => {
            name_type_of_function(&mut path.path);
            Ok(Dependency::Type(Box::new(Type::Path(path))))
        }
        other => Err(Error::new_spanned(other, NOT_A_SERVICE)),
    }
}

fn is_keyword(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| matches!(&*last.ident.to_string(), "self" | "super" | "crate"))
}

/// A last segment in lower case is a function: `jobs::clean_outbox` stands for `jobs::CleanOutboxService`. The name
/// bears the span of the function's, so that it is shown there where no such type is in scope.
fn name_type_of_function(path: &mut Path) {
    let Some(last) = path.segments.last_mut().filter(|last| last.arguments.is_none()) else { return };
    let name = last.ident.to_string();
    if name.trim_start_matches("r#").trim_start_matches('_').starts_with(char::is_lowercase) {
        last.ident = Ident::new(&names::function_type(&name), last.ident.span());
    }
}
