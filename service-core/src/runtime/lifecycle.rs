//! The traits that `#[service]` implements, and the descriptor that it registers at link time.
//!
//! The contract: from start to stop a service has one *instance*. It is built by `configure` (or `Default`, or the
//! value or closure that was registered). `update` is called for each run, and two runs never overlap. `cleanup` is
//! called exactly once, however the instance ends. Errors, panics and timeouts are failures: they are counted and
//! logged with their causes, and `on_failure` decides what follows. After a panic the instance is cleaned up and a
//! fresh one is built.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;

use crate::config::ServiceDescriptor;
use crate::runtime::context::Context;
use crate::service::error::{Error, Result};
use crate::service::failure::{Failure, Recovery};
use crate::service::outcome::Outcome;

/// A boxed future that is `Send`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A service. Implemented by `#[service]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service",
    label = "no `#[service]` on an impl of this type",
    note = "write `#[service]` above `impl {Self} {{ async fn update(&mut self) {{ … }} }}`"
)]
pub trait Service: Lifecycle + Sized {
    /// The id of the service when it is discovered: `name` of the attribute, else the type's name in snake_case.
    const ID: &'static str;
    /// The attribute's keys and values, and how an instance is built.
    const DESCRIPTOR: &'static ServiceDescriptor;
    /// Builds an instance, if the type has `configure` or `Default`.
    #[doc(hidden)]
    const BUILD: Option<Build>;
}

/// The lifecycle methods of one instance. Implemented by `#[service]`; the names cannot clash with the user's methods.
///
/// A plain `fn update` or `fn cleanup` is blocking code: for it the `_blocking` method is called, on the blocking pool.
#[doc(hidden)]
pub trait Lifecycle: Send + 'static {
    /// Which of the methods below are called.
    fn __shape(&self) -> Shape;
    fn __update<'a>(&'a mut self, _cx: &'a Context) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(std::future::ready(Ok(Outcome::idle())))
    }
    fn __update_blocking(&mut self, _cx: &Context) -> Result<Outcome> {
        Ok(Outcome::idle())
    }
    fn __on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }
    fn __cleanup<'a>(&'a mut self, _cx: &'a Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn __cleanup_blocking(&mut self, _cx: &Context) -> Result<()> {
        Ok(())
    }
}

/// What a closure that builds instances may return: the service, or `Result<S, E>`.
#[diagnostic::on_unimplemented(
    message = "a closure that builds instances cannot return `{Self}`",
    label = "not a service",
    note = "return the service or `Result<S, E>`, where `E` converts into a boxed error"
)]
pub trait IntoService: 'static {
    /// The type of the service.
    type Service: Service;

    /// Converts into the service, or the error of building it.
    #[doc(hidden)]
    fn into_service(self) -> Result<Self::Service>;
}

#[diagnostic::do_not_recommend]
impl<S: Service> IntoService for S {
    type Service = S;

    fn into_service(self) -> Result<S> {
        Ok(self)
    }
}

#[diagnostic::do_not_recommend]
impl<S: Service, E: Into<Box<dyn StdError + Send + Sync>> + 'static> IntoService for std::result::Result<S, E> {
    type Service = S;

    fn into_service(self) -> Result<S> {
        self.map_err(Error::new)
    }
}

/// How a service's methods are called.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub blocking_update: bool,
    pub cleanup: Cleanup,
}

impl Shape {
    /// An async `update` and no `cleanup`.
    pub const NONE: Self = Self { blocking_update: false, cleanup: Cleanup::None };
}

/// The form of a service's `cleanup`.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    None,
    Async,
    Blocking,
}

/// The function that builds an instance: `configure`, or `Default`.
#[doc(hidden)]
pub type Build = fn(Context) -> BoxFuture<'static, Result<Box<dyn Lifecycle>>>;

/// A service in the list that the linker collects. A service that cannot be built is not discovered.
#[doc(hidden)]
pub struct Discovered(pub &'static ServiceDescriptor, pub Option<Build>);

inventory::collect!(Discovered);
