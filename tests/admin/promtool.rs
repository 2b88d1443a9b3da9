//! Runs `promtool`, which comes with Prometheus.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `promtool` in a directory, with this standard input. Returns what it printed, and whether it succeeded; `None`
/// if it is not installed.
pub(crate) fn promtool(directory: &Path, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let path = directory.join("standard-input");
    std::fs::write(&path, input).unwrap();
    let ran = Command::new("promtool")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::from(std::fs::File::open(&path).unwrap()))
        .output();
    let Ok(ran) = ran else {
        println!("SKIPPED: promtool is not installed (Debian: the package `prometheus`)");
        return None;
    };
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    Some((ran.status.success(), said))
}
