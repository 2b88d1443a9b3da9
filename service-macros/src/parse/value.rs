//! The value of one key: read from its tokens and checked. An error says what to write instead.

use std::fmt::Display;
use std::time::Duration;

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::{Error, Lit, LitFloat, LitInt, LitStr, Path};

use crate::parse::keys::{self, Key, Kind, Least};
use crate::parse::lists::{Dependency, dependency, items};
use crate::parse::{cron, names, units};
use crate::spelling;

/// The value of a key.
pub(crate) enum Value {
    Literal(Literal),
    /// The value of `crate`.
    Path(Path),
}

/// A value that the service's descriptor can carry.
pub(crate) enum Literal {
    Int(i64),
    Float(f64),
    Str(String),
    Bool(bool),
    Services(Vec<Dependency>),
    /// Topics or probes.
    Names(Vec<String>),
}

/// A value as it was written, before it is known to be right.
enum RawValue {
    Int(LitInt),
    Float(LitFloat),
    Str(LitStr),
    Bool(bool),
    List(TokenStream),
    Other,
}

impl RawValue {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Str(text) if text.value() == word)
    }
}

/// The value of no limit.
const NONE: &str = "none";

struct ValueParser<'t> {
    key: Key,
    tokens: &'t [TokenTree],
}

/// Reads the value of `key` from tokens without invisible groups around them.
pub(crate) fn read(key: Key, tokens: &[TokenTree]) -> Result<Value, Error> {
    ValueParser { key, tokens }.read()
}

