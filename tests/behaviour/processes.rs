//! Real processes and real signals: what the processes print, in which order, and how they exit.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const CHILD_TIMEOUT: Duration = Duration::from_secs(30);

/// A child process that is killed with its test.
pub(crate) struct Child {
    process: std::process::Child,
    output: Receiver<String>,
    said: Vec<String>,
}

/// The exit status and the output of a process.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    said: Vec<String>,
    pub(crate) logged: String,
}

impl Child {
    pub(crate) fn start(what: &str, environment: &[(&str, &str)]) -> Self {
        let program = env!("CARGO_BIN_EXE_child");
        Self::of(Command::new(program).arg(what).env_remove("SYSTEM_ID").envs(environment.iter().copied()))
    }

    fn of(command: &mut Command) -> Self {
        let empty = tempfile::tempdir().unwrap();
        let command = command.current_dir(empty.path()).stdin(Stdio::null());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (say, output) = channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { process, output, said: Vec::new() }
    }

    /// Waits until the process prints this line.
    pub(crate) fn says(&mut self, line: &str) {
        let start = Instant::now();
        while !self.said.iter().any(|said| said == line) {
            match self.output.recv_timeout(CHILD_TIMEOUT.saturating_sub(start.elapsed())) {
                Ok(said) => self.said.push(said),
                Err(error) => panic!("it does not print `{line}` ({error}): {:?}", self.said),
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub(crate) fn ends(mut self) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < CHILD_TIMEOUT, "it does not end: {:?}", self.said);
            std::thread::sleep(Duration::from_millis(5));
        };
        loop {
            match self.output.recv_timeout(CHILD_TIMEOUT) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("its output does not end"),
            }
        }
        let mut logged = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut logged).unwrap();
        Ended { status, said: std::mem::take(&mut self.said), logged }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Kills it if it still runs.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ended {
    fn logs(&self, parts: &[&str]) {
        let found = self.logged.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "{parts:?} is not in:\n{}", self.logged);
    }
}

#[test]
fn sigterm_drains_cleans_up_in_order_and_exits_with_0() {
    for signal in ["TERM", "INT"] {
        let mut child = Child::start("drain", &[]);
        child.says("worker: run 1");
        child.says("store: end");
        child.signal(signal);
        let ended = child.ends();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
        let after: Vec<_> = ended.said.iter().skip_while(|line| *line != "worker: end").collect();
        assert_eq!(after, ["worker: end", "worker: cleanup", "store: cleanup", "main: ended"], "{:?}", ended.said);
        ended.logs(&["INFO", &format!("SIG{signal}"), "a second signal ends the process at once"]);
        assert!(!ended.logged.contains("panic ="), "{}", ended.logged);
    }
}

/// A file that configures the services of a process.
pub(crate) fn config_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml").display().to_string();
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

#[test]
fn sighup_reads_the_configuration_file_again() {
    let (_folder, file) = config_file("[sized]\nsize = 1");
    let mut child = Child::start("sized", &[("SERVICES_CONFIG", &file)]);
    child.says("sized: runs with 1");
    std::fs::write(&file, "[sized]\nsize = 2").unwrap();
    child.signal("HUP");
    child.says("sized: runs with 2");
    std::fs::write(&file, "[sized]\nsize = 3\n[sized\n").unwrap();
    child.signal("HUP");
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(&file, "[sized]\nsize = 4").unwrap();
    child.signal("HUP");
    child.says("sized: runs with 4");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert!(!ended.said.contains(&"sized: runs with 3".to_owned()), "{:?}", ended.said);
    ended.logs(&["ERROR SIGHUP: ", "services.toml was not applied, nothing was changed"]);
    assert!(ended.logged.contains("services.toml:3"), "{}", ended.logged);
}

