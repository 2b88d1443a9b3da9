//! The files that are part of the program. The importer puts them into the inbox if they were never imported.

/// Observations of 1,461 days at Seattle.
pub const OBSERVATIONS: &[u8] = include_bytes!("../data/seattle-weather.csv");
/// A few days, many of them with mistakes.
pub const HANDMADE: &[u8] = include_bytes!("../data/handmade-2016.csv");
/// The names of the files in the inbox, in the order in which they are imported: a few lines of the second contradict
/// the first.
pub const FILES: [(&str, &[u8]); 2] = [("seattle-weather.csv", OBSERVATIONS), ("handmade-2016.csv", HANDMADE)];
