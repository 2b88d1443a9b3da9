//! Runs every small example as its reader does, and checks its output.
//!
//! Cargo builds the examples together with the tests, so nothing is built here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts an example.
fn spawn(name: &str) -> Child {
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
    Command::new(path)
        .current_dir(std::env::temp_dir())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs an example, which must succeed. Returns its output.
fn run(name: &str) -> String {
    let mut child = spawn(name);
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

/// An example that runs until a signal ends it.
struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn spawn(name: &str) -> Self {
        let mut child = spawn(name);
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Returns the next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, which must be a success. Returns the rest of its output.
    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {rest}");
        rest
    }

    fn terminate(self) -> String {
        self.signal("TERM");
        self.rest()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended; a test that has failed must not leave it behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the last line of the answer to a request.
fn get(url: &str) -> String {
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().last().unwrap_or_default().to_owned()
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
fn reconnecting_consumer() {
    let printed = run("reconnecting_consumer");
    assert!(
        printed.contains("run 3: event 5") && printed.contains("the last event was Some(\"event 6\")"),
        "{printed}"
    );
}

#[test]
fn accept_loop() {
    let mut program = Program::spawn("accept_loop");
    let address = program.line().strip_prefix("listening on ").unwrap().to_owned();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"?\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&client).read_line(&mut answer).unwrap();
    assert!(answer.trim().parse::<u64>().is_ok(), "{answer:?}");
    let rest = program.terminate();
    assert!(rest.starts_with("the server stops after "), "{rest}");
}

#[test]
fn inside_axum() {
    let mut program = Program::spawn("inside_axum");
    let url = program.line();
    assert_eq!(get(&url), "indexed 12 pages");
    program.signal("TERM");
    assert_eq!(program.line(), "the indexer stops");
    // Its `cleanup` takes two seconds, in which the server answers.
    let answer = get(&url);
    assert!(answer.ends_with("it is stopping"), "{answer}");
    assert_eq!(program.rest(), "the indexer has stopped\nthe server has stopped\n");
}

#[test]
fn axum_stops_first() {
    let mut program = Program::spawn("axum_stops_first");
    let url = program.line();
    let request = std::thread::spawn(move || get(&url));
    assert_eq!(program.line(), "a request begins");
    let rest = program.terminate();
    assert_eq!(request.join().unwrap(), "indexed 12 pages", "a request in progress is answered by a service that runs");
    assert_eq!(rest, "the server has stopped\nthe indexer has stopped\n");
}
