//! `configure` takes the context and the settings, in this order.

use service_core::prelude::*;

struct Settings;

struct Swapped;

#[service]
impl Swapped {
    fn configure(_settings: Settings, _cx: &Context) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct Alone;

#[service]
impl Alone {
    fn configure(_settings: Settings) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct Lent;

#[service]
impl Lent {
    fn configure(_cx: &Context, _settings: &Settings) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct TooMany;

#[service]
impl TooMany {
    fn configure(_cx: &Context, _settings: Settings, _name: String) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct ByValue;

#[service]
impl ByValue {
    fn configure(_cx: Context) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

struct Static;

#[service]
impl Static {
    fn configure(_cx: &'static Context) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

fn main() {}
