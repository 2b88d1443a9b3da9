//! One value of one key: read from its tokens, checked, and refused in words that say what to write.

use std::fmt::Display;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Error, Lit, LitInt, LitStr, Path, Token, Type};

use crate::parse::item::ungrouped;
use crate::parse::keys::{self, Key, Kind};
use crate::parse::{cron, names, units};
use crate::spelling;

/// The value of a key.
pub(crate) enum Value {
    Int(i64),
    Float(f64),
    Str(String),
    Bool(bool),
    Services(Vec<Dependency>),
    Path(Path),
}

/// A service that is depended on.
pub(crate) enum Dependency {
    Id(String, Span),
    Type(Box<Type>),
}

/// A value as it was written, before it is known to be right.
enum RawValue {
    Int(LitInt),
    Float(syn::LitFloat),
    Str(LitStr),
    Bool(bool),
    List(TokenStream),
    Other,
}

struct ValueParser<'t> {
    key: &'static Key,
    tokens: &'t [TokenTree],
}

/// Reads the value of `key`.
pub(crate) fn read(key: &'static Key, tokens: &[TokenTree]) -> Result<Value, Error> {
    // A value that came through a `macro_rules!` variable stands in an invisible group.
    if let [TokenTree::Group(group)] = tokens
        && group.delimiter() == Delimiter::None
    {
        let inner: Vec<TokenTree> = group.stream().into_iter().collect();
        return read(key, &inner);
    }
    ValueParser { key, tokens }.read()
}

