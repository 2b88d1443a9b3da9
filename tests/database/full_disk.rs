//! A disk becomes full while services commit, and later has space again: nothing is lost, and the services continue.
//!
//! A worker runs in a small file system of its own, and prints what another connection sees. (`max_page_count` could
//! not replace it: it makes a statement fail, while on a full disk the commit fails.)

use std::collections::HashMap;
use std::process::{Command, Stdio};

/// The number of rows, as in the worker.
const ROWS: i64 = 120;

/// Runs a worker in a small file system of its own. If this system does not allow to mount one, prints that and returns
/// `None`.
fn worker(mode: &str, pool: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let mounted = |then: &str| {
        let mut command = Command::new("unshare");
        let script = format!("mount -t tmpfs -o size=16m tmpfs \"$1\" && {then}");
        command.args(["-rm", "sh", "-c", &script, "sh"]).arg(dir.path()).stdin(Stdio::null());
        command
    };
    if !mounted("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: no file system can be mounted here (unshare -rm, mount -t tmpfs)\n",
        );
        return None;
    }
    let worker = env!("CARGO_BIN_EXE_database-worker");
    let output = mounted("exec \"$2\" \"$1\" \"$3\" \"$4\"").arg(worker).args([mode, pool]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    Some(printed)
}

fn nothing_is_lost(mode: &str, pool: &str) {
    let Some(printed) = worker(mode, pool) else { return };
    let (then, at_the_end) = printed.split_once("-- after the end").unwrap();
    let values = |text: &str| -> HashMap<String, String> {
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    let rows = ROWS.to_string();
    for text in [then, at_the_end] {
        let found = values(text);
        let counts = ["completed", "effects", "distinct", "failed"].map(|name| found[name].as_str());
        assert_eq!(counts, [&rows, &rows, &rows, "0"], "{mode} {pool}: {printed}");
    }
    let found = values(then);
    assert_eq!(found["state"], "Running", "{mode} {pool}: {printed}");
    assert!(found["errors"].parse::<u64>().unwrap() > 0, "the disk was never full: {printed}");
    assert_eq!(found["shutdown"], "well");
}

#[test]
fn a_claim_loses_nothing_when_its_commit_finds_a_full_disk() {
    nothing_is_lost("claim", "url");
}

#[test]
fn a_claim_in_the_applications_own_pool_loses_nothing_on_a_full_disk() {
    nothing_is_lost("claim", "three");
    nothing_is_lost("claim", "one");
}

#[test]
fn items_that_commit_one_by_one_lose_nothing_on_a_full_disk() {
    nothing_is_lost("claim_each", "url");
    nothing_is_lost("claim_each", "three");
}

#[test]
fn a_service_with_its_own_savepoints_loses_nothing_on_a_full_disk() {
    nothing_is_lost("own", "url");
    nothing_is_lost("own", "one");
}
