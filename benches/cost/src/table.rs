//! The table of all figures. Each figure comes from a process of its own, so that none affects another.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The hand-written loop, or the service of one build of this program.
struct Column {
    title: String,
    program: PathBuf,
    what: &'static str,
}

/// Prints the table. `builds` are further builds of this program, of other versions of the crate: each gets a column.
pub fn print(builds: &[&str]) {
    let this = std::env::current_exe().expect("the path of this program");
    let column =
        |title: &str, program: &Path, what| Column { title: title.to_owned(), program: program.to_owned(), what };
    let mut columns = vec![column("hand-written loop", &this, "loop"), column("service", &this, "service")];
    columns.extend(builds.iter().map(|build| column(build, Path::new(build), "service")));
    let titles: Vec<_> = columns.iter().map(|column| column.title.as_str()).collect();
    println!("| | {} |\n|---|{}", titles.join(" | "), "---|".repeat(columns.len()));
    for count in [1, 100] {
        row(
            &format!("instructions a run, {count} of them"),
            columns.iter().map(|column| column.instructions(count)),
            0,
        );
    }
    for count in [1_000, 10_000, 100_000] {
        row(&format!("heap, bytes each, {count} of them"), columns.iter().map(|column| column.heap(count)), 0);
    }
    for count in [10_000, 100_000] {
        // In turn, so that a busy moment of the machine affects every column.
        let mut times: Vec<(Vec<f64>, Vec<f64>)> = columns.iter().map(|_| Default::default()).collect();
        for _ in 0..5 {
            for (column, (starts, stops)) in columns.iter().zip(&mut times) {
                let (start, stop) = column.start_and_stop(count);
                starts.push(start);
                stops.push(stop);
            }
        }
        row(&format!("start of {count}, ms"), times.iter().map(|(starts, _)| median(starts)), 1);
        row(&format!("stop of {count}, ms"), times.iter().map(|(_, stops)| median(stops)), 1);
    }
}

/// Prints a row: each figure, and its ratio to the first.
fn row(title: &str, figures: impl Iterator<Item = f64>, digits: usize) {
    let figures: Vec<f64> = figures.collect();
    let cells: Vec<String> = figures
        .iter()
        .enumerate()
        .map(|(n, figure)| match n {
            0 => format!("{figure:.digits$}"),
            _ => format!("{figure:.digits$} ({:.2})", figure / figures[0]),
        })
        .collect();
    println!("| {title} | {} |", cells.join(" | "));
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Column {
    fn instructions(&self, count: u64) -> f64 {
        instructions(&self.program, self.what, count)
    }

    fn heap(&self, count: u64) -> f64 {
        self.measure("memory", count)[0]
    }

    /// How long the start and the stop take, in milliseconds.
    fn start_and_stop(&self, count: u64) -> (f64, f64) {
        let times = self.measure("start", count);
        (times[0], times[1])
    }

    fn measure(&self, figure: &str, count: u64) -> Vec<f64> {
        let mut program = Command::new(&self.program);
        let output = program.args([figure, self.what, &count.to_string()]).output().expect("the program starts");
        let printed = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(!numbers.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        numbers
    }
}

/// Instructions a run: the difference between many runs and few, so that the start is not counted.
pub fn instructions(program: &Path, what: &str, count: u64) -> f64 {
    let (few, many) = (500, 1_500);
    let total = |runs: u64| {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.arg(program).args(["run", what, &count.to_string(), &runs.to_string()]);
        let output = valgrind.output().expect("valgrind is installed");
        let report = String::from_utf8_lossy(&output.stderr);
        let collected = report.lines().find_map(|line| line.split_once("Collected :"));
        let (_, collected) = collected.unwrap_or_else(|| panic!("callgrind counts:\n{report}"));
        collected.trim().parse::<f64>().expect("a number of instructions")
    };
    (total(many) - total(few)) / ((many - few) * count) as f64
}
