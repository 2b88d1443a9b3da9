//! A station in its own folder, started as a user starts it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod smtp;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, Database, DatabaseConnection, QueryResult, Statement, TryGetable};

/// The folder. It is deleted when the test succeeds.
pub struct Station {
    pub folder: PathBuf,
    env: Vec<(String, String)>,
}

impl Station {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("station-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder, env: Vec::new() }
    }

    /// Sets a variable for every later start.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_string()));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        command.args(args).current_dir(&self.folder).stdin(Stdio::null()).env_remove("RUST_LOG");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SERVICES__") || name == "DATABASE_URL") {
            command.env_remove(name);
        }
        // Stations run at the same time.
        command.env("ADMIN_ADDR", "127.0.0.1:0").env_remove("ADMIN_TOKEN");
        command.envs(self.env.iter().cloned());
        command
    }

    /// Runs to the end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs `once`, which must succeed. Returns its output.
    pub fn once(&self) -> String {
        let output = self.run(&["once"]);
        let text = text(&output);
        assert!(output.status.success(), "{:?}\n{text}", output.status);
        text
    }

    /// Starts the station without waiting for its end; the output goes to `log` in the folder.
    pub fn spawn(&self) -> Running {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = self.command(&[]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Running { child }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits until the log has a text.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("`{text}` in the log"), || self.log().contains(text));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Names of the files in a folder, sorted.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Puts a file into the inbox as its writer should: complete, by a rename, and with an older time of change.
    pub fn put(&self, name: &str, content: &[u8]) {
        std::fs::create_dir_all(self.path("inbox")).unwrap();
        let part = self.path("inbox").join(format!("{name}.part"));
        std::fs::write(&part, content).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&part).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
        std::fs::rename(part, self.path("inbox").join(name)).unwrap();
    }

    /// Queries the station's database.
    pub fn query<T>(&self, sql: &str, read: impl Fn(&QueryResult) -> T) -> Vec<T> {
        block_on(async {
            let db = self.connect().await;
            let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
            let rows = rows.iter().map(read).collect();
            db.close().await.unwrap();
            rows
        })
    }

    /// Queries one value.
    pub fn value<T: TryGetable>(&self, sql: &str) -> T {
        self.query(sql, |row| row.try_get_by_index(0).unwrap()).pop().unwrap()
    }

    pub fn execute(&self, sql: &str) {
        block_on(async {
            let db = self.connect().await;
            db.execute_unprepared(sql).await.unwrap();
            db.close().await.unwrap();
        });
    }

    /// Every row that a second start must not change, as text.
    pub fn contents(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for (table, columns) in [
            ("imported_file", "id || hash || name || readings || known || rejected"),
            ("rejected_line", "file_id || ' ' || line || hex(content) || reason"),
            ("reading", "id || ' ' || file_id || ' ' || line || date || status || coalesce(error_message, '')"),
            ("daily", "date || ' ' || precipitation || ' ' || temp_mean || weather"),
            ("monthly", "month || ' ' || days || ' ' || rain_days || ' ' || precipitation || ' ' || wind_mean"),
            ("extreme", "id || kind || date || value || ' ' || digest_id"),
            ("delivery", "id || ' ' || digest_id || recipient || status"),
        ] {
            rows.extend(self.query(&format!("SELECT '{table} ' || {columns} FROM {table} ORDER BY 1"), |row| {
                row.try_get_by_index::<String>(0).unwrap()
            }));
        }
        rows
    }

    /// Compares every figure with those of an independent program.
    pub fn compare_figures(&self) {
        self.compare(
            "expected_monthly.csv",
            "SELECT month, CAST(days AS double precision), CAST(rain_days AS double precision), precipitation, \
             temp_max_mean, temp_min_mean, temp_highest, temp_lowest, wind_mean FROM monthly ORDER BY month",
            8,
        );
        self.compare(
            "expected_daily.csv",
            "SELECT CAST(date AS text), temp_mean, temp_range, precipitation, wind FROM daily ORDER BY date",
            4,
        );
    }

    /// Compares every row of a file of expected figures with the rows of a query, number by number.
    fn compare(&self, file: &str, sql: &str, columns: usize) {
        let expected = data(file);
        let expected: Vec<_> = expected.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()).collect();
        let found = self.query(sql, |row| {
            let numbers: Vec<f64> = (1..=columns).map(|column| row.try_get_by_index(column).unwrap()).collect();
            (row.try_get_by_index::<String>(0).unwrap(), numbers)
        });
        assert_eq!(found.len(), expected.len());
        for (expected, (key, numbers)) in expected.iter().zip(found) {
            assert_eq!(expected[0], key);
            for (expected, found) in expected[1..].iter().zip(numbers) {
                let expected: f64 = expected.parse().unwrap();
                assert!((expected - found).abs() < 1e-6, "{file}, {key}: {found}, expected {expected}");
            }
        }
    }

    async fn connect(&self) -> DatabaseConnection {
        let file = format!("sqlite://{}?mode=rw", self.path("station.db").display());
        let set = self.env.iter().find(|(name, _)| name == "DATABASE_URL").map(|(_, url)| url.clone());
        Database::connect(set.unwrap_or(file)).await.unwrap()
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the folder of the failed test is kept: {}", self.folder.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A running station. Killed when it is dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Kills it at once, as the system does when memory runs out.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, and gives its exit status.
    pub fn wait(mut self, at_most: Duration) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(started.elapsed() < at_most, "still running after {at_most:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Checks a condition of another process again and again, for a minute at most.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A file of the package's `data/`.
pub fn data(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
