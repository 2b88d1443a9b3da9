//! A function in `depends_on` stands for its type, which has to be in scope.

use service_core::prelude::*;

mod jobs {
    use service_core::prelude::*;

    #[service]
    pub async fn clean_outbox() {}

    pub async fn no_service() {}
}

use jobs::clean_outbox;

#[service(depends_on = [clean_outbox])]
async fn function_alone_is_imported() {}

#[service(depends_on = [jobs::no_service])]
async fn not_a_service() {}

#[service(depends_on = [jobs::clean_outbxo])]
async fn misspelt() {}

#[service(depends_on = [elsewhere::clean_outbox])]
async fn no_such_module() {}

fn main() {
    drop(clean_outbox());
}
