//! `compare [ROW…]` calls all contenders and prints one table; with words, only the rows whose titles contain one of
//! them.
//!
//! Each figure comes from a process of its own. A figure is missing where a contender has no such interval, cannot make
//! so many, or does not end within three minutes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

struct Contender {
    title: &'static str,
    /// Its package in this workspace, and program.
    package: &'static str,
    /// The library that it measures, for the number of crates.
    library: &'static str,
    /// Whether its time can be paused. Else instructions are counted over few real seconds.
    is_paused: bool,
}

const CONTENDERS: [Contender; 7] = [
    Contender { title: "loop", package: "bare", library: "tokio", is_paused: true },
    Contender { title: "careful loop", package: "careful", library: "careful", is_paused: true },
    Contender { title: "service-core", package: "ours", library: "service-core", is_paused: true },
    Contender { title: "task-supervisor", package: "supervisor", library: "task-supervisor", is_paused: true },
    Contender { title: "service-daemon", package: "daemon", library: "service-daemon", is_paused: true },
    Contender { title: "apalis-cron", package: "apalis", library: "apalis-cron", is_paused: false },
    Contender {
        title: "tokio-cron-scheduler",
        package: "scheduler",
        library: "tokio-cron-scheduler",
        is_paused: false,
    },
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let directory = std::env::current_exe().expect("this program").parent().expect("its directory").to_owned();
    let titles: Vec<_> = CONTENDERS.iter().map(|contender| contender.title).collect();
    println!("| | {} |\n|---|{}", titles.join(" | "), "---|".repeat(titles.len()));
    let row = |title: &str, figure: &dyn Fn(&Contender, &Path) -> Option<String>| {
        if wanted.is_empty() || wanted.iter().any(|word| title.contains(word)) {
            let cells = CONTENDERS.iter().map(|contender| figure(contender, &directory.join(contender.package)));
            let cells: Vec<_> = cells.map(|cell| cell.unwrap_or_else(|| "—".to_owned())).collect();
            println!("| {title} | {} |", cells.join(" | "));
        }
    };
    for record in [false, true] {
        for count in [1, 100] {
            let with = if record { ", recorded" } else { "" };
            row(&format!("instructions a run, {count} of them{with}"), &|contender, program| {
                instructions(contender, program, count, record).map(|figure| format!("{figure:.0}"))
            });
        }
    }
    for count in ["1000", "10000", "100000"] {
        row(&format!("heap, bytes each, {count} of them"), &|_, program| call(program, &["memory", count]));
    }
    row("processor time of 10000 that wait, ms a second", &|_, program| call(program, &["idle", "10000", "20"]));
    for count in ["10000", "100000"] {
        row(&format!("start and stop of {count}, ms"), &|_, program| median_of_starts(program, count));
    }
    for (title, arguments) in [
        ("one every 10 ms: late by ms (median, 99 %), lost %", ["late", "10", "1", "20"]),
        ("1000 due at once, every second: the same", ["late", "1000", "1000", "20"]),
    ] {
        row(title, &|_, program| call(program, &arguments));
    }
    row("program without symbols, KiB", &|_, program| size(program));
    row("crates", &|contender, _| crates(contender.library));
    row("clean build, s", &|contender, _| clean_build(contender.package));
}

/// Calls a contender, and returns what it prints.
fn call(program: &Path, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("timeout").arg("180").arg(program).args(arguments).output().expect("`timeout` is installed");
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !printed.is_empty()).then_some(printed)
}

fn median_of_starts(program: &Path, count: &str) -> Option<String> {
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); 2];
    for _ in 0..3 {
        let printed = call(program, &["start", count])?;
        for (times, word) in times.iter_mut().zip(printed.split(' ')) {
            times.push(word.parse().ok()?);
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    Some(format!("{:.0}, {:.0}", times[0][1], times[1][1]))
}

/// Instructions a run: the difference between many runs and few, so that the start is not counted.
fn instructions(contender: &Contender, program: &Path, count: u64, record: bool) -> Option<f64> {
    let (few, many) = if contender.is_paused { (500, 1_500) } else { (10, 40) };
    let total = |seconds: u64| {
        let mut valgrind = Command::new("timeout");
        valgrind.args(["180", "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
        valgrind.args(["run", &count.to_string(), &seconds.to_string()]);
        if record {
            valgrind.env("RECORD", "1");
        }
        let output = valgrind.output().expect("valgrind is installed");
        let report = String::from_utf8_lossy(&output.stderr);
        let (_, collected) = report.lines().find_map(|line| line.split_once("Collected :"))?;
        let runs = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().ok()?;
        Some((collected.trim().parse::<f64>().ok()?, runs))
    };
    let ((few, few_runs), (many, many_runs)) = (total(few)?, total(many)?);
    Some((many - few) / (many_runs - few_runs))
}

fn size(program: &Path) -> Option<String> {
    let stripped = PathBuf::from(format!("{}.stripped", program.display()));
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(program).status().ok()?;
    let bytes = std::fs::metadata(&stripped).ok()?.len();
    std::fs::remove_file(&stripped).ok()?;
    status.success().then(|| (bytes / 1024).to_string())
}

/// The time that a release build of the contender takes with nothing built before.
fn clean_build(package: &str) -> Option<String> {
    let target = std::env::temp_dir().join(format!("clean-build-of-{package}"));
    // What an interrupted build left behind.
    let _ = std::fs::remove_dir_all(&target);
    let mut cargo = Command::new("cargo");
    let package = format!("{package}@0.0.0");
    cargo.args(["build", "--release", "--locked", "--quiet", "--package", &package, "--target-dir"]).arg(&target);
    let begun = Instant::now();
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().ok()?;
    let taken = begun.elapsed();
    std::fs::remove_dir_all(&target).ok()?;
    status.success().then(|| format!("{:.0}", taken.as_secs_f64()))
}

fn crates(library: &str) -> Option<String> {
    let mut tree = Command::new("cargo");
    tree.args(["tree", "--edges", "normal", "--prefix", "none", "--package", library])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tree.output().ok()?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let mut crates: Vec<&str> = lines.lines().filter_map(|line| line.split(' ').next()).collect();
    crates.retain(|name| !["", "yardstick", "malloc-info", "tracing-subscriber"].contains(name));
    crates.sort_unstable();
    crates.dedup();
    (!crates.is_empty()).then(|| crates.len().to_string())
}