#[test]
fn sighup_of_a_closed_terminal_shuts_down() {
    let program = env!("CARGO_BIN_EXE_child");
    // It starts the program with a terminal as standard input.
    let mut script = Command::new("script");
    if script.arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: there is no program `script`, which provides a terminal");
        return;
    }
    let (_folder, file) = config_file("[sized]\nsize = 1");
    let mut script = Command::new("script");
    let script = script.args(["-q", "-e", "-f", "-c", &format!("{program} sized"), "/dev/null"]);
    let mut child = Child::of(script.env("SERVICES_CONFIG", &file));
    child.says("sized: runs with 1");
    let id = child.said.iter().find_map(|line| line.strip_prefix("main: process ")).unwrap().to_owned();
    assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{:?}", ended.said);
    assert!(ended.said.iter().any(|line| line.contains("SIGHUP: stopping all services")), "{:?}", ended.said);
    assert!(ended.said.contains(&"main: ended".to_owned()), "{:?}", ended.said);
}

#[test]
fn a_signal_right_after_the_first_run_drains() {
    // Often before `start_all` has returned.
    for _ in 0..20 {
        let mut child = Child::start("drain", &[]);
        child.says("store: run 1");
        child.signal("TERM");
        let ended = child.ends();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
        assert!(ended.said.contains(&"store: cleanup".to_owned()), "{:?}", ended.said);
    }
}

#[test]
fn a_signal_during_a_slow_start_drains() {
    let mut child = Child::start("starting", &[]);
    child.says("steady: end");
    let start = Instant::now();
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert!(start.elapsed() < Duration::from_secs(20), "the shutdown waited for the start: {:?}", start.elapsed());
    assert_eq!(ended.said, ["steady: run 1", "steady: end", "steady: cleanup", "main: ended"]);
}

#[test]
fn without_a_wait_for_the_shutdown_a_signal_still_ends_the_process() {
    let mut child = Child::start("forgetful", &[]);
    child.says("steady: end");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(143), "{}", ended.logged);
    ended.logs(&["WARN", "SIGTERM", "no code waits for a shutdown"]);
    ended.logs(&["ERROR", "SIGTERM", "ending the process"]);
}

#[test]
fn a_program_that_handles_signals_itself_is_not_ended() {
    let mut child = Child::start("by_itself", &[]);
    child.says("steady: end");
    child.says("main: listens");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert_eq!(ended.said.last().map(String::as_str), Some("main: ended"), "{:?}", ended.said);
    assert!(ended.said.contains(&"steady: cleanup".to_owned()), "{:?}", ended.said);
}

#[test]
fn a_program_that_continues_after_its_services_is_not_ended() {
    let mut child = Child::start("lingers", &[]);
    child.says("steady: end");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert!(ended.said.iter().any(|line| line == "main: lingered"), "{}", ended.logged);
}

#[test]
fn after_a_dropped_wait_a_signal_reaches_the_next_one() {
    let mut child = Child::start("waits_twice", &[]);
    child.says("main: waits again");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert_eq!(ended.said.last().map(String::as_str), Some("main: ended"), "{}", ended.logged);
}

#[test]
fn a_critical_failure_exits_with_1_and_names_the_service() {
    let ended = Child::start("critical", &[]).ends();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.logged);
    assert!(ended.said.contains(&"steady: cleanup".to_owned()), "{:?}", ended.said);
    ended.logs(&["ERROR", "[heart]", "critical"]);
    ended.logs(&["Error: service `heart` failed: nothing helps"]);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (first, second, code) in [("TERM", "INT", 130), ("INT", "TERM", 143), ("TERM", "TERM", 143)] {
        let mut child = Child::start("hang", &[]);
        child.says("hanging: run 1");
        child.signal(first);
        // Signals within 200 ms count as one. On a busy machine the first one can be handled late.
        std::thread::sleep(Duration::from_secs(1));
        child.signal(second);
        let ended = child.ends();
        assert_eq!(ended.status.code(), Some(code), "{}", ended.logged);
        assert!(!ended.said.contains(&"hanging: cleanup".to_owned()));
        ended.logs(&["WARN", second, "ending the process at once"]);
    }
}

#[test]
fn a_service_that_failed_earlier_makes_the_exit_1() {
    let mut child = Child::start("failed", &[]);
    child.says("steady: end");
    child.says("broken: cleanup");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.logged);
    assert!(ended.said.contains(&"steady: cleanup".to_owned()));
    ended.logs(&["Error: service `broken` failed: nothing helps"]);
}

