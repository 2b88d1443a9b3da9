//! Generic impls, which are registered by hand.

#![deny(warnings)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::marker::PhantomData;

use service_core::prelude::*;

pub trait Mailer: Send + Sync + 'static {
    fn send(&self, mail: &str) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Default)]
pub struct Smtp;

impl Mailer for Smtp {
    async fn send(&self, mail: &str) -> Result<()> {
        let _ = mail;
        Ok(())
    }
}

/// Bounds in the list; built by hand, or by `Default` where the impl's bounds imply it.
#[derive(Default)]
pub struct Sender<M> {
    mailer: M,
    sent: u64,
}

#[service(interval = 30, discover = false)]
impl<M: Mailer> Sender<M> {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.mailer.send(cx.service_id()).await?;
        self.sent += 1;
        Ok(Outcome::processed(1))
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }

    async fn cleanup(&mut self) -> Result<()> {
        self.mailer.send("bye").await
    }
}

/// A where-clause, and `Default` by it.
#[derive(Default)]
pub struct Cached<K, V = String>
where
    K: Eq + Hash,
{
    values: HashMap<K, V>,
}

#[service(delay = "1m", discover = false, name = "cache", depends_on = [Sender<Smtp>])]
impl<K, V> Cached<K, V>
where
    K: Eq + Hash + Default + Send + 'static,
    V: Default + Send + 'static,
    for<'a> &'a V: IntoIterator,
    Self: Sized,
{
    fn update(&mut self) -> Outcome {
        Outcome::processed(self.values.len() as u64)
    }
}

/// Const parameters, settings and `configure`.
#[derive(Debug)]
pub struct Pool<const N: usize, const FAST: bool, T> {
    slots: [Option<T>; N],
}

#[derive(serde::Deserialize)]
pub struct Settings<T> {
    first: Option<T>,
}

#[service(discover = false, critical = true)]
impl<const N: usize, const FAST: bool, T: serde::de::DeserializeOwned + Send + 'static> Pool<N, FAST, T> {
    async fn configure(_: &Context, settings: Settings<T>) -> Result<Self, String> {
        let mut slots = [const { None }; N];
        match slots.first_mut() {
            Some(slot) => *slot = settings.first,
            None => return Err("no slots".into()),
        }
        Ok(Self { slots })
    }

    async fn update(&mut self) {
        if FAST {
            self.slots.rotate_left(1);
        }
    }
}

/// Lifetimes that are `'static`.
#[derive(Default)]
pub struct Named<'n, T>(Cow<'n, str>, PhantomData<T>);

#[service]
impl Named<'static, u8> {
    async fn update(&mut self) {
        self.0 = Cow::Borrowed("u8");
    }
}

#[service(discover = false, name = "named_of_all")]
impl<T: Display + Send + 'static> Named<'static, Option<T>> {
    async fn update(&mut self) {
        self.0 = Cow::Borrowed("option");
    }
}

/// References that are `'static`, and function pointers, which borrow nothing.
pub struct Callbacks<F>(F);

#[service(discover = false, name = "words")]
impl Callbacks<&'static str> {
    async fn update(&mut self) {
        self.0 = "word";
    }
}

#[service(discover = false, name = "pointers")]
impl Callbacks<(fn(&str) -> &str, Box<dyn Fn(&str) + Send + Sync>)> {
    async fn update(&mut self) {
        (self.0.1)((self.0.0)("text"));
    }
}

#[service(discover = false, name = "arrays")]
impl<T: AsRef<[&'static str]> + Send + 'static> Callbacks<[T; 2]> {
    #[allow(deprecated)]
    async fn update(&mut self) {
        let _ = self.0.iter().map(|words| words.as_ref().len()).sum::<usize>();
    }
}

#[deprecated]
pub trait Old: Send + 'static {}

#[derive(Default)]
pub struct OfOld<T>(PhantomData<T>);

#[expect(deprecated)]
#[service(discover = false)]
impl<T: Old> OfOld<T> {
    async fn update(&mut self) {}
}

#[test]
fn generic_services_have_ids_and_builders() {
    let _ = Pool::<2, true, u8> { slots: [None, Some(1)] };
    let _ = (Callbacks("x"), Callbacks(["x", "y"]));
    assert_eq!(<Sender<Smtp>>::ID, "sender");
    assert_eq!(<Cached<String, Vec<u8>>>::ID, "cache");
    assert_eq!(<Pool<2, true, u8>>::ID, "pool");
    assert_eq!(<Pool<2, true, u8>>::DESCRIPTOR.setting_names(), Some(&["first"][..]));
    // `Default` is seen where the bounds of the impl imply it.
    assert!(<Sender<Smtp>>::BUILD.is_none());
    assert!(<Cached<String, Vec<u8>>>::BUILD.is_some());
    assert!(<Pool<2, true, u8>>::BUILD.is_some());
    assert_eq!(inventory::iter::<service_core::__private::Discovered>().count(), 1);
}
