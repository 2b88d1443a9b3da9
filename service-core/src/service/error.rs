//! [`Error`]: wraps any error and may say how to retry.
//!
//! The tricky part is that `Error` converts from every `std::error::Error` by `?`, and therefore cannot implement that
//! trait itself. Where a `Box<dyn std::error::Error>` is needed, a private carrier holds it; [`Error::new`] unwraps the
//! carrier.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::panic::{self, Caught};

type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// `Result` with this crate's [`Error`]. The value is `()` by default.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Any error with its causes. Cheap to clone.
///
/// `?` converts every standard error. `.map_err(Error::new)?` converts the others: `anyhow::Error`, boxed errors and
/// strings. `Display` prints the outermost message, `{:#}` the whole chain on one line, and `Debug` the whole chain
/// with one cause per line, so that `main` may return it.
///
/// ```
/// use service_core::Error;
/// let error = Error::new("the queue does not answer");
/// assert_eq!(error.to_string(), "the queue does not answer");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    source: Source,
    advice: Advice,
}

enum Source {
    Std(BoxError),
    /// Not boxed: a boxed anyhow error hides the type of its outermost error.
    Anyhow(anyhow::Error),
}

/// What an error says about retrying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    None,
    Fatal,
    RetryAfter(Duration),
}

impl Advice {
    fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        if self == Self::None { other() } else { self }
    }
}

impl Error {
    /// Wraps an error, a boxed error, an `anyhow::Error` or a string. Returns an [`Error`] unchanged.
    pub fn new(error: impl Into<BoxError> + 'static) -> Self {
        Self::with(error, Advice::None)
    }

    /// Creates an error from a message.
    pub fn msg(message: impl fmt::Display) -> Self {
        Self::new(message.to_string())
    }

    /// Creates an error that is not retried. From a run, the service is `Failed` at once, unless `on_failure` decides
    /// otherwise. From an item of a claim, its row is `failed` at once. The same holds for an error that has it as a
    /// [source](StdError::source), or as a context of anyhow.
    ///
    /// ```
    /// use std::time::Duration;
    /// use service_core::Error;
    ///
    /// fn error_of(status: u16) -> Error {
    ///     match status {
    ///         410 => Error::fatal("this API no longer exists"),
    ///         429 => Error::retry_after(Duration::from_secs(90), "too many requests"),
    ///         _ => Error::msg(format!("status {status}")),
    ///     }
    /// }
    /// assert_eq!(error_of(410).to_string(), "this API no longer exists");
    /// ```
    pub fn fatal(error: impl Into<BoxError> + 'static) -> Self {
        Self::with(error, Advice::Fatal)
    }

    /// Creates an error that sets the wait before the retry; [`fatal`](Self::fatal) has an example. `max_retry_delay`
    /// does not cap that wait. From a run, it counts towards `max_failures`. From an item of a claim, it sets the wait
    /// before the next attempt of its row (needs `available_at`).
    pub fn retry_after(delay: Duration, error: impl Into<BoxError> + 'static) -> Self {
        Self::with(error, Advice::RetryAfter(delay))
    }

