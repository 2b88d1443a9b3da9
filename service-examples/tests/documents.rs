//! Checks of the documents that the compiler cannot do: complete lists, links, and the tests that the guarantees name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words in backticks in the first cell of each row of the tables below a heading.
fn first_cells(text: &str, heading: &str) -> BTreeSet<String> {
    let (_, below) = text.split_once(&format!("\n{heading}\n")).unwrap();
    let section = below.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| row.split('|').nth(1)).flat_map(backticked).collect()
}

fn backticked(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let page = read("docs/guarantees.md");
    let is_test = |word: &String| word.contains("::") && word.starts_with(char::is_lowercase) && !word.contains(" ");
    let named: Vec<String> = backticked(&page).into_iter().filter(is_test).collect();
    assert!(named.len() > 30, "the page no longer names tests in the form that this test reads");
    for test in named {
        let mut path: Vec<&str> = test.split("::").collect();
        let name = path.pop().unwrap();
        let file = match path.as_slice() {
            ["station"] => "service-examples/tests/station.rs".to_owned(),
            ["config", module] => format!("service-core/src/config/tests/{module}.rs"),
            [suite] => format!("tests/{suite}/main.rs"),
            [suite, module] => format!("tests/{suite}/{module}.rs"),
            [suite, folder, module] => format!("tests/{suite}/{folder}/{module}.rs"),
            _ => panic!("`{test}` is not the path of a test"),
        };
        // A module with parts of its own is a folder.
        let folder = file.replace(".rs", "/mod.rs");
        let file = if root().join(&folder).exists() { folder } else { file };
        assert!(read(&file).contains(&format!("fn {name}(")), "{file} has no test `{name}`");
    }
}

#[test]
fn every_example_is_listed_and_run() {
    let listed = first_cells(&read("service-examples/README.md"), "## Small examples");
    let there: BTreeSet<String> = std::fs::read_dir(root().join("service-examples/examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, there);
    let tests = read("service-examples/tests/examples.rs");
    for name in there {
        assert!(tests.contains(&format!("fn {name}()")), "no test runs {name}");
    }
}

#[test]
fn every_page_is_compiled() {
    let listed = read("service-examples/src/pages.rs") + &read("service-core/src/config/mod.rs");
    for path in pages(&root().join("docs")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || listed.contains(&format!("/docs/{name}\"")), "add {name} to src/pages.rs");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut documents = pages(&root().join("docs"));
    let more = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "service-examples/README.md"];
    documents.extend(more.iter().map(|name| root().join(name)));
    for path in documents {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.starts_with("https://") || target.is_empty() {
                continue;
            }
            assert!(path.parent().unwrap().join(target).exists(), "{}: {link} leads nowhere", path.display());
        }
    }
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // A folder has the pictures.
    files.retain(|path| path.is_file());
    files.sort();
    files
}
