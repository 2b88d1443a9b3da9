//! The README and the pages under `docs/`, so that `cargo test` compiles and runs their code. The page on configuration
//! is tested in `service-core/src/config`. This library has nothing else.

macro_rules! pages {
    ($($name:ident: $path:literal)*) => {
        $(#[doc = include_str!($path)]
        #[cfg(doctest)]
        pub mod $name {})*
    };
}

pages! {
    database: "../../docs/database.md"
    database_operations: "../../docs/database-operations.md"
    deployment: "../../docs/deployment.md"
    failures: "../../docs/failures.md"
    from_a_loop: "../../docs/from-a-loop.md"
    from_abstract_service: "../../docs/from-abstract-service.md"
    from_tokio_cron_scheduler: "../../docs/from-tokio-cron-scheduler.md"
    guarantees: "../../docs/guarantees.md"
    in_axum: "../../docs/in-axum.md"
    lifecycle: "../../docs/lifecycle.md"
    long_runs: "../../docs/long-runs.md"
    many_at_once: "../../docs/many-at-once.md"
    many_of_a_kind: "../../docs/many-of-a-kind.md"
    opentelemetry: "../../docs/opentelemetry.md"
    operations: "../../docs/operations.md"
    readme: "../../README.md"
    replicas: "../../docs/replicas.md"
    testing: "../../docs/testing.md"
    tutorial: "../../docs/tutorial.md"
    wake_ups: "../../docs/wake-ups.md"
}