    fn with(error: impl Into<BoxError> + 'static, advice: Advice) -> Self {
        let mut slot = Some(error);
        let any: &mut dyn std::any::Any = &mut slot;
        if let Some(found) = any.downcast_mut::<Option<anyhow::Error>>().and_then(Option::take) {
            let outermost: &(dyn StdError + 'static) = found.as_ref();
            if !outermost.is::<Carrier>() {
                // It may have one of this crate's errors in a context.
                let inner = || found.downcast_ref::<Carrier>().map(|carrier| carrier.0.advice());
                let advice = advice.or_else(|| inner().unwrap_or_else(|| advice_of_causes(outermost)));
                return Self::from_source(Source::Anyhow(found), advice);
            }
            return match found.downcast::<Carrier>() {
                Ok(carrier) if advice == Advice::None => carrier.0,
                Ok(carrier) => Self::from_source(Source::Std(Box::new(carrier)), advice),
                Err(other) => Self::from_source(Source::Anyhow(other), advice),
            };
        }
        let Some(error) = slot else { unreachable!("only an anyhow error is taken above") };
        match error.into().downcast::<Carrier>() {
            Ok(carrier) if advice == Advice::None => carrier.0,
            Ok(carrier) => Self::from_source(Source::Std(carrier), advice),
            Err(other) => {
                let advice = advice.or_else(|| advice_of_causes(&*other));
                Self::from_source(Source::Std(other), advice)
            }
        }
    }

    /// Wraps an error, without what that says about retrying.
    pub(crate) fn without_advice(error: impl Into<BoxError>) -> Self {
        Self::from_source(Source::Std(error.into()), Advice::None)
    }

    fn from_source(source: Source, advice: Advice) -> Self {
        Self(Arc::new(Inner { source, advice }))
    }

    pub(crate) fn advice(&self) -> Advice {
        self.0.advice
    }

    /// Returns its text, and drops it. Both are code of the user's, whose panics are caught.
    pub(crate) fn into_text(self) -> String {
        let text = match panic::catch(|| format!("{self:#}")) {
            Caught::Returned(text) => text,
            Caught::Panicked(message) => format!("its `Display` panicked: {message}"),
        };
        let _ = panic::catch(|| drop(self));
        text
    }

    fn outermost(&self) -> &(dyn StdError + 'static) {
        match &self.0.source {
            Source::Std(error) => error.as_ref(),
            Source::Anyhow(error) => error.as_ref(),
        }
    }

    /// Returns the error and its causes, outermost first.
    pub fn chain(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        Chain { next: Some(self.outermost()) }
    }

    /// Returns the first error of type `E` in the chain, also inside an `io::Error` or an `anyhow::Error`.
    ///
    /// ```
    /// use std::io;
    /// use service_core::Error;
    ///
    /// let error = Error::new(io::Error::from(io::ErrorKind::NotFound));
    /// assert_eq!(error.find::<io::Error>().map(io::Error::kind), Some(io::ErrorKind::NotFound));
    /// ```
    pub fn find<E: StdError + Send + Sync + 'static>(&self) -> Option<&E> {
        if let Source::Anyhow(error) = &self.0.source
            && let Some(found) = error.downcast_ref::<E>()
        {
            return Some(found);
        }
        self.chain().find_map(|error| {
            error
                .downcast_ref::<E>()
                .or_else(|| error.downcast_ref::<Carrier>().and_then(|carrier| carrier.0.find::<E>()))
        })
    }
}

/// As in a context of anyhow: an error that the application has wrapped keeps its advice.
fn advice_of_causes(error: &(dyn StdError + 'static)) -> Advice {
    let carried = Chain { next: Some(error) }.find_map(|error| error.downcast_ref::<Carrier>());
    carried.map_or(Advice::None, |carrier| carrier.0.advice())
}

/// Iterates over causes. Unlike `source()` alone, it also looks into `io::Error::other` and into carried [`Error`]s.
struct Chain<'a> {
    next: Option<&'a (dyn StdError + 'static)>,
}

impl<'a> Iterator for Chain<'a> {
    type Item = &'a (dyn StdError + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let current = self.next?;
        self.next = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => current.source(),
        };
        Some(current)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.outermost())?;
        if f.alternate() {
            for cause in causes(self) {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.outermost())?;
        for cause in causes(self) {
            write!(f, "\n  caused by: {cause}")?;
        }
        Ok(())
    }
}

