//! [`InstanceFn`]: the closures that build instances, `|| S` and `async |cx: &Context| S`.

use std::future::Future;
use std::sync::Arc;

use crate::runtime::context::Context;
use crate::runtime::lifecycle::BoxFuture;

/// A closure that builds the instances of a service: `|| S`, `|| Result<S, E>`, `async |cx: &Context| S` or
/// `async |cx: &Context| Result<S, E>`. The captures of an async closure are cloned for each instance.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not build instances of a service",
    label = "not a closure that builds instances",
    note = "write `|| S` or `async |cx: &Context| S`, with the type of `cx`; for an instance that exists, call `register`"
)]
pub trait InstanceFn<Form>: Send + Sync + 'static {
    /// The return type of the closure.
    type Out: 'static;

    /// Whether the closure takes the context, by which it may read settings.
    #[doc(hidden)]
    const HAS_CONTEXT: bool;

    /// Calls the closure.
    #[doc(hidden)]
    fn call(self: &Arc<Self>, cx: Context) -> BoxFuture<'static, Self::Out>;
}

/// Marks the form `|| S`.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plain;

/// Marks the form `async |cx: &Context| S`.
#[doc(hidden)]
#[derive(Debug)]
pub struct WithContext;

#[diagnostic::do_not_recommend]
impl<F, T> InstanceFn<Plain> for F
where
    F: Fn() -> T + Send + Sync + 'static,
    T: 'static,
{
    type Out = T;

    const HAS_CONTEXT: bool = false;

    fn call(self: &Arc<Self>, _cx: Context) -> BoxFuture<'static, T> {
        let build = self.clone();
        // Called inside the future, where a panic is caught.
        Box::pin(async move { build() })
    }
}

#[diagnostic::do_not_recommend]
impl<F, T> InstanceFn<WithContext> for F
where
    F: for<'a> ContextFn<'a, Out = T> + Clone + Send + Sync + 'static,
    T: 'static,
{
    type Out = T;

    const HAS_CONTEXT: bool = true;

    fn call(self: &Arc<Self>, cx: Context) -> BoxFuture<'static, T> {
        let build = self.clone();
        Box::pin(async move { F::clone(&build).call_with(&cx).await })
    }
}

/// An `async |cx: &Context|` closure. This trait requires that its future is `Send`, which `AsyncFn` cannot express.
#[doc(hidden)]
pub trait ContextFn<'a>: Sized {
    type Out;
    type Future: Future<Output = Self::Out> + Send;

    fn call_with(self, cx: &'a Context) -> Self::Future;
}

impl<'a, F, Fut> ContextFn<'a> for F
where
    F: FnOnce(&'a Context) -> Fut,
    Fut: Future + Send,
{
    type Out = Fut::Output;
    type Future = Fut;

    fn call_with(self, cx: &'a Context) -> Fut {
        self(cx)
    }
}
