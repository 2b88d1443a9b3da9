//! The weather station.

#![allow(unreachable_pub, dead_code, reason = "a program has no outside: `pub` means for its other modules")]

mod args;
mod bundled;
mod figures;
mod import;
mod inbox;
mod line;
mod logging;
mod mail;
mod tables;

fn main() {}
