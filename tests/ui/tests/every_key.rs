//! Every key with every form of value.

use service_core::prelude::*;

#[derive(Default)]
struct Other;

#[service(
    name = "another",
    delay = 0.5,
    instances = 2,
    initial_delay = 0,
    jitter = "500ms",
    wake_on = ["orders", "mail:urgent"],
    max_failures = 0,
    exhausted = "next_run",
    retry_delay = "1h 30m",
    retry_backoff = 1,
    max_retry_delay = "2h",
    timeout = 1_000,
    drain_timeout = 0,
    restart = "on_failure",
    restart_delay = 0,
    max_restarts = 0,
    restart_window = "1d",
    critical = true,
    depends_on = [],
    stop_last = true,
    rate_limit = "600/m",
    enabled = false,
    scope = "cluster",
    lease = 1,
    discover = true,
    crate = ::service_core,
)]
impl Other {
    async fn update(&mut self) {}
}

#[service(cron = "*/15 9-17 * * MON-FRI", timezone = "Europe/Vienna", catch_up = "latest")]
async fn office_hours() {}

#[service(on_demand = true, max_failures = "unlimited")]
async fn on_request() {}

#[service(interval = 30, on_demand = false, timeout = "none", rate_limit = "none")]
async fn written_defaults() {}

#[service(interval = 30, depends_on = [Other, "office_hours", self::nested::Deep, office_hours])]
async fn last() {}

mod nested {
    use service_core::prelude::*;

    #[derive(Default)]
    pub(super) struct Deep;

    #[service]
    impl Deep {
        async fn update(&mut self) {}
    }
}

#[test]
fn the_descriptor_holds_what_was_written() {
    use service_core::Literal::{Bool, Float, Int, List, Str};

    assert_eq!(Other::ID, "another");
    assert_eq!(
        Other::DESCRIPTOR.attributes(),
        [
            ("delay", Float(0.5)),
            ("instances", Int(2)),
            ("initial_delay", Int(0)),
            ("jitter", Str("500ms")),
            ("wake_on", List(&["orders", "mail:urgent"])),
            ("max_failures", Int(0)),
            ("exhausted", Str("next_run")),
            ("retry_delay", Str("1h 30m")),
            ("retry_backoff", Int(1)),
            ("max_retry_delay", Str("2h")),
            ("timeout", Int(1000)),
            ("drain_timeout", Int(0)),
            ("restart", Str("on_failure")),
            ("restart_delay", Int(0)),
            ("max_restarts", Int(0)),
            ("restart_window", Str("1d")),
            ("critical", Bool(true)),
            ("depends_on", List(&[])),
            ("stop_last", Bool(true)),
            ("rate_limit", Str("600/m")),
            ("enabled", Bool(false)),
            ("scope", Str("cluster")),
            ("lease", Int(1)),
        ]
    );
    assert_eq!(
        LastService::DESCRIPTOR.attributes()[1],
        ("depends_on", List(&["another", "office_hours", "deep", "office_hours"]))
    );
}
