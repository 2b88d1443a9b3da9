//! `configure` takes the context and the settings, in this order.

use service_core::prelude::*;

struct Settings;

struct Swapped;

#[service]
impl Swapped {
    fn configure(settings: Settings, cx: &Context) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct Alone;

#[service]
impl Alone {
    fn configure(settings: Settings) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct Lent;

#[service]
impl Lent {
    fn configure(cx: &Context, settings: &Settings) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct TooMany;

#[service]
impl TooMany {
    fn configure(cx: &Context, settings: Settings, name: String) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct ByValue;

#[service]
impl ByValue {
    fn configure(cx: Context) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

fn main() {}