impl ValueParser<'_> {
    fn read(&self) -> Result<Value, Error> {
        if self.key.kind == Kind::CratePath {
            return self.crate_path().map(Value::Path);
        }
        if let [TokenTree::Punct(minus), number @ TokenTree::Literal(_)] = self.tokens
            && minus.as_char() == '-'
        {
            return Err(self.negative(number));
        }
        self.literal().map(Value::Literal)
    }

    fn literal(&self) -> Result<Literal, Error> {
        let raw = self.raw();
        match self.key.kind {
            Kind::Limit | Kind::Rate if raw.is(NONE) => Ok(Literal::Str(NONE.to_owned())),
            Kind::Limit => self.time(&raw, Least::AboveZero("remove the key for no timeout")),
            Kind::Id => self.id(&raw),
            Kind::Time(least) => self.time(&raw, least),
            Kind::Count { min, max } => self.count(&raw, min, max),
            Kind::CountOrUnlimited => match &raw {
                RawValue::Str(text) if text.value() == "unlimited" => Ok(Literal::Str(text.value())),
                _ => self.count(&raw, 0, u32::MAX),
            },
            Kind::Factor => self.factor(&raw),
            Kind::Switch => self.switch(&raw),
            Kind::Choice(words) => self.choice(&raw, words),
            Kind::Cron => self.checked(&raw, cron::check),
            Kind::TimeZone => self.checked(&raw, cron::check_zone),
            Kind::Rate => self.checked(&raw, units::rate),
            Kind::Services => self.services(&raw),
            Kind::Names(kind) => self.names(&raw, kind),
            Kind::Column => self.string(&raw).map(|text| Literal::Str(text.value())),
            Kind::CratePath => Err(self.wrong()),
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

    /// An error under all of the value. The message follows the key's name.
    fn error(&self, problem: impl Display) -> Error {
        let message = format!("`{}` {problem}", self.key.name);
        Error::new_spanned(self.tokens.iter().cloned().collect::<TokenStream>(), message)
    }

    fn wrong(&self) -> Error {
        let (takes, assignment) = (self.key.kind.takes(), self.key.assignment());
        let calculated = matches!(self.tokens, [TokenTree::Ident(word), ..] if word != "true" && word != "false")
            || (self.tokens.len() > 1 && matches!(self.tokens, [TokenTree::Literal(_), ..]));
        if calculated
            && matches!(
                self.key.kind,
                Kind::Time(_) | Kind::Limit | Kind::Count { .. } | Kind::CountOrUnlimited | Kind::Factor
            )
        {
            return self.error(self.not_evaluated());
        }
        self.error(format!("takes {takes}, for example `{assignment}`"))
    }

    fn not_evaluated(&self) -> String {
        let (takes, assignment) = (self.key.kind.takes(), self.key.assignment());
        format!(
            "cannot be an expression or a constant, which the attribute does not evaluate: write {takes}, for example `{assignment}`"
        )
    }

    fn negative(&self, number: &TokenTree) -> Error {
        match self.key.kind {
            Kind::Time(_) | Kind::Limit | Kind::Count { .. } | Kind::CountOrUnlimited => {
                let positive = ValueParser { key: self.key, tokens: std::slice::from_ref(number) };
                // `-5s` and `-0` are not correct without the sign either.
                let instead = match positive.literal() {
                    Ok(_) => format!("`{} = {number}`", self.key.name),
                    Err(_) => format!("{}, for example `{}`", self.key.kind.takes(), self.key.assignment()),
                };
                self.error(format!("cannot be negative: write {instead}"))
            }
            Kind::Factor => self.error(BELOW_ONE),
            _ => self.wrong(),
        }
    }

    fn string<'r>(&self, raw: &'r RawValue) -> Result<&'r LitStr, Error> {
        match (raw, self.tokens) {
            (RawValue::Str(text), _) => Ok(text),
            (_, [TokenTree::Ident(word)]) if is_constant(word) => Err(self.error(self.not_evaluated())),
            (_, [TokenTree::Ident(word)]) => {
                Err(self.error(format!("takes a string: write `{} = \"{word}\"`", self.key.name)))
            }
            _ => Err(self.wrong()),
        }
    }

    fn id(&self, raw: &RawValue) -> Result<Literal, Error> {
        let text = self.string(raw)?;
        names::check_id(text)?;
        Ok(Literal::Str(text.value()))
    }

    fn time(&self, raw: &RawValue, least: Least) -> Result<Literal, Error> {
        let too_long = || self.error("is longer than the maximum of 100 years; a number counts seconds");
        let (value, seconds) = match raw {
            RawValue::Int(int) => {
                self.no_unit(int.suffix(), &int.to_string())?;
                let seconds = int.base10_parse::<u32>().map_err(|_| too_long())?;
                (Literal::Int(i64::from(seconds)), f64::from(seconds))
            }
            RawValue::Float(float) => {
                self.no_unit(float.suffix(), &float.to_string())?;
                let seconds = float.base10_parse::<f64>().map_err(|_| self.wrong())?;
                (Literal::Float(seconds), seconds)
            }
            RawValue::Str(text) => {
                let time = units::duration(&text.value()).map_err(|problem| self.error(problem))?;
                (Literal::Str(text.value()), time.as_secs_f64())
            }
            _ => return Err(self.wrong()),
        };
        if seconds > units::LONGEST.as_secs_f64() {
            return Err(too_long());
        }
        match least {
            Least::AboveZero(instead) if seconds < 1e-9 => Err(self.error(format!("cannot be zero: {instead}"))),
            Least::OneSecond if seconds < 1.0 => Err(self.error("must be at least 1 second")),
            Least::Zero if seconds != 0.0 && seconds < 1e-9 => {
                Err(self.error("is shorter than a nanosecond: write 0 or a longer time"))
            }
            _ => Ok(value),
        }
    }

    /// `30s` is one token to the compiler: a number with a suffix.
    fn no_unit(&self, suffix: &str, token: &str) -> Result<(), Error> {
        if suffix.is_empty() || is_number_type(suffix) {
            return Ok(());
        }
        let name = self.key.name;
        Err(match self.key.kind {
            Kind::Time(_) | Kind::Limit => match units::duration(token) {
                Ok(_) => self.error(format!("needs quotes around a time with a unit: write `{name} = \"{token}\"`")),
                Err(problem) => self.error(problem),
            },
            _ => self
                .error(format!("takes a number without a unit: write `{name} = {}`", token.trim_end_matches(suffix))),
        })
    }

    fn no_quotes(&self, number: &LitStr) -> Error {
        self.error(format!("takes a number without quotes: write `{} = {}`", self.key.name, number.value()))
    }

    fn count(&self, raw: &RawValue, min: u32, max: u32) -> Result<Literal, Error> {
        match raw {
            RawValue::Int(int) => {
                self.no_unit(int.suffix(), &int.to_string())?;
                match int.base10_parse::<u32>() {
                    Ok(number) if number < min => Err(self.error(format!("must be at least {min}"))),
                    Ok(number) if number <= max => Ok(Literal::Int(i64::from(number))),
                    _ => Err(self.error(format!("must be at most {max}"))),
                }
            }
            RawValue::Str(text) if text.value().parse::<u32>().is_ok() => Err(self.no_quotes(text)),
            _ => Err(self.wrong()),
        }
    }

    fn factor(&self, raw: &RawValue) -> Result<Literal, Error> {
        let too_large = || self.error("is too large");
        let (value, factor) = match raw {
            RawValue::Int(int) => {
                self.no_unit(int.suffix(), &int.to_string())?;
                let number = int.base10_parse::<u32>().map_err(|_| too_large())?;
                (Literal::Int(i64::from(number)), f64::from(number))
            }
            RawValue::Float(float) => {
                self.no_unit(float.suffix(), &float.to_string())?;
                let number = float.base10_parse::<f64>().map_err(|_| self.wrong())?;
                (Literal::Float(number), number)
            }
            RawValue::Str(text) if text.value().parse::<f64>().is_ok() => return Err(self.no_quotes(text)),
            _ => return Err(self.wrong()),
        };
        if !factor.is_finite() {
            return Err(too_large());
        }
        if factor < 1.0 {
            return Err(self.error(BELOW_ONE));
        }
        Ok(value)
    }

    fn switch(&self, raw: &RawValue) -> Result<Literal, Error> {
        let meant = match raw {
            RawValue::Bool(value) => return Ok(Literal::Bool(*value)),
            RawValue::Str(text) => text.value(),
            _ => self.text(),
        };
        let meant = match meant.as_str() {
            "true" | "yes" | "on" | "1" => "true",
            "false" | "no" | "off" | "0" => "false",
            _ => return Err(self.wrong()),
        };
        Err(self.error(format!("takes `true` or `false`: write `{} = {meant}`", self.key.name)))
    }

    fn choice(&self, raw: &RawValue, words: &[&str]) -> Result<Literal, Error> {
        let name = self.key.name;
        let RawValue::Str(text) = raw else {
            let word = self.text();
            return Err(match words.iter().find(|known| **known == word) {
                Some(word) => self.error(format!("takes a string: write `{name} = \"{word}\"`")),
                None => self.wrong(),
            });
        };
        let value = text.value();
        if words.contains(&value.as_str()) {
            return Ok(Literal::Str(value));
        }
        let takes = keys::alternatives(words);
        Err(self.error(match spelling::nearest(&value, words.iter().copied()) {
            Some(near) => format!("takes {takes}; did you mean `\"{near}\"`?"),
            None => format!("takes {takes}, not `\"{value}\"`"),
        }))
    }

    fn checked(&self, raw: &RawValue, check: fn(&str) -> Result<(), String>) -> Result<Literal, Error> {
        let RawValue::Str(text) = raw else { return Err(self.wrong()) };
        check(&text.value()).map_err(|problem| self.error(problem))?;
        Ok(Literal::Str(text.value()))
    }

    fn services(&self, raw: &RawValue) -> Result<Literal, Error> {
        let list = match raw {
            RawValue::List(list) => list.clone(),
            _ if matches!(self.tokens.first(), Some(TokenTree::Ident(_))) || matches!(raw, RawValue::Str(_)) => {
                let service = self.text().replace(' ', "");
                return Err(self.error(format!("takes a list: write `{} = [{service}]`", self.key.name)));
            }
            _ => return Err(self.wrong()),
        };
        items(list, dependency).map(Literal::Services)
    }

    fn names(&self, raw: &RawValue, kind: &str) -> Result<Literal, Error> {
        let list = match raw {
            RawValue::List(list) => list.clone(),
            RawValue::Str(_) => {
                return Err(self.error(format!("takes a list: write `{} = [{}]`", self.key.name, self.text())));
            }
            _ => return Err(self.wrong()),
        };
        let name = |input: ParseStream<'_>| {
            let text = self.quoted(input)?;
            if names::is_name(&text.value()) {
                return Ok(text.value());
            }
            let message = format!("a {kind} has 1 to 100 letters, digits and `_`, `-`, `.`, `:`, `/`");
            Err(Error::new(text.span(), message))
        };
        items(list, name).map(Literal::Names)
    }

    fn quoted(&self, input: ParseStream<'_>) -> Result<LitStr, Error> {
        let start = input.span();
        if input.peek(Lit) {
            return match input.parse::<Lit>()? {
                Lit::Str(text) => Ok(text),
                _ => Err(Error::new(start, NO_STRING)),
            };
        }
        let path = input.call(Path::parse_mod_style).map_err(|_| Error::new(start, NO_STRING))?;
        let message = match path.get_ident() {
            Some(word) if !is_constant(word) => format!("this is written in quotes: `\"{word}\"`"),
            _ => format!("`{}` {}", self.key.name, self.not_evaluated()),
        };
        Err(Error::new_spanned(path, message))
    }

    fn crate_path(&self) -> Result<Path, Error> {
        let tokens: TokenStream = self.tokens.iter().cloned().collect();
        if let RawValue::Str(text) = self.raw()
            && !text.value().is_empty()
        {
            return Err(self.error(format!(
                "takes a path without quotes: write `{} = {}`",
                self.key.name,
                text.value()
            )));
        }
        Path::parse_mod_style.parse2(tokens).map_err(|_| self.wrong())
    }
}

