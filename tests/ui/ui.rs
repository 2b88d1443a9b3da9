//! The messages of the attribute: each file in `fail` is one rule, with the compiler's output beside it.
//!
//! `TRYBUILD=overwrite cargo test -p service-ui-tests --test ui` writes the output again; read the changes before you commit
//! them.

use std::path::{Path, PathBuf};
use std::{fs, io};

#[test]
fn ui() {
    trybuild::TestCases::new().compile_fail("fail/*.rs");
}

/// Cases to which the compiler adds a message of its own.
const EXCEPTIONS: [&str; 2] = ["foreign_type.stderr", "two_impls.stderr"];

fn files(directory: &str, extension: &str) -> io::Result<Vec<PathBuf>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let paths =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect())
}

#[test]
fn no_message_points_into_generated_code() -> io::Result<()> {
    let messages = files("fail", "stderr")?;
    assert!(messages.len() >= 50, "{} messages", messages.len());
    for path in messages {
        if EXCEPTIONS.iter().any(|exception| path.ends_with(exception)) {
            continue;
        }
        let message = fs::read_to_string(&path)?;
        for sign in
            ["this error originates in", "this warning originates in", "#[service]\n   | ^", ")]\n   | ^^^^^^^^^^"]
        {
            assert!(!message.contains(sign), "{} has {sign:?}", path.display());
        }
    }
    Ok(())
}

#[test]
fn every_rule_has_an_expected_message() -> io::Result<()> {
    for path in files("fail", "rs")? {
        assert!(path.with_extension("stderr").exists(), "{}", path.display());
    }
    assert!(files("tests", "rs")?.len() >= 16);
    Ok(())
}