#[test]
fn a_blocking_run_that_never_returns_does_not_keep_the_process() {
    let mut child = Child::start("stuck", &[]);
    child.says("stuck: run");
    let start = Instant::now();
    child.signal("TERM");
    let ended = child.ends();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    ended.logs(&["WARN", "[stuck]", "does not return"]);
    ended.logs(&["ERROR", "ending the process"]);
}

#[test]
fn a_blocking_run_does_not_keep_the_process_after_a_shutdown_that_the_program_began() {
    let mut child = Child::start("stuck_by_itself", &[]);
    child.says("stuck: run");
    child.ends().logs(&["ERROR", "ending the process"]);
}

#[test]
fn a_blocking_run_does_not_end_the_process_while_another_registry_runs() {
    let mut child = Child::start("stuck_beside", &[]);
    child.says("stuck: run");
    let ended = child.ends();
    let expected = ["main: the other one still runs", "other: cleanup", "main: ended"];
    assert!(ended.said.ends_with(&expected.map(str::to_owned)), "{:?}", ended.said);
    ended.logs(&["ERROR", "ending the process"]);
}

#[test]
fn after_the_shutdown_of_one_registry_a_signal_shuts_down_the_next() {
    let mut child = Child::start("two", &[]);
    child.says("steady: end");
    child.signal("TERM");
    child.says("main: the second one");
    child.says("second: end");
    // Signals within 200 ms count as one.
    std::thread::sleep(Duration::from_millis(400));
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert!(ended.said.contains(&"second: cleanup".to_owned()), "{:?}", ended.said);
}

#[test]
fn a_signal_before_the_wait_for_the_shutdown_counts_as_the_first() {
    let mut child = Child::start("early_signal", &[]);
    child.says("main: started");
    child.signal("TERM");
    child.says("main: the services are over");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(143), "{}", ended.logged);
    ended.logs(&["second signal (SIGTERM)"]);
}

#[test]
fn a_signal_after_a_finished_shutdown_ends_the_process() {
    let mut child = Child::start("over", &[]);
    child.says("main: the services are over");
    child.signal("TERM");
    assert_eq!(child.ends().status.code(), Some(143));
}

#[test]
fn a_second_signal_ends_the_process_also_after_the_shutdown() {
    let mut child = Child::start("over_by_signal", &[]);
    child.says("steady: end");
    child.signal("TERM");
    child.says("main: the services are over");
    // Signals within 200 ms count as one.
    std::thread::sleep(Duration::from_millis(400));
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(143), "{}", ended.logged);
    ended.logs(&["second signal (SIGTERM)"]);
}

#[test]
#[cfg(feature = "admin")]
fn run_fails_if_its_start_fails() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Child::start("run", &[("ADMIN_ADDR", &address)]).ends();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.logged);
    ended.logs(&["Error: ", &address]);
}

#[test]
fn run_runs_one_service_until_a_signal() {
    let mut child = Child::start("run", &[]);
    child.says("single: run 1");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert_eq!(ended.said, ["single: run 1", "single: end", "single: cleanup"]);

    let ended = Child::start("run_stops", &[]).ends();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.logged);
    assert_eq!(ended.said, ["single: run 1", "single: end", "single: cleanup"]);

    let ended = Child::start("run_fails", &[]).ends();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.said, ["single: run 1", "single: cleanup"]);
    ended.logs(&["Error: service `loud` failed: nothing helps"]);
}

#[test]
fn run_reads_the_configuration_of_the_process() {
    let ended = Child::start("run_configures", &[("SERVICES__CONFIGURING__WORD", "hello")]).ends();
    assert_eq!((ended.status.code(), ended.said), (Some(0), vec!["configuring: hello".to_owned()]), "{}", ended.logged);
    let ended = Child::start("run_configures", &[("SERVICES__CONFIGURING__ENABLED", "false")]).ends();
    assert_eq!((ended.status.code(), ended.said.len()), (Some(0), 0));
    ended.logs(&["WARN", "[configuring]", "enabled = false"]);
    let ended = Child::start("run_configures", &[("SERVICES__CONFIGURING__INTERVAL", "soon")]).ends();
    assert_eq!((ended.status.code(), ended.said.len()), (Some(1), 0));
    ended.logs(&["interval", "soon"]);
}

