//! Neither `configure` nor `Default`: only ready-made instances.

#![deny(warnings)]

use service_core::prelude::*;

struct ReadyMade {
    path: String,
}

#[service(discover = false)]
impl ReadyMade {
    async fn update(&mut self) {
        self.path.clear();
    }
}

#[derive(Default)]
struct Both;

#[service(discover = false)]
impl Both {
    async fn update(&mut self) {}
}

#[test]
fn none_is_discovered() {
    let _ = ReadyMade { path: String::new() };
    assert!(ReadyMade::BUILD.is_none());
    assert!(Both::BUILD.is_some());
    assert_eq!(inventory::iter::<service_core::__private::Discovered>().count(), 0);
}
