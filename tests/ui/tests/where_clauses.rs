//! `where Self: Sized`, lifetimes and other spellings.

#![deny(warnings)]

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender
where
    Self: Sized,
{
    async fn update<'a>(self: &'a mut Self, _: &'a Context) -> Outcome
    where
        Self: Sized,
    {
        Outcome::idle()
    }

    fn on_failure<'f>(&mut self, _: &'f Failure) -> Recovery
    where
        Self: Sized,
    {
        Recovery::Ignore
    }

    async fn cleanup(&self)
    where
        Self: Sized,
    {
    }
}

#[test]
fn it_compiles() {}
