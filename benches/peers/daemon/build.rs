//! The peer's services are functions, found at link time: there is no way to make more of them while the program runs.
//! So this writes them: as many as the table needs.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let mut source = String::new();
    for count in [1, 100, 1_000] {
        writeln!(source, "pub mod of_{count} {{ use super::*;").unwrap();
        for index in 0..count {
            writeln!(
                source,
                "#[service(tags = [\"of_{count}\"])] pub async fn loop_{count}_{index}() -> anyhow::Result<()> {{ ticking({index}).await?; Ok(()) }}"
            )
            .unwrap();
        }
        source.push_str("}\n");
    }
    let directory = std::env::var("OUT_DIR").unwrap();
    std::fs::write(Path::new(&directory).join("services.rs"), source).unwrap();
    println!("cargo::rerun-if-changed=build.rs");
}
