//! Private types, which no code outside of this program can name.

#![deny(warnings)]

mod inner {
    use service_core::prelude::*;

    #[derive(serde::Deserialize)]
    struct Settings {
        path: String,
    }

    struct Hidden {
        settings: Settings,
    }

    #[service]
    impl Hidden {
        fn configure(_cx: &Context, settings: Settings) -> Self {
            Self { settings }
        }

        async fn update(&mut self) {
            self.settings.path.clear();
        }
    }

    pub(super) fn id() -> &'static str {
        Hidden::ID
    }
}

#[test]
fn it_has_an_id() {
    assert_eq!(inner::id(), "hidden");
}