#[test]
fn the_requester_id_may_come_from_the_environment() {
    let mut child = Child::start("requester", &[("SYSTEM_ID", "station 7")]);
    child.says("loud: acts as station 7");
    // An empty variable is none.
    let mut child = Child::start("requester", &[("SYSTEM_ID", "")]);
    child.says("loud: acts as system");
}

#[test]
fn services_that_the_linker_dropped_are_named_with_the_fix() {
    let ended = Child::of(&mut Command::new(env!("CARGO_BIN_EXE_broken"))).ends();
    assert_eq!((ended.status.code(), ended.said.len()), (Some(1), 0));
    ended.logs(&["broken.rs:5 expects", "not linked", ": dropped_by_the_linker;", "`use that_crate as _;`"]);
    ended.logs(&["two services have the id `twin`", "First", "broken.rs:13", "Second", "broken.rs:21"]);
    let ended = Child::of(Command::new(env!("CARGO_BIN_EXE_broken")).arg("dependent")).ends();
    ended.logs(&["expects"]);
}

#[test]
fn panic_abort_is_a_warning_at_the_start() {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::path::Path::new(env!("CARGO_BIN_EXE_aborting")).ancestors().nth(2).unwrap();
    let build = Command::new(env!("CARGO"))
        // Few dependencies, so that a first build is short.
        .args(["build", "--offline", "--package", "service-tests", "--no-default-features", "--bin", "aborting"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(manifest)
        .env("RUSTC_WORKSPACE_WRAPPER", manifest.join("support/panic_abort.sh"))
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let ended = Child::of(&mut Command::new(target.join("debug/aborting"))).ends();
    assert!(ended.status.success(), "{}", ended.logged);
    ended.logs(&["WARN", "built with panic = \"abort\"", "ends the whole process"]);
}

/// Every worker of the runtime is blocked by async code; the signals have a thread of their own.
#[test]
fn a_second_signal_ends_the_process_even_if_every_thread_of_its_runtime_is_blocked() {
    for (what, runs) in [("blocks_the_only_thread", 1), ("blocks_all_threads", 2)] {
        let mut child = Child::start(what, &[]);
        while child.said.iter().filter(|line| *line == "blocks: run").count() < runs {
            child.said.push(child.output.recv_timeout(CHILD_TIMEOUT).unwrap());
        }
        child.signal("INT");
        // Signals closer together count as one.
        std::thread::sleep(Duration::from_millis(400));
        child.signal("INT");
        assert_eq!(child.ends().status.code(), Some(130), "{what}");
    }
}

/// A runtime that is dropped waits for its blocked thread without a limit.
#[test]
fn an_async_run_that_blocks_its_thread_does_not_keep_the_process() {
    let mut child = Child::start("blocks_one_thread", &[]);
    child.says("blocks: run");
    child.signal("TERM");
    let ended = child.ends();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.logged);
    ended.logs(&["ERROR", "[one]", "did not stop in time"]);
    ended.logs(&["ERROR", "ending the process"]);
}

#[test]
fn a_second_signal_ends_the_process_even_if_the_log_cannot_be_written() {
    let mut child = Child::start("holds_log", &[]);
    child.says("holds_log: run");
    child.signal("TERM");
    // Signals within 200 ms count as one. On a busy machine the first one can be handled late.
    std::thread::sleep(Duration::from_secs(1));
    child.signal("TERM");
    assert_eq!(child.ends().status.code(), Some(143));
}

#[test]
fn without_a_subscriber_errors_and_warnings_go_to_standard_error() {
    let mut child = Child::start("mute", &[]);
    child.says("broken: cleanup");
    child.signal("TERM");
    let ended = child.ends();
    ended.logs(&["ERROR", "[broken]", "failed permanently (failure 1): nothing helps"]);
    ended.logs(&["ERROR", "no service runs any more"]);
    assert!(!ended.logged.contains("INFO"), "{}", ended.logged);
}
