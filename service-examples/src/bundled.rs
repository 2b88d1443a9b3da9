//! The files that come with the program; the importer puts them into the inbox when they were never imported.

/// 1,461 days observed at Seattle.
pub const OBSERVATIONS: &[u8] = include_bytes!("../data/seattle-weather.csv");
/// A few days of which many are wrong.
pub const HANDMADE: &[u8] = include_bytes!("../data/handmade-2016.csv");
/// Their names in the inbox.
pub const FILES: [(&str, &[u8]); 2] = [("seattle-weather.csv", OBSERVATIONS), ("handmade-2016.csv", HANDMADE)];
