//! The forms of `on_failure`.

use service_core::prelude::*;

#[derive(Default)]
struct NoSelf;

#[service]
impl NoSelf {
    async fn update(&mut self) {}

    fn on_failure(failure: &Failure) -> Recovery {
        failure.recovery()
    }
}

#[derive(Default)]
struct NoFailure;

#[service]
impl NoFailure {
    async fn update(&mut self) {}

    fn on_failure(&mut self) -> Recovery {
        Recovery::Retry
    }
}

#[derive(Default)]
struct ByValue;

#[service]
impl ByValue {
    async fn update(&mut self) {}

    fn on_failure(&mut self, _failure: Failure) -> Recovery {
        Recovery::Retry
    }
}

#[derive(Default)]
struct TooMany;

#[service]
impl TooMany {
    async fn update(&mut self) {}

    fn on_failure(&mut self, _failure: &Failure, _cx: &Context) -> Recovery {
        Recovery::Retry
    }
}

#[derive(Default)]
struct Undecided;

#[service]
impl Undecided {
    async fn update(&mut self) {}

    fn on_failure(&mut self, _failure: &Failure) {}
}

#[derive(Default)]
struct Static;

#[service]
impl Static {
    async fn update(&mut self) {}

    fn on_failure(&self, _failure: &'static Failure) -> Recovery {
        Recovery::Retry
    }
}

fn main() {}