impl Literal {
    /// The value as a time; a number counts seconds.
    pub(crate) fn duration(&self) -> Option<Duration> {
        match self {
            Literal::Int(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            Literal::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
            Literal::Str(text) => units::duration(text).ok(),
            Literal::Bool(_) | Literal::Services(_) | Literal::Names(_) => None,
        }
    }
}

const BELOW_ONE: &str = "must be at least 1.0, so that the waits do not become shorter";

fn is_number_type(suffix: &str) -> bool {
    let float = matches!(suffix, "f32" | "f64");
    let size = suffix.strip_prefix(['i', 'u']).unwrap_or_default();
    float || matches!(size, "8" | "16" | "32" | "64" | "128" | "size")
}

/// Whether a word is written as the name of a constant is.
fn is_constant(word: &Ident) -> bool {
    let word = word.to_string();
    word.contains(char::is_uppercase) && !word.contains(char::is_lowercase)
}

const NO_STRING: &str = "expected string literal";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::keys::{SERVICE, WORK_ITEM};
    use crate::parse::lists::NOT_A_SERVICE;

    /// Every example is a value that its key takes, so that no error proposes another error.
    #[test]
    fn examples_are_right() {
        for table in [SERVICE, WORK_ITEM] {
            for key in table.keys() {
                let tokens: TokenStream = key.example.parse().unwrap();
                let tokens: Vec<_> = tokens.into_iter().collect();
                assert!(read(key, &tokens).is_ok(), "{}", key.assignment());
            }
        }
    }

