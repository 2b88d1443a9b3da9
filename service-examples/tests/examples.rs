//! Runs every small example as its reader does, and checks its output.
//!
//! Cargo builds the examples together with the tests, so nothing is built here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs an example, which must succeed. Returns its output.
fn run(name: &str) -> String {
    let deps = std::env::current_exe().unwrap();
    let path: PathBuf = deps.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(format!("{name}.rs"));
    let changed = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    // `cargo test --test examples` builds this file and no example.
    assert!(
        changed(&path) >= changed(&source),
        "{} is missing or old: run `cargo test -p service-examples`, or `cargo build -p service-examples --examples`",
        path.display()
    );
    let mut child = Command::new(path)
        .current_dir(std::env::temp_dir())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{name} does not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {}\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr));
    printed
}

#[test]
fn heartbeat() {
    assert!(run("heartbeat").contains("beat 3 of heartbeat"));
}

#[test]
fn failure_handling() {
    let printed = run("failure_handling");
    assert!(printed.contains("failure 1 of 3: too many requests, retry after 200ms"), "{printed}");
    assert!(printed.contains("failure 1 of 3: the token is not accepted"), "a success sets the count to 0: {printed}");
    assert!(printed.contains("price_fetcher is Stopped"), "{printed}");
}

#[test]
fn shared_state() {
    let printed = run("shared_state");
    let cooked: u32 = printed.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(cooked > 3, "{printed}");
}

#[test]
fn typed_configuration() {
    let printed = run("typed_configuration");
    assert!(printed.contains("Hello, Ada! (signed with 11 bytes)"), "{printed}");
    assert!(!printed.contains("8c1f"), "a secret is not shown: {printed}");
}

#[test]
fn blocking_work() {
    let printed = run("blocking_work");
    assert!(printed.contains("2262 primes below 20000"), "{printed}");
    assert!(printed.contains("on the only async thread: true"), "{printed}");
}

#[test]
fn rate_limited() {
    let printed = run("rate_limited");
    let seconds: f64 = printed.split_whitespace().filter_map(|word| word.parse().ok()).next_back().unwrap();
    assert!((0.4..30.0).contains(&seconds), "{printed}");
}

#[test]
fn several_instances() {
    let printed = run("several_instances");
    assert!(printed.contains("news copies /srv/news as press-office"), "{printed}");
    assert!(printed.contains("photos: ran once") && printed.contains("news: ran several times"), "{printed}");
}

#[test]
fn dependencies() {
    let printed = run("dependencies");
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines, ["the cache is warm", "the reader starts", "the reader is closed", "the cache is closed"]);
}

#[test]
fn virtual_time() {
    assert!(run("virtual_time").contains("a week later: Running"));
}

#[test]
fn mock_client() {
    let printed = run("mock_client");
    assert!(printed.contains("sent 2 mails") && printed.contains("the run failed: mailbox full"), "{printed}");
}

#[test]
fn service_in_another_crate() {
    let printed = run("service_in_another_crate");
    assert!(printed.contains("rain_gauge of example_rain_gauge") && printed.contains("emptied"), "{printed}");
}

#[test]
fn without_a_registry() {
    assert_eq!(run("without_a_registry"), "3\n2\n1\n0\nlift-off\n");
}

#[test]
fn inside_axum() {
    assert_eq!(run("inside_axum"), "indexed 12 pages\n");
}