/// The messages of the causes below the outermost error. A message is left out where the one above already ends with
/// it: some errors print their source and also return it (`DbErr`), and some consist of their source
/// (`io::Error::other`).
fn causes(error: &Error) -> impl Iterator<Item = String> {
    let mut above = error.outermost().to_string();
    error.chain().skip(1).filter_map(move |cause| {
        let message = cause.to_string();
        let repeated = above.ends_with(&message);
        above.clone_from(&message);
        (!repeated).then_some(message)
    })
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl From<Error> for BoxError {
    fn from(error: Error) -> Self {
        Box::new(Carrier(error))
    }
}

impl From<Error> for Box<dyn StdError> {
    fn from(error: Error) -> Self {
        Box::new(Carrier(error))
    }
}

impl From<Error> for anyhow::Error {
    fn from(error: Error) -> Self {
        Self::new(Carrier(error))
    }
}

/// An [`Error`] where a standard error is needed.
#[derive(Debug)]
struct Carrier(Error);

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Carrier {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.outermost().source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("code {0}")]
    struct Code(u16);

    #[derive(Debug, thiserror::Error)]
    #[error("sending")]
    struct Sending(#[source] Code);

    #[test]
    fn debug_prints_the_whole_chain() {
        let error = Error::from(Sending(Code(550)));
        assert_eq!(format!("{error:?}"), "sending\n  caused by: code 550");
        assert_eq!(format!("{error:#}"), "sending: code 550");
    }

    #[test]
    fn advice_is_kept_by_errors_of_the_application() {
        #[derive(Debug, thiserror::Error)]
        #[error("loading")]
        struct Loading(#[source] BoxError);

        let soon = Duration::from_secs(5);
        let errors = || [Error::fatal(Code(1)), Error::retry_after(soon, Code(2)), Error::new(Code(3))];
        let expected = [Advice::Fatal, Advice::RetryAfter(soon), Advice::None];
        let in_io = errors().map(|error| Error::from(io::Error::other(error)).advice());
        let in_own = errors().map(|error| Error::from(Loading(error.into())).advice());
        assert_eq!((in_io, in_own), (expected, expected));
        let in_anyhow = errors().map(|error| Error::new(anyhow::Error::new(Loading(error.into()))).advice());
        let in_context = errors().map(|error| anyhow::Error::new(io::Error::other(error)).context("at the start"));
        assert_eq!((in_anyhow, in_context.map(|error| Error::new(error).advice())), (expected, expected));
        let other = Error::retry_after(soon, Loading(Error::fatal(Code(4)).into()));
        assert_eq!(other.advice(), Advice::RetryAfter(soon), "the outermost one decides");
    }

    #[test]
    fn find_searches_the_whole_chain() {
        let plain = Error::from(Sending(Code(1)));
        let io = Error::from(io::Error::other(Sending(Code(2))));
        let anyhow_bare = Error::new(anyhow::Error::new(Code(3)));
        let anyhow_context = Error::new(anyhow::Error::new(Code(4)).context("more"));
        let carried = Error::fatal(Error::from(Code(5)));
        let boxed = Error::new(BoxError::from(Error::from(Code(6))));
        for (n, error) in [plain, io, anyhow_bare, anyhow_context, carried, boxed].iter().enumerate() {
            assert_eq!(error.find::<Code>().map(|c| usize::from(c.0)), Some(n + 1), "{error:?}");
        }
    }

    #[test]
    fn an_error_that_is_wrapped_again_stays_the_same() {
        let fatal = Error::fatal("no");
        assert_eq!(Error::new(fatal).advice(), Advice::Fatal);
    }

    #[test]
    fn an_error_survives_the_way_through_other_error_types() {
        fn through_anyhow() -> anyhow::Result<()> {
            Err(Error::fatal("no"))?
        }
        fn through_a_box() -> std::result::Result<(), Box<dyn StdError>> {
            Err(Error::fatal("no"))?
        }
        let back = Error::new(through_anyhow().unwrap_err());
        assert_eq!((back.to_string().as_str(), back.advice()), ("no", Advice::Fatal));
        assert_eq!(through_a_box().unwrap_err().to_string(), "no");
    }

    #[test]
    fn a_context_of_anyhow_around_an_error_is_kept() {
        for (inner, advice) in [
            (Error::msg("the database does not answer"), Advice::None),
            (Error::fatal("the database does not answer"), Advice::Fatal),
            (
                Error::retry_after(Duration::from_secs(7), "the database does not answer"),
                Advice::RetryAfter(Duration::from_secs(7)),
            ),
        ] {
            let context = || anyhow::Error::from(inner.clone()).context("reading").context("syncing prices");
            let error = Error::new(context());
            assert_eq!(format!("{error:#}"), "syncing prices: reading: the database does not answer");
            assert_eq!(error.advice(), advice);
            assert_eq!(Error::fatal(context()).advice(), Advice::Fatal);
        }
        let inner = Error::retry_after(Duration::from_secs(7), Sending(Code(8)));
        let error = Error::new(anyhow::Error::from(inner).context("syncing prices"));
        assert_eq!(format!("{error:#}"), "syncing prices: sending: code 8");
        assert_eq!(error.find::<Sending>().map(|sending| sending.0.0), Some(8));
        assert_eq!(error.find::<Code>().map(|code| code.0), Some(8));
    }

    #[test]
    fn the_message_of_an_io_error_is_printed_once() {
        assert_eq!(format!("{:#}", Error::from(io::Error::other("once"))), "once");
    }
}
