//! Reads the paths of a crate's sources and checks that they follow its layers:
//!
//! - a module uses its own layer and the layers below it, never a layer above it;
//! - `lib.rs` re-exports and nothing else, where the crate's kind allows it;
//! - no files use each other in a circle;
//! - outside the folder of a feature, `cfg(feature = "…")` stands on `mod` and `use` lines only.
//!
//! `cargo run -p layers` checks both published crates, of this workspace or of the one in the given directory. With
//! `-- --print` it also prints which modules use which. Test code, comments and strings are not read.
//!
//! There is an arrow from one file to another if a path in the code leads, directly or through re-exports, to an item
//! of the other file. It is no arrow if a file declares a module, imports a whole module, or re-exports an item of a
//! child module. So a parent module may use its children, or they may use it, but not both.

mod check;
mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use check::{Layers, Report};
use source::Sources;

/// The layer of each top-level module. A module may use the modules of its own line and of the lines above.
const CRATES: [Layers; 2] = [
    Layers {
        name: "service-core",
        modules: &[
            &["humanize", "log", "panic", "race", "rfc3339", "suggest", "sync"],
            &["service", "schedule", "config"],
            &["runtime"],
            &["observe"],
            &["registry"],
            &["database", "cluster", "admin", "cli", "metrics", "testing"],
        ],
        // Every other feature has a folder with the same name.
        features: &[("cron", "schedule"), ("postgres", "database"), ("sqlite", "database"), ("tls", "database")],
        root_only_reexports: true,
    },
    Layers {
        name: "service-macros",
        modules: &[&["diagnostics", "spelling"], &["parse"], &["model"], &["validate"], &["expand"], &["work_item"]],
        features: &[("cron", "parse")],
        // The functions of a macro crate have to be at its root.
        root_only_reexports: false,
    },
];

fn main() -> ExitCode {
    let (mut print, mut workspace) = (false, Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--print" => print = true,
            directory => workspace = PathBuf::from(directory),
        }
    }
    let mut violations = 0;
    for layers in CRATES {
        let sources = match Sources::read(&workspace.join(layers.name).join("src")) {
            Ok(sources) => sources,
            Err(error) => {
                eprintln!("{}: {error}", layers.name);
                return ExitCode::FAILURE;
            }
        };
        let report = Report::new(&layers, &sources);
        if print {
            println!("{report}");
        }
        for violation in &report.violations {
            eprintln!("{}: {violation}", layers.name);
        }
        println!("{}: {} files, {} arrows between files", layers.name, sources.files.len(), report.arrows.len());
        violations += report.violations.len();
    }
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!("{violations} violation(s) of the layers");
        ExitCode::FAILURE
    }
}
