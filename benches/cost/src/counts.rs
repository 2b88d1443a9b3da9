//! The instructions of a run, compared with those that are written down in `counts.txt`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// How much more than written down is accepted.
const GROWTH: f64 = 0.03;
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.txt");
const HEAD: &str = "\
# Instructions a run, by callgrind: what is counted, how many of them wait at the same time, instructions.
# `cost counts` fails if one has grown by more than 3 %; `cost counts --update` writes the present ones.
";

/// Compares the counts with the file, or writes the file. Returns whether none has grown.
pub fn compare(update: bool) -> bool {
    let this = std::env::current_exe().expect("the path of this program");
    let counted = |what: &str, count: u64| instructions(Path::new(&this), what, count).round();
    if update {
        let mut text = HEAD.to_owned();
        for count in [1, 100] {
            writeln!(text, "service {count} {}", counted("service", count)).expect("text");
        }
        std::fs::write(FILE, text).expect("the file can be written");
        return true;
    }
    let text = std::fs::read_to_string(FILE).expect("the file");
    let mut is_well = true;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [what, count, before] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{FILE}: {line}") };
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{FILE}: {line}"));
        let (count, before) = (number(count), number(before) as f64);
        let now = counted(what, count);
        let growth = now / before - 1.0;
        println!("{what}, {count} of them: {now} instructions a run, {before} in the file ({:+.1} %)", growth * 100.0);
        is_well &= growth <= GROWTH;
    }
    if !is_well {
        eprintln!("a run needs more instructions than {FILE} says; if that is wanted: `cost counts --update`");
    }
    is_well
}

/// Instructions a run: the difference between many runs and few, so that the start is not counted.
fn instructions(program: &Path, what: &str, count: u64) -> f64 {
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
