//! What a service is to the runtime: the traits that `#[service]` implements and the descriptor it leaves at link time.
//!
//! The contract. From start to stop one *instance* lives: built by `configure` (or `Default`, or the value or closure
//! it was registered with), run again and again by `update`, never two runs at once, and given to `cleanup` exactly
//! once, however it ends. An error, a panic and a timeout are failures: counted, logged with their causes, answered by
//! `on_failure`. After a panic the instance is cleaned up and a fresh one is built.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;

use crate::config::ServiceDescriptor;
use crate::runtime::context::Context;
use crate::service::error::{Error, Result};
use crate::service::failure::{Failure, Recovery};
use crate::service::outcome::Outcome;

/// A boxed future that a worker thread may carry on.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A type that `#[service]` made a service.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service",
    label = "no `#[service]` on an impl of this type",
    note = "write `#[service]` above `impl {Self} {{ async fn update(&mut self) {{ … }} }}`"
)]
pub trait Service: Lifecycle + Sized {
    /// The id it registers under by itself.
    const ID: &'static str;
    /// What the attribute said, and how an instance is built.
    const DESCRIPTOR: &'static ServiceDescriptor;
    /// Builds an instance, where there is a `configure` or `Default`.
    #[doc(hidden)]
    const BUILD: Option<Build>;
}

/// The lifecycle methods of one instance. Implemented by `#[service]`; the names are out of the way of the user's own.
///
/// A plain `fn update` or `fn cleanup` is blocking code: then the `_blocking` method is called, on the blocking pool.
#[doc(hidden)]
pub trait Lifecycle: Send + 'static {
    /// Which of the methods below are to be called.
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

    /// The service, or why it could not be built.
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

/// How a service's methods are to be called.
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

/// Builds an instance: `configure`, or `Default`.
#[doc(hidden)]
pub type Build = fn(Context) -> BoxFuture<'static, Result<Box<dyn Lifecycle>>>;

/// A service on the list that the linker collects. One that cannot be built is not discovered.
#[doc(hidden)]
pub struct Discovered(pub &'static ServiceDescriptor, pub Option<Build>);

inventory::collect!(Discovered);
