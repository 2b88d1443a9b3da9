//! The weather station.
fn main() {}
