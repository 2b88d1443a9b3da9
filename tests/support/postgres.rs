//! A PostgreSQL server for the tests, in a temporary directory, reached through a socket there.
//!
//! The tricky part is its end. However the test process ends, even by a panic or SIGKILL, the pipe to a waiting shell
//! closes, and that shell stops the server and removes the directory. PostgreSQL does not run as root, so root starts
//! it as another user.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};

/// A running server. Stopped when dropped, or when the process ends.
pub(crate) struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    user: Option<&'static str>,
    options: &'static str,
    databases: AtomicU32,
    _watch: Child,
}

impl Postgres {
    /// Returns the server that the tests of one process share. `None` if `SKIP_POSTGRES=1` is set.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Starts a separate server, which a test may stop and start. `None` if `SKIP_POSTGRES=1` is set.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// The same with options of the server, `-c name=value`. The options in `POSTGRES_OPTIONS` apply to every server.
    pub(crate) fn start_with(options: &'static str) -> Option<Self> {
        if skipped() {
            return None;
        }
        let bin = find_bin().unwrap_or_else(|| {
            panic!(
                "PostgreSQL is not installed (no `initdb` on PATH or in /usr/lib/postgresql/*/bin): \
                 install it (Debian: apt-get install postgresql), or set SKIP_POSTGRES=1"
            )
        });
        let dir = tempfile::Builder::new().prefix("service-pg-").tempdir().expect("a temporary directory").keep();
        let user = as_user();
        if let Some(user) = user {
            run(Command::new("chown").arg(user).arg(&dir));
        }
        run(as_unprivileged(user, &bin.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=tester", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(dir.join("data")));
        let watch = as_unprivileged(user, Path::new("sh"))
            .arg("-c")
            .arg("cat >/dev/null; \"$1\"/pg_ctl -D \"$2\"/data stop -m immediate; rm -rf \"$2\"")
            .args([Path::new("sh"), &bin, &dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .expect("a shell");
        let server = Self { bin, dir, user, options, databases: AtomicU32::new(0), _watch: watch };
        server.up();
        server.check_options();
        Some(server)
    }

    /// Starts the stopped server.
    pub(crate) fn up(&self) {
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c max_connections=1000 {} {}",
            self.dir.display(),
            std::env::var("POSTGRES_OPTIONS").unwrap_or_default(),
            self.options
        );
        run(as_unprivileged(self.user, &self.bin.join("pg_ctl"))
            .args(["start", "-w", "-s", "-D"])
            .arg(self.dir.join("data"))
            .arg("-l")
            .arg(self.dir.join("log"))
            .arg("-o")
            .arg(options));
    }

    /// Makes sure that options in `POSTGRES_OPTIONS` have an effect: without the translations, a server that is told to
    /// speak German speaks English.
    fn check_options(&self) {
        let options = std::env::var("POSTGRES_OPTIONS").unwrap_or_default();
        let answer = |sql: &str| {
            let mut psql = Command::new(self.bin.join("psql"));
            psql.args(["-q", "-t", "-A", "-U", "tester", "-d", "postgres", "-c", sql, "-h"]).arg(&self.dir);
            let output = psql.env("LC_ALL", "C.UTF-8").output().expect("psql");
            let answer = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&answer).trim().to_owned()
        };
        if options.contains("lc_messages=de_DE") {
            let answer = answer("SELECT 1 / 0");
            assert!(answer.contains("Division durch Null"), "PostgreSQL's German messages are not installed: {answer}");
        }
        if options.contains("default_transaction_isolation=serializable") {
            assert_eq!(answer("SHOW transaction_isolation"), "serializable");
        }
    }

    /// Stops the server as a power failure does.
    pub(crate) fn down(&self) {
        run(as_unprivileged(self.user, &self.bin.join("pg_ctl"))
            .args(["stop", "-w", "-s", "-m", "immediate", "-D"])
            .arg(self.dir.join("data")));
    }

    /// Returns the socket of the server.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join(".s.PGSQL.5432")
    }

    /// Creates an empty database. Returns its URL.
    pub(crate) fn database(&self) -> String {
        let name = format!("db{}", self.databases.fetch_add(1, Ordering::Relaxed));
        run(Command::new(self.bin.join("psql"))
            .args(["-q", "-U", "tester", "-d", "postgres", "-c", &format!("CREATE DATABASE {name}"), "-h"])
            .arg(&self.dir));
        format!("postgres://tester@localhost/{name}?host={}", self.dir.display())
    }
}

/// Whether the tests that need a server are skipped, which is printed once.
fn skipped() -> bool {
    static PRINTED: Once = Once::new();
    let skipped = std::env::var_os("SKIP_POSTGRES").is_some_and(|value| value == "1");
    if skipped {
        // Not `eprintln!`, whose output the test harness captures.
        PRINTED.call_once(|| {
            let _ = std::io::stderr().write_all(b"SKIPPED: all cases on PostgreSQL, because SKIP_POSTGRES=1 is set\n");
        });
    }
    skipped
}

fn find_bin() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian installs each version in its own folder; the newest is used.
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path())
        .collect();
    versions.sort();
    places.extend(versions.into_iter().rev().map(|version| version.join("bin")));
    // `initdb` on PATH may be a link; the other programs are beside its target.
    let initdb = places.iter().map(|place| place.join("initdb")).find_map(|initdb| initdb.canonicalize().ok())?;
    Some(initdb.parent()?.to_owned())
}

/// Returns the user that runs the server, if this process is root.
fn as_user() -> Option<&'static str> {
    let id = Command::new("id").arg("-u").output().expect("id");
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return None;
    }
    ["postgres", "nobody"].into_iter().find(|user| {
        Command::new("id").arg(user).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    })
}

fn as_unprivileged(user: Option<&str>, program: &Path) -> Command {
    let Some(user) = user else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid"]).arg(group_of(user)).arg("--clear-groups").arg(program).current_dir("/");
    command
}

fn group_of(user: &str) -> String {
    let id = Command::new("id").args(["-g", user]).output().expect("id");
    String::from_utf8_lossy(&id.stdout).trim().to_owned()
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).status();
    let ok = output.as_ref().is_ok_and(std::process::ExitStatus::success);
    assert!(ok, "{command:?}: {output:?}");
}