    /// The errors of a value of this key.
    fn errors(key: &str, value: &str) -> Vec<String> {
        let tokens: Vec<_> = value.parse::<TokenStream>().unwrap().into_iter().collect();
        let error = read(*SERVICE.find(key).unwrap(), &tokens).err();
        error.into_iter().flatten().map(|error| error.to_string()).collect()
    }

    #[test]
    fn all_wrong_items_of_a_list_are_reported_at_once() {
        let in_quotes = |word: &str| format!("this is written in quotes: `\"{word}\"`");
        assert_eq!(errors("wake_on", "[orders, \"new orders\", mails]").len(), 3);
        assert_eq!(errors("wake_on", "[5, orders]"), [NO_STRING.to_owned(), in_quotes("orders")]);
        assert_eq!(errors("depends_on", "[5, Other, \"A\", self, \"b\"]").len(), 3);
        assert_eq!(errors("depends_on", "[Sender<A, B>, &other, \"\"]").len(), 2);
        // One mistake is one error, also if it has several tokens.
        assert_eq!(errors("wake_on", "[orders.new, \"a\"]"), [in_quotes("orders")]);
        assert_eq!(errors("wake_on", "[\"a\" \"b\"]"), ["expected `,`"]);
        assert_eq!(errors("wake_on", "[,]").len(), 1);
        assert_eq!(errors("depends_on", "[-1]"), [NOT_A_SERVICE]);
        assert_eq!(errors("depends_on", "[Sender<A B, C>, other]"), [NOT_A_SERVICE]);
    }

    #[test]
    fn the_name_of_a_constant_is_not_proposed_as_a_string() {
        for (key, value) in [
            ("wake_on", "[ORDERS]"),
            ("wake_on", "[topics::orders]"),
            ("wake_on", "[crate::ORDERS]"),
            ("needs", "[API_2]"),
            ("name", "MAILS"),
        ] {
            let errors = errors(key, value);
            let start = format!("`{key}` cannot be an expression or a constant");
            assert!(matches!(errors.as_slice(), [error] if error.starts_with(&start)), "{errors:?}");
        }
        assert_eq!(errors("name", "Mails"), ["`name` takes a string: write `name = \"Mails\"`"]);
    }
}
