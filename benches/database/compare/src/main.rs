//! `compare engines | peers | growth | slow | delays | latency | replicas`: runs the contenders in turn, a new database
//! and process for each run, and prints a table of medians. `RUNS` (7) and `ROWS` (50000) in the environment set how
//! many runs each has, of how many rows.

#[allow(dead_code, reason = "tests stop and start it too")]
#[path = "../../../../tests/support/postgres.rs"]
mod postgres;
mod proxy;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postgres::Postgres;

#[derive(Clone, Copy, PartialEq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// A program of this workspace, or of one beside it.
#[derive(Clone, Copy)]
struct Contender {
    name: &'static str,
    workspace: &'static str,
    program: &'static str,
}

const SERVICE: Contender = Contender { name: "service-core", workspace: "", program: "service" };
const CONCURRENT: Contender = Contender { name: "service-core", workspace: "", program: "concurrent" };
const ALONE: Contender = Contender { name: "service-core, insert by itself", workspace: "", program: "concurrent" };
const BY_HAND: Contender = Contender { name: "by hand, sqlx", workspace: "", program: "by_hand" };
const SIMPLE: Contender = Contender { name: "by hand, fewer guarantees", workspace: "", program: "by_hand" };
const LATENCY: [Contender; 2] = [
    Contender { name: "service-core", workspace: "", program: "latency" },
    Contender { name: "graphile_worker", workspace: "", program: "graphile-latency" },
];
const PEERS: [Contender; 3] = [
    Contender { name: "graphile_worker", workspace: "", program: "graphile" },
    Contender { name: "apalis-postgres", workspace: "", program: "apalis" },
    Contender { name: "underway", workspace: "underway", program: "underway-bench" },
];

/// One row of the table.
#[derive(Clone, Copy)]
struct Case {
    contender: Contender,
    engine: Engine,
    workers: u64,
    waiting: u64,
    rows: u64,
    /// How long each row takes, besides its insert.
    item_ms: u64,
    /// Half of the rows have a time, which has passed.
    half_dated: bool,
    /// The port of a proxy that delays what is sent, and by how many microseconds a round trip.
    proxy: Option<(u16, u64)>,
}

/// What one run took.
#[derive(Clone, Copy)]
struct Run {
    rows: f64,
    seconds: f64,
    own: f64,
    server: f64,
}

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    if what == "replicas" {
        return replicas();
    }
    let (runs, rows) = (setting("RUNS", 7), setting("ROWS", 50_000));
    let case = |contender, engine, workers| Case {
        contender,
        engine,
        workers,
        waiting: rows,
        rows,
        item_ms: 0,
        half_dated: false,
        proxy: None,
    };
    let server = Postgres::start().expect("PostgreSQL");
    // Each group is run in turn, and compared with its first.
    let groups: Vec<Vec<Case>> = match what.as_str() {
        "engines" => [Engine::Sqlite, Engine::Postgres]
            .into_iter()
            .flat_map(|engine| {
                // On SQLite, one condition for both kinds of rows reads the whole table.
                let contenders =
                    if engine == Engine::Sqlite { vec![BY_HAND, SERVICE] } else { vec![BY_HAND, SERVICE, SIMPLE] };
                [1, 4].map(|workers| contenders.iter().map(|it| case(*it, engine, workers)).collect())
            })
            .collect(),
        "peers" => [1, 4]
            .map(|workers| {
                let all = [BY_HAND, SERVICE].into_iter().chain(PEERS);
                all.map(|contender| case(contender, Engine::Postgres, workers)).collect()
            })
            .to_vec(),
        "growth" => [Engine::Sqlite, Engine::Postgres]
            .into_iter()
            .flat_map(|engine| {
                [SERVICE, BY_HAND].map(|contender| {
                    let sizes = [10_000, 100_000, 1_000_000];
                    sizes
                        .map(|waiting| Case { waiting, rows: 5_000, half_dated: true, ..case(contender, engine, 1) })
                        .to_vec()
                })
            })
            .collect(),
        // Four seconds each, if nothing but the rows themselves took time.
        "slow" => [1, 8, 64]
            .map(|workers| {
                [CONCURRENT, ALONE, PEERS[0], PEERS[1]]
                    .map(|contender| {
                        let rows = workers * 200;
                        Case { waiting: rows * 2, rows, item_ms: 20, ..case(contender, Engine::Postgres, workers) }
                    })
                    .to_vec()
            })
            .to_vec(),
        "delays" => [None, Some(500), Some(2_000)]
            .into_iter()
            .map(|delay| delay.map(|us| (proxy::start(server.socket(), Duration::from_micros(us)), us)))
            .flat_map(|proxy| {
                let with = move |contender, workers: u64| {
                    let rows = if proxy.is_some() { 500 + workers * 200 } else { 5_000 };
                    Case { proxy, waiting: rows * 2, rows, ..case(contender, Engine::Postgres, workers) }
                };
                let together = vec![with(BY_HAND, 1), with(SERVICE, 1)];
                let each = [1, 8, 64]
                    .map(|workers| [ALONE, CONCURRENT, PEERS[0], PEERS[1]].map(|it| with(it, workers)).to_vec());
                [together].into_iter().chain(each).collect::<Vec<_>>()
            })
            .collect(),
        "latency" => {
            [1, 8].map(|workers| LATENCY.map(|contender| case(contender, Engine::Postgres, workers)).to_vec()).to_vec()
        }
        _ => panic!("usage: compare engines | peers | growth | slow | delays | latency | replicas"),
    };
    build("", &["-p", "own"]);
    if ["peers", "slow", "delays"].contains(&what.as_str()) {
        // One by one: built together, they would share the features of what they depend on.
        build("", &["-p", "apalis-bench"]);
    }
    if ["peers", "slow", "delays", "latency"].contains(&what.as_str()) {
        build("", &["-p", "graphile-bench"]);
    }
    if what == "peers" {
        build("underway", &[]);
    }
    if what == "latency" {
        return latency(&groups, runs, &server);
    }
    println!(
        "| engine, round trip | workers | waiting | contender | rows/s (least–most) | ratio | CPU µs a row | of the server |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for group in groups {
        let mut taken: Vec<Vec<Run>> = vec![Vec::new(); group.len()];
        for round in 0..runs {
            // What a run leaves behind in the server meets each of them as often.
            let mut turn: Vec<usize> = (0..group.len()).collect();
            if round % 2 == 1 {
                turn.reverse();
            }
            for at in turn {
                taken[at].push(run(&group[at], &server));
            }
        }
        for (case, runs) in group.iter().zip(&taken) {
            print(case, runs, &taken[0]);
        }
    }
}

