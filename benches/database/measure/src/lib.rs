//! What every contender shares: its arguments, the count of rows done, the clock and the processor's time.
//!
//! A contender is a program: `contender URL WORKERS WAITING ROWS`. It fills a new database with `WAITING` rows, works
//! `ROWS` of them off, each with one insert into `effect`, and prints
//! `rows seconds own-CPU-seconds server-CPU-seconds`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Where the effects go; a row done twice is refused.
pub const EFFECT: &str = "CREATE TABLE effect (job BIGINT PRIMARY KEY)";
/// The one insert that every contender makes for a row, on PostgreSQL.
pub const INSERT: &str = "INSERT INTO effect (job) VALUES ($1)";

/// What the program is asked to do.
#[derive(Clone)]
pub struct Task {
    pub url: String,
    /// For rows that take their time: how many are processed at the same time.
    pub workers: usize,
    pub waiting: u64,
    pub rows: u64,
    /// How long each row takes, from `ITEM_MS`; usually nothing.
    pub item_time: Duration,
}

impl Task {
    pub fn from_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [url, workers, waiting, rows] = args.as_slice() else { panic!("usage: URL WORKERS WAITING ROWS") };
        let number = |text: &String| text.parse::<u64>().expect("a number");
        let workers = usize::try_from(number(workers)).expect("a few workers");
        let item_ms = std::env::var("ITEM_MS").map_or(0, |text| number(&text));
        let item_time = Duration::from_millis(item_ms);
        Self { url: url.clone(), workers, waiting: number(waiting), rows: number(rows), item_time }
    }

    /// The work of a row, except for its insert.
    pub async fn work(&self) {
        if !self.item_time.is_zero() {
            tokio::time::sleep(self.item_time).await;
        }
    }

    /// How many rows are fetched together: enough that the workers seldom wait for a fetch.
    pub fn batch(&self) -> usize {
        (self.workers * 64).max(100)
    }

    /// The size of a pool in which each worker has a connection.
    pub fn connections(&self) -> u32 {
        u32::try_from(self.workers + 2).expect("a few workers").max(10)
    }
}

/// How far the workers are. The clock starts when the first rows are done: connecting, preparing and a first look at
/// the tables are not measured.
pub struct Progress {
    done: AtomicU64,
    wanted: u64,
    reached: Notify,
    start: OnceLock<Start>,
}

struct Start {
    done: u64,
    at: Instant,
    own: f64,
    server: f64,
}

impl Progress {
    pub fn until(wanted: u64) -> Self {
        Self { done: AtomicU64::new(0), wanted, reached: Notify::new(), start: OnceLock::new() }
    }

    pub fn add(&self, rows: u64) {
        let before = self.done.fetch_add(rows, Ordering::SeqCst);
        self.start.get_or_init(|| Start {
            done: before + rows,
            own: own_seconds(),
            server: server_seconds(),
            at: Instant::now(),
        });
        if before < self.wanted && before + rows >= self.wanted {
            self.reached.notify_one();
        }
    }

    pub fn is_reached(&self) -> bool {
        self.done.load(Ordering::SeqCst) >= self.wanted
    }

    /// Waits for the last row, and prints what was measured.
    pub async fn report(&self) {
        self.reached.notified().await;
        let start = self.start.get().expect("a first row");
        let seconds = start.at.elapsed().as_secs_f64();
        let (own, server) = (own_seconds() - start.own, server_seconds() - start.server);
        println!("{} {seconds:.4} {own:.2} {server:.2}", self.done.load(Ordering::SeqCst) - start.done);
    }
}

/// The pause before each insert of [`Latencies`], so that the workers are idle.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a row waits, from its insert's commit to the start of its run, while all workers are idle.
pub struct Latencies(Vec<Mutex<Moments>>);

#[derive(Clone, Copy, Default)]
struct Moments {
    sent: Option<Instant>,
    committed: Option<Instant>,
    /// The run that gets the row begins.
    run: Option<Instant>,
    /// The code of the row begins.
    started: Option<Instant>,
}

impl Latencies {
    pub fn of(rows: u64) -> Self {
        Self((0..=rows).map(|_| Mutex::default()).collect())
    }

    /// A worker begins with this row.
    pub fn started(&self, row: i64) {
        self.started_in(row, Instant::now());
    }

    /// A worker begins with this row, in a run that began at `run`.
    pub fn started_in(&self, row: i64, run: Instant) {
        self.set(row, |moments| {
            moments.run.get_or_insert(run);
            moments.started.get_or_insert_with(Instant::now);
        });
    }

    /// Inserts the rows one by one, each in a transaction of its own, and waits for each to be started.
    pub async fn measure<E: std::fmt::Debug>(&self, insert: impl AsyncFn(i64) -> Result<(), E>) {
        for row in 1..self.0.len() as i64 {
            tokio::time::sleep(PAUSE).await;
            self.set(row, |moments| moments.sent = Some(Instant::now()));
            insert(row).await.expect("an insert");
            self.set(row, |moments| moments.committed = Some(Instant::now()));
            while self.moments(row).started.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Prints the latencies in milliseconds, each p50 and p99: from the commit to the run, from the commit to the code
    /// of the row, and from sending the insert to the code of the row.
    pub fn report(&self) {
        // The first rows open connections and prepare statements.
        let rows: Vec<Moments> = (11..self.0.len() as i64).map(|row| self.moments(row)).collect();
        let print = |from: fn(&Moments) -> Option<Instant>, to: fn(&Moments) -> Option<Instant>| {
            let millis = |row: &Moments| {
                let (from, started) = (from(row).expect("inserted"), to(row).expect("started"));
                // The worker may begin before the answer to the commit arrives.
                let before = from.saturating_duration_since(started).as_secs_f64();
                (started.saturating_duration_since(from).as_secs_f64() - before) * 1e3
            };
            let mut all: Vec<f64> = rows.iter().map(millis).collect();
            all.sort_by(f64::total_cmp);
            print!("{:.3} {:.3} ", all[all.len() / 2], all[all.len() * 99 / 100]);
        };
        print(|row| row.committed, |row| row.run);
        print(|row| row.committed, |row| row.started);
        print(|row| row.sent, |row| row.started);
        println!();
    }

    fn set(&self, row: i64, set: impl FnOnce(&mut Moments)) {
        set(&mut self.0[row as usize].lock().expect("no panic"));
    }

    fn moments(&self, row: i64) -> Moments {
        *self.0[row as usize].lock().expect("no panic")
    }
}

/// This process's time on a processor.
fn own_seconds() -> f64 {
    process_seconds("self")
}

/// A process's time on a processor.
pub fn process_seconds(process: &str) -> f64 {
    stat(process).map_or(0.0, |stat| stat.own)
}

/// The same of PostgreSQL's processes, whose first is `SERVER_PID`; what ended meanwhile is counted in it.
pub fn server_seconds() -> f64 {
    let Ok(server) = std::env::var("SERVER_PID") else { return 0.0 };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let stats = processes.filter_map(|process| stat(process.file_name().to_str()?));
    let family = stats.filter(|stat| stat.parent == server).map(|stat| stat.own);
    family.sum::<f64>() + stat(&server).map_or(0.0, |stat| stat.own + stat.children)
}

struct Stat {
    parent: String,
    own: f64,
    children: f64,
}

fn stat(process: &str) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before may have spaces in it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    Some(Stat { parent: (*fields.get(1)?).to_owned(), own: ticks(11) + ticks(12), children: ticks(13) + ticks(14) })
}
