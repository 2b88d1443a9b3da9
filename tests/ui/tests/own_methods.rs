//! Methods, constants and names that are the user's own.

#![deny(warnings)]

use service_core::prelude::*;

#[derive(Default)]
struct Sender {
    sent: u32,
}

#[service]
impl Sender {
    const LIMIT: u32 = 5;

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let _ = (self.clean_up(), self.updates(), self.config(cx), Self::new(), self.on_error(), self.configured());
        Ok(Outcome::processed(u64::from(self.sent.min(Self::LIMIT))))
    }

    fn new() -> Self {
        Self::default()
    }

    /// Nearly a lifecycle method's name, but called.
    fn clean_up(&mut self) {
        self.sent = 0;
    }

    fn updates(&self) -> u32 {
        self.sent
    }

    fn config<T>(&self, _: T) -> usize {
        size_of::<T>()
    }

    fn on_error(&self) {}

    /// Another shape than `configure`'s.
    pub fn configured(&self) -> bool {
        true
    }

    /// Nearly `cleanup`, and meant so.
    #[allow(deprecated, dead_code)]
    fn cleanups(&mut self) {}
}

/// Nearly `cleanup`, but not compiled, or allowed for the whole impl.
#[derive(Default)]
struct Conditional;

#[service]
impl Conditional {
    async fn update(&mut self) {}

    #[cfg(any())]
    fn clean_up(&mut self) {}
}

#[service]
#[cfg(any())]
impl Never {
    async fn update(&mut self) {}

    fn clean_up(&mut self) {}
}

#[derive(Default)]
struct Allowed;

#[allow(deprecated, dead_code)]
#[service]
impl Allowed {
    async fn update(&mut self) {}

    fn clean_up(&mut self) {}
}

/// Names of the library that mean something else here.
#[allow(dead_code)]
mod shadowed {
    pub struct Box;
    pub struct Option;
    pub enum Result {
        Ok,
        Err,
    }
    pub struct Some;
    pub struct None;
    pub struct Service;
    pub struct Context;

    #[derive(Default)]
    pub struct Shadowed;

    #[service_core::service]
    impl Shadowed {
        async fn update(&mut self) {}

        async fn cleanup(&mut self) {}
    }
}

#[test]
fn it_compiles() {}
