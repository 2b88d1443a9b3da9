//! Every kind of error.

#![deny(warnings)]

use service_core::prelude::*;

macro_rules! failing {
    ($name:ident, $error:ty) => {
        #[derive(Default)]
        struct $name;

        #[service]
        impl $name {
            async fn update(&mut self) -> std::result::Result<(), $error> {
                Ok(())
            }

            fn cleanup(&mut self) -> std::result::Result<(), $error> {
                Ok(())
            }
        }
    };
}

failing!(Own, service_core::Error);
failing!(Io, std::io::Error);
failing!(Text, String);
failing!(Word, &'static str);
failing!(Boxed, Box<dyn std::error::Error + Send + Sync>);
failing!(Any, anyhow::Error);

#[test]
fn each_is_a_service() {
    assert_eq!(inventory::iter::<service_core::__private::Discovered>().count(), 6);
}
