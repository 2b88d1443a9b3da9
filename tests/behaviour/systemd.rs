//! What systemd receives of a process: real messages on a real socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::processes::{Child, config_file};

/// How long a message may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The socket of systemd.
struct Systemd {
    socket: UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    name: String,
    _folder: Option<tempfile::TempDir>,
}

impl Systemd {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, name: path.display().to_string(), _folder: Some(folder) }
    }

    fn with_an_abstract_address() -> Self {
        let name = format!("service-core-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self { socket: UnixDatagram::bind_addr(&address).unwrap(), name: format!("@{name}"), _folder: None }
    }

    fn start(&self, what: &str, environment: &[(&str, &str)]) -> Child {
        let mut environment = environment.to_vec();
        environment.push(("NOTIFY_SOCKET", &self.name));
        Child::start(what, &environment)
    }

    /// Returns the next message, if one arrives in time.
    fn next(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within.max(Duration::from_millis(1)))).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    /// Waits for a message that begins with this text. Returns the messages up to and including it.
    #[track_caller]
    fn until(&self, start: &str) -> Vec<String> {
        let (begun, mut messages) = (Instant::now(), Vec::new());
        while let Some(message) = self.next(PATIENCE.saturating_sub(begun.elapsed())) {
            let found = message.starts_with(start);
            messages.push(message);
            if found {
                return messages;
            }
        }
        panic!("no message begins with {start:?}: {messages:?}");
    }
}

#[test]
fn systemd_learns_when_the_services_are_ready_and_when_they_stop() {
    for systemd in [Systemd::new(), Systemd::with_an_abstract_address()] {
        let mut child = systemd.start("drain", &[]);
        let before = systemd.until("READY=1\n");
        assert!(
            before[..before.len() - 1].iter().all(|message| message == "STATUS=starting 2 services\n"),
            "{before:?}"
        );
        let status = systemd.until("STATUS=2 services: 2 healthy\n");
        assert!(!status.contains(&"STOPPING=1\n".to_owned()), "{status:?}");
        child.says("worker: run 1");
        child.signal("TERM");
        let stopping = systemd.until("STOPPING=1\n");
        assert_eq!(stopping.len(), 1, "{stopping:?}");
        assert!(child.ends().status.success());
    }
}

#[test]
fn the_status_line_says_what_a_stop_waits_for() {
    let systemd = Systemd::new();
    let mut child = systemd.start("hang", &[]);
    child.says("hanging: run 1");
    systemd.until("READY=1\n");
    child.signal("TERM");
    systemd.until("STATUS=stopping, 1 of 1 service still running: hanging\n");
    drop(child);

    // One service, without a registry of the program's own.
    let _child = systemd.start("run", &[]);
    systemd.until("READY=1\n");
}

#[test]
fn the_status_line_follows_the_health_of_the_services() {
    let systemd = Systemd::new();
    let mut child = systemd.start("failed", &[]);
    child.says("broken: cleanup");
    systemd.until("STATUS=2 services: 1 healthy, 1 unhealthy: broken failed\n");
    assert_eq!(systemd.next(Duration::from_millis(1500)), None, "the status has not changed");
    child.signal("TERM");
    systemd.until("STOPPING=1\n");
}

#[test]
fn a_reload_is_announced_with_its_time_and_ends_with_ready_even_if_it_fails() {
    let (_folder, file) = config_file("[sized]\nsize = 1");
    let systemd = Systemd::new();
    let mut child = systemd.start("sized", &[("SERVICES_CONFIG", &file)]);
    systemd.until("READY=1\n");
    for (text, says) in [("[sized]\nsize = 2", Some("sized: runs with 2")), ("[sized\n", None)] {
        std::fs::write(&file, text).unwrap();
        child.signal("HUP");
        let reloading = systemd.until("RELOADING=1\n");
        let time = reloading.last().unwrap().strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.trim_end().parse::<u64>().is_ok_and(|time| time > 0), "{time:?}");
        systemd.until("READY=1\n");
        if let Some(says) = says {
            child.says(says);
        }
    }
}

#[test]
fn the_watchdog_is_fed_until_the_runtime_is_blocked() {
    let watchdog = [("WATCHDOG_USEC", "300000")];
    let systemd = Systemd::new();
    let child = systemd.start("drain", &watchdog);
    for _ in 0..4 {
        systemd.until("WATCHDOG=1\n");
    }
    drop(child);

    let systemd = Systemd::new();
    let mut child = systemd.start("blocks_the_only_thread", &watchdog);
    child.says("blocks: run");
    while systemd.next(Duration::ZERO).is_some() {}
    assert_eq!(systemd.next(Duration::from_secs(1)), None, "the runtime is blocked");

    let systemd = Systemd::new();
    let _child = systemd.start("drain", &[("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", "1")]);
    systemd.until("READY=1\n");
    systemd.until("STATUS=2 services: 2 healthy\n");
    assert_eq!(systemd.next(Duration::from_secs(1)), None, "the watchdog is that of another process");
}

/// Its end is not the end of the program.
#[test]
fn systemd_learns_nothing_of_a_service_that_is_a_task_of_the_program() {
    let systemd = Systemd::new();
    let mut child = systemd.start("run_until", &[]);
    child.says("main: the task is over");
    assert_eq!(systemd.next(Duration::from_millis(1)), None);
    child.signal("KILL");
    child.ends();
}

#[test]
fn systemd_learns_of_the_stop_also_if_a_task_of_the_program_goes_on() {
    let systemd = Systemd::new();
    let mut child = systemd.start("beside_task", &[]);
    child.says("main: both run");
    child.signal("TERM");
    systemd.until("STOPPING=1");
    assert_eq!(child.ends().status.code(), Some(0));
}

#[test]
fn a_socket_that_is_gone_does_no_harm() {
    let mut child = Child::start("drain", &[("NOTIFY_SOCKET", "/nowhere/notify")]);
    child.says("worker: run 1");
    child.signal("TERM");
    let ended = child.ends();
    assert!(ended.status.success());
    assert_eq!(ended.logged.matches("systemd was not notified").count(), 1, "{}", ended.logged);
}