impl ValueParser<'_> {
    fn read(&self) -> Result<Value, Error> {
        if self.key.kind == Kind::CratePath {
            return self.crate_path();
        }
        self.one_argument()?;
        if let [TokenTree::Punct(minus), number @ TokenTree::Literal(_)] = self.tokens
            && minus.as_char() == '-'
        {
            return Err(self.negative(number));
        }
        let raw = self.raw();
        match self.key.kind {
            Kind::Name => self.name(&raw),
            Kind::Time { zero } => self.time(&raw, zero),
            Kind::Count => self.count(&raw),
            Kind::Factor => self.factor(&raw),
            Kind::Switch => self.switch(&raw),
            Kind::Choice(words) => self.choice(&raw, words),
            Kind::Cron => self.checked(&raw, cron::check),
            Kind::Zone => self.checked(&raw, cron::check_zone),
            Kind::Rate => self.checked(&raw, units::rate),
            Kind::Services => self.services(&raw),
            Kind::CratePath => Err(self.wrong()),
        }
    }

    /// `interval = 30 delay = 5` lacks a comma.
    fn one_argument(&self) -> Result<(), Error> {
        let next = self.tokens.windows(2).skip(1).find_map(|pair| match pair {
            [TokenTree::Ident(next), TokenTree::Punct(equals)] if equals.as_char() == '=' => Some(next),
            _ => None,
        });
        let last = match self.tokens {
            [_, .., TokenTree::Ident(last)] if keys::find(&last.to_string()).is_some() => Some(last),
            _ => None,
        };
        match next.or(last) {
            Some(next) => Err(Error::new(next.span(), format!("a comma is missing before `{next}`"))),
            None => Ok(()),
        }
    }

    fn raw(&self) -> RawValue {
        match self.tokens {
            [TokenTree::Group(list)] if list.delimiter() == Delimiter::Bracket => RawValue::List(list.stream()),
            [token] => match syn::parse2::<Lit>(token.to_token_stream()) {
                Ok(Lit::Int(int)) => RawValue::Int(int),
                Ok(Lit::Float(float)) => RawValue::Float(float),
                Ok(Lit::Str(text)) => RawValue::Str(text),
                Ok(Lit::Bool(bool)) => RawValue::Bool(bool.value),
                _ => RawValue::Other,
            },
            _ => RawValue::Other,
        }
    }

    fn text(&self) -> String {
        self.tokens.iter().cloned().collect::<TokenStream>().to_string()
    }

    /// An error under all of the value.
    fn error(&self, message: impl Display) -> Error {
        Error::new_spanned(self.tokens.iter().cloned().collect::<TokenStream>(), message)
    }

    fn wrong(&self) -> Error {
        let Key { name, example, .. } = self.key;
        let takes = self.key.kind.takes();
        let calculated = matches!(self.tokens, [TokenTree::Ident(word), ..] if word != "true" && word != "false")
            || (self.tokens.len() > 1 && matches!(self.tokens, [TokenTree::Literal(_), ..]));
        if calculated && matches!(self.key.kind, Kind::Time { .. } | Kind::Count | Kind::Factor) {
            return self.error(format!(
                "`{name}` takes {takes}, as it stands: the attribute cannot calculate or see constants. Write `{name} = {example}`"
            ));
        }
        self.error(format!("`{name}` takes {takes}: write `{name} = {example}`"))
    }

    fn negative(&self, number: &TokenTree) -> Error {
        let name = self.key.name;
        match self.key.kind {
            Kind::Time { .. } | Kind::Count => {
                self.error(format!("`{name}` cannot be negative: write `{name} = {number}`"))
            }
            Kind::Factor => self.error(format!("`{name}` cannot be less than 1.0, or waits would shrink")),
            _ => self.wrong(),
        }
    }

    fn in_quotes(&self) -> Option<Error> {
        let word = match self.tokens {
            [TokenTree::Ident(word)] => word.to_string(),
            _ => return None,
        };
        let name = self.key.name;
        Some(self.error(format!("`{name}` takes a string: write `{name} = \"{word}\"`")))
    }

    fn name(&self, raw: &RawValue) -> Result<Value, Error> {
        let RawValue::Str(text) = raw else { return Err(self.in_quotes().unwrap_or_else(|| self.wrong())) };
        check_id(text)?;
        Ok(Value::Str(text.value()))
    }

    fn time(&self, raw: &RawValue, zero: bool) -> Result<Value, Error> {
        let name = self.key.name;
        let too_long = || self.error(format!("`{name}` is more than 100 years: numbers are seconds"));
        let (value, length) = match raw {
            RawValue::Int(int) => {
                self.suffix(int.suffix(), &int.to_string())?;
                let seconds = int.base10_parse::<u32>().map_err(|_| too_long())?;
                (Value::Int(i64::from(seconds)), f64::from(seconds))
            }
            RawValue::Float(float) => {
                self.suffix(float.suffix(), &float.to_string())?;
                let seconds = float.base10_parse::<f64>().map_err(|_| self.wrong())?;
                (Value::Float(seconds), seconds)
            }
            RawValue::Str(text) => {
                let length = units::duration(&text.value())
                    .map_err(|problem| Error::new(text.span(), format!("`{name}` {problem}")))?;
                (Value::Str(text.value()), length.as_secs_f64())
            }
            _ => return Err(self.wrong()),
        };
        if length > units::LONGEST.as_secs_f64() {
            return Err(too_long());
        }
        if length < 1e-9 && !(zero && length == 0.0) {
            return Err(self.error(zero_problem(name)));
        }
        Ok(value)
    }

    /// `30s` is one token to the compiler: a number with a suffix.
    fn suffix(&self, suffix: &str, token: &str) -> Result<(), Error> {
        if suffix.is_empty() || is_number_type(suffix) {
            return Ok(());
        }
        let name = self.key.name;
        Err(match self.key.kind {
            Kind::Time { .. } => self.error(format!("a unit stands in quotes: write `{name} = \"{token}\"`")),
            _ => self.error(format!(
                "`{name}` is a number without a unit: write `{name} = {}`",
                token.trim_end_matches(suffix)
            )),
        })
    }

    fn count(&self, raw: &RawValue) -> Result<Value, Error> {
        let name = self.key.name;
        match raw {
            RawValue::Int(int) => {
                self.suffix(int.suffix(), &int.to_string())?;
                let number =
                    int.base10_parse::<u32>().map_err(|_| self.error(format!("`{name}` is at most {}", u32::MAX)))?;
                Ok(Value::Int(i64::from(number)))
            }
            RawValue::Str(text) if text.value().parse::<u32>().is_ok() => {
                Err(self.error(format!("`{name}` stands without quotes: write `{name} = {}`", text.value())))
            }
            RawValue::Float(_) => {
                Err(self.error(format!("`{name}` counts: write a whole number, as in `{name} = {}`", self.key.example)))
            }
            _ => Err(self.wrong()),
        }
    }

    fn factor(&self, raw: &RawValue) -> Result<Value, Error> {
        let name = self.key.name;
        let (value, factor) = match raw {
            RawValue::Int(int) => {
                self.suffix(int.suffix(), &int.to_string())?;
                let number = int.base10_parse::<u32>().map_err(|_| self.error(format!("`{name}` is too large")))?;
                (Value::Int(i64::from(number)), f64::from(number))
            }
            RawValue::Float(float) => {
                self.suffix(float.suffix(), &float.to_string())?;
                let number = float.base10_parse::<f64>().map_err(|_| self.wrong())?;
                (Value::Float(number), number)
            }
            RawValue::Str(text) if text.value().parse::<f64>().is_ok() => {
                return Err(self.error(format!("`{name}` stands without quotes: write `{name} = {}`", text.value())));
            }
            _ => return Err(self.wrong()),
        };
        if !factor.is_finite() {
            return Err(self.error(format!("`{name}` is too large")));
        }
        if factor < 1.0 {
            return Err(self.error(format!("`{name}` cannot be less than 1.0, or waits would shrink")));
        }
        Ok(value)
    }

    fn switch(&self, raw: &RawValue) -> Result<Value, Error> {
        let name = self.key.name;
        let meant = match raw {
            RawValue::Bool(value) => return Ok(Value::Bool(*value)),
            RawValue::Str(text) => text.value(),
            _ => self.text(),
        };
        let meant = match meant.as_str() {
            "true" | "yes" | "on" | "1" => "true",
            "false" | "no" | "off" | "0" => "false",
            _ => return Err(self.wrong()),
        };
        Err(self.error(format!("`{name}` takes `true` or `false`: write `{name} = {meant}`")))
    }

    fn choice(&self, raw: &RawValue, words: &[&str]) -> Result<Value, Error> {
        let name = self.key.name;
        let RawValue::Str(text) = raw else {
            let word = self.text();
            return Err(match words.iter().find(|known| **known == word) {
                Some(word) => self.error(format!("`{name}` takes a string: write `{name} = \"{word}\"`")),
                None => self.wrong(),
            });
        };
        let value = text.value();
        if words.contains(&value.as_str()) {
            return Ok(Value::Str(value));
        }
        let takes = keys::alternatives(words);
        Err(self.error(match spelling::nearest(&value, words.iter().copied()) {
            Some(near) => format!("`{name}` takes {takes}; did you mean `\"{near}\"`?"),
            None => format!("`{name}` takes {takes}, not `\"{value}\"`"),
        }))
    }

    fn checked(&self, raw: &RawValue, check: fn(&str) -> Result<(), String>) -> Result<Value, Error> {
        let RawValue::Str(text) = raw else { return Err(self.wrong()) };
        match check(&text.value()) {
            Ok(()) => Ok(Value::Str(text.value())),
            Err(problem) => {
                let space = if problem.starts_with("'s ") { "" } else { " " };
                Err(self.error(format!("`{}`{space}{problem}", self.key.name)))
            }
        }
    }

    fn services(&self, raw: &RawValue) -> Result<Value, Error> {
        let list = match raw {
            RawValue::List(list) => list.clone(),
            RawValue::Str(_) => {
                return Err(self.error(format!("`depends_on` takes a list: write `depends_on = [{}]`", self.text())));
            }
            _ if matches!(self.tokens.first(), Some(TokenTree::Ident(_))) => {
                let text = self.text().replace(' ', "");
                return Err(self.error(format!("`depends_on` takes a list: write `depends_on = [{text}]`")));
            }
            _ => return Err(self.wrong()),
        };
        let services = |input: ParseStream<'_>| Punctuated::<_, Token![,]>::parse_terminated_with(input, dependency);
        Ok(Value::Services(services.parse2(list)?.into_iter().collect()))
    }

    fn crate_path(&self) -> Result<Value, Error> {
        let tokens: TokenStream = self.tokens.iter().cloned().collect();
        if let RawValue::Str(text) = self.raw()
            && !text.value().is_empty()
        {
            return Err(self.error(format!("`crate` takes a path without quotes: write `crate = {}`", text.value())));
        }
        self.one_argument()?;
        Path::parse_mod_style.parse2(tokens).map(Value::Path).map_err(|_| self.wrong())
    }
}

