//! `depends_on` is a list of types, functions and ids.

use service_core::prelude::*;

#[service()]
async fn other() {}

#[service(depends_on = 5)]
async fn wrong_type() {}

#[service(depends_on = "other")]
async fn bare_id() {}

#[service(depends_on = other)]
async fn bare_type() {}

#[service(depends_on = [5])]
async fn number_inside() {}

#[service(depends_on = [-1])]
async fn negative() {}

#[service(depends_on = ["Other"])]
async fn bad_id() {}

#[service(depends_on = [""])]
async fn empty_id() {}

#[service(depends_on =)]
async fn empty() {}

#[service(depends_on = ["itself"])]
async fn itself() {}

#[service(depends_on = [its_type])]
async fn its_type() {}

#[service(depends_on = ["other", "other"])]
async fn double() {}

#[service(depends_on = [&other])]
async fn reference() {}

#[service(depends_on = [], depends_on = [])]
async fn twice() {}

fn main() {}