/// Lets `replicas` measure what services with `scope = "cluster"` cost.
fn replicas() {
    let server = Postgres::start_with("-c shared_preload_libraries=pg_stat_statements").expect("PostgreSQL");
    build("", &["-p", "own"]);
    let mut command = Command::new(workspace("").join("target/release/replicas"));
    command.arg(server.database()).env("SERVER_PID", server_pid(&server));
    assert!(command.status().expect("`replicas`, built").success());
}

/// Prints how long a row waits for its run: the medians of all runs' p50 and p99.
fn latency(groups: &[Vec<Case>], runs: u64, server: &Postgres) {
    println!(
        "| workers | contender | commit to run, p50 ms | p99 ms | commit to row, p50 ms | p99 ms | sending to row, p50 ms | p99 ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for group in groups {
        let mut taken = vec![Vec::new(); group.len()];
        for _ in 0..runs {
            for (case, taken) in group.iter().zip(&mut taken) {
                taken.push(numbers::<6>(case, server));
            }
        }
        for (case, taken) in group.iter().zip(&taken) {
            let column = |at: usize| median(taken.iter().map(|run| run[at]).collect());
            let columns: Vec<String> = (0..6).map(|at| format!("{:.2}", column(at))).collect();
            println!("| {} | {} | {} |", case.workers, case.contender.name, columns.join(" | "));
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn workspace(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn build(name: &str, options: &[&str]) {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--quiet"]).args(options).current_dir(workspace(name));
    assert!(cargo.status().expect("cargo").success(), "{cargo:?}");
}

fn run(case: &Case, server: &Postgres) -> Run {
    let [rows, seconds, own, server] = numbers::<4>(case, server);
    Run { rows, seconds, own, server }
}

/// Runs a contender, and returns the numbers that it prints.
fn numbers<const COUNT: usize>(case: &Case, server: &Postgres) -> [f64; COUNT] {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = match case.engine {
        Engine::Sqlite => format!("sqlite:{}?mode=rwc", dir.path().join("bench.db").display()),
        Engine::Postgres => match (server.database(), case.proxy) {
            (url, None) => url,
            (url, Some((port, _))) => {
                let (url, _socket) = url.split_once('?').expect("the directory of the socket");
                url.replace("localhost", &format!("127.0.0.1:{port}"))
            }
        },
    };
    let mut command =
        Command::new(workspace(case.contender.workspace).join("target/release").join(case.contender.program));
    command.arg(url).args([case.workers, case.waiting, case.rows].map(|number| number.to_string()));
    command.env("ITEM_MS", case.item_ms.to_string());
    if case.contender.name == ALONE.name {
        command.env("INSERT_ALONE", "1");
    }
    if case.contender.name == SIMPLE.name {
        command.env("FEWER_GUARANTEES", "1");
    }
    if case.half_dated {
        command.env("HALF_DATED", "1");
    }
    if case.engine == Engine::Postgres {
        command.env("SERVER_PID", server_pid(server));
    }
    let output = command.output().expect("the contender, built");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let numbers: Vec<f64> = text.split_whitespace().map(|text| text.parse().expect("a number")).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{command:?}: {text}"))
}

/// PostgreSQL's first process.
fn server_pid(server: &Postgres) -> String {
    let file = server.socket().with_file_name("data").join("postmaster.pid");
    let text = std::fs::read_to_string(file).expect("the server's process id");
    text.lines().next().unwrap_or_default().to_owned()
}

fn print(case: &Case, runs: &[Run], first: &[Run]) {
    let speed = |run: &Run| run.rows / run.seconds;
    let speeds: Vec<f64> = runs.iter().map(speed).collect();
    // Of runs that followed each other: the machine's mood is the same for both.
    let ratios = runs.iter().zip(first).map(|(run, first)| speed(run) / speed(first)).collect();
    let engine = match (case.engine, case.proxy) {
        (Engine::Sqlite, _) => "SQLite".to_owned(),
        (Engine::Postgres, None) => "PostgreSQL".to_owned(),
        (Engine::Postgres, Some((_, us))) => format!("PostgreSQL, {} ms", us as f64 / 1e3),
    };
    let least = speeds.iter().copied().fold(f64::INFINITY, f64::min);
    let most = speeds.iter().copied().fold(0.0, f64::max);
    println!(
        "| {engine} | {} | {} | {} | {:.0} ({least:.0}–{most:.0}) | {:.2} | {:.0} | {:.0} |",
        case.workers,
        case.waiting,
        case.contender.name,
        median(speeds),
        median(ratios),
        median(runs.iter().map(|run| run.own / run.rows * 1e6).collect()),
        median(runs.iter().map(|run| run.server / run.rows * 1e6).collect()),
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
