//! Ids made of type names.

use service_core::prelude::*;

#[derive(Default)]
struct HTTPClient;

#[service]
impl HTTPClient {
    async fn update(&mut self) {}
}

#[derive(Default)]
#[allow(non_camel_case_types)]
struct r#loop;

#[service]
impl r#loop {
    async fn update(&mut self) {}
}

#[service]
async fn r#match() {}

struct Pair<T>(std::marker::PhantomData<T>);

impl<T> Default for Pair<T> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

#[service(name = "pair_of_words")]
impl Pair<String> {
    async fn update(&mut self) {}
}

#[test]
fn ids_are_made_of_names() {
    assert_eq!(HTTPClient::ID, "http_client");
    assert_eq!(r#loop::ID, "loop");
    assert_eq!(MatchService::ID, "match");
    assert_eq!(<Pair<String>>::ID, "pair_of_words");
}