fn zero_problem(name: &str) -> String {
    match name {
        "interval" => {
            "`interval` cannot be zero; to run again at once while there is work, return `Outcome::again()`".to_owned()
        }
        "delay" => {
            "`delay` cannot be zero; to run again at once while there is work, return `Outcome::again()`".to_owned()
        }
        "timeout" => "`timeout` cannot be zero: leave it out for no timeout".to_owned(),
        name => format!("`{name}` cannot be zero"),
    }
}

fn is_number_type(suffix: &str) -> bool {
    let float = matches!(suffix, "f32" | "f64");
    let size = suffix.strip_prefix(['i', 'u']).unwrap_or_default();
    float || matches!(size, "8" | "16" | "32" | "64" | "128" | "size")
}

/// Checks a service id.
fn check_id(text: &LitStr) -> Result<(), Error> {
    let id = text.value();
    let Some(problem) = names::id_problem(&id) else { return Ok(()) };
    let proposal = match names::proposed_id(&id) {
        Some(proposal) => format!(": write \"{proposal}\""),
        None => String::new(),
    };
    Err(Error::new(text.span(), format!("a service id {problem}{proposal}")))
}

fn dependency(input: ParseStream<'_>) -> Result<Dependency, Error> {
    if input.peek(Lit) {
        return match input.parse::<Lit>()? {
            Lit::Str(text) => {
                check_id(&text)?;
                Ok(Dependency::Id(text.value(), text.span()))
            }
            other => Err(Error::new(
                other.span(),
                "`depends_on` lists types and ids: write `OtherService` or `\"other_service\"`",
            )),
        };
    }
    let start: Span = input.span();
    let not_a_service =
        || Error::new(start, "`depends_on` lists types and ids: write `OtherService` or `\"other_service\"`");
    match input.parse::<Type>().map(ungrouped).map_err(|_| not_a_service())? {
        path @ Type::Path(_) => Ok(Dependency::Type(Box::new(path))),
        other => Err(Error::new_spanned(
            other,
            "`depends_on` lists types and ids: write `OtherService` or `\"other_service\"`",
        )),
    }
}
