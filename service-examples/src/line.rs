//! One line of a CSV file: an observation, or the reason why it is rejected.
//!
//! Lines are bytes, because a broken file may not be UTF-8.

use std::fmt;

use chrono::NaiveDate;

/// The columns, in the required order.
pub const HEADER: &str = "date,precipitation,temp_max,temp_min,wind,weather";
const COLUMNS: [&str; 6] = ["date", "precipitation", "temp_max", "temp_min", "wind", "weather"];
const WEATHERS: [&str; 5] = ["drizzle", "fog", "rain", "snow", "sun"];

/// The observation of one day.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub date: NaiveDate,
    /// mm
    pub precipitation: f64,
    /// °C
    pub temp_max: f64,
    /// °C
    pub temp_min: f64,
    /// m/s
    pub wind: f64,
    pub weather: String,
}

/// Checks the first line of a file. A byte order mark and Windows line ends are accepted.
pub fn check_header(line: &[u8]) -> Result<(), String> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
    if line == HEADER.as_bytes() {
        return Ok(());
    }
    Err(format!("the first line is `{}`, expected `{HEADER}`", shown(line)))
}

impl Observation {
    /// Reads one line, without its line end.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text =
            std::str::from_utf8(line).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to() + 1))?;
        if text.trim().is_empty() {
            return Err("the line is empty".into());
        }
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let &[date, precipitation, temp_max, temp_min, wind, weather] = fields.as_slice() else {
            return Err(format!("{} columns, expected {}: {HEADER}", fields.len(), COLUMNS.len()));
        };
        if !WEATHERS.contains(&weather) {
            return Err(format!("weather `{weather}`, expected one of {}", WEATHERS.join(", ")));
        }
        Ok(Self {
            date: parse_date(date)?,
            precipitation: number("precipitation", precipitation)?,
            temp_max: number("temp_max", temp_max)?,
            temp_min: number("temp_min", temp_min)?,
            wind: number("wind", wind)?,
            weather: weather.to_owned(),
        })
    }
}

fn parse_date(text: &str) -> Result<NaiveDate, String> {
    let digits = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
    let form = text.split('/').collect::<Vec<_>>();
    if !matches!(form.as_slice(), [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2)) {
        return Err(format!("date `{text}`, expected the form 2012/01/31"));
    }
    NaiveDate::parse_from_str(text, "%Y/%m/%d").map_err(|_| format!("date `{text}`: there is no such day"))
}

fn number(column: &str, text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // `nan` and `inf` are numbers to Rust.
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{column} `{text}`, expected a number")),
    }
}

/// Formats a line for a terminal: without control characters, and shortened.
pub fn shown(line: &[u8]) -> impl fmt::Display {
    let text = String::from_utf8_lossy(line);
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_line_is_an_observation() {
        let read = Observation::parse(b"2012/01/02,10.9,10.6,2.8,4.5,rain\r").unwrap();
        assert_eq!(read.date, NaiveDate::from_ymd_opt(2012, 1, 2).unwrap());
        assert_eq!((read.precipitation, read.temp_max, read.temp_min, read.wind), (10.9, 10.6, 2.8, 4.5));
        assert_eq!(read.weather, "rain");
    }

    #[test]
    fn the_error_for_a_bad_line_says_what_is_wrong() {
        for (line, reason) in [
            (&b"2016/01/03,1.0,6.7,2.2,rain"[..], "5 columns, expected 6"),
            (b"2016/01/04,0.0,9.4,warm,1.9,fog", "temp_min `warm`, expected a number"),
            (b"2016/02/30,2.5,8.9,4.4,3.1,rain", "date `2016/02/30`: there is no such day"),
            (b"16/2/3,2.5,8.9,4.4,3.1,rain", "date `16/2/3`, expected the form 2012/01/31"),
            (b"", "the line is empty"),
            (b" \r", "the line is empty"),
            (b"2016/01/06,1.4,9.4,5.0,4.9,r\xff\xfein", "not UTF-8 at byte 29"),
            (b"2016/01/07,4.1,8.9,4.4,3.3,rain,;", "7 columns, expected 6"),
            (b"2016/01/08,0.0,NaN,1.7,2.2,sun", "temp_max `NaN`, expected a number"),
            (b"2016/01/08,inf,1.0,1.7,2.2,sun", "precipitation `inf`, expected a number"),
            (b"2016/01/10,0.0,6.1,1.7,2.2,hail", "weather `hail`, expected one of drizzle"),
        ] {
            let found = Observation::parse(line).unwrap_err();
            assert!(found.starts_with(reason), "{found}");
        }
    }

    #[test]
    fn a_header_may_have_a_byte_order_mark() {
        assert_eq!(check_header(format!("\u{feff}{HEADER}\r").as_bytes()), Ok(()));
        assert!(check_header(b"Datum,Regen").unwrap_err().contains("`Datum,Regen`, expected `date,"));
    }

    #[test]
    fn a_shown_line_has_no_control_characters() {
        assert_eq!(shown(b"a\x1b[2Jb").to_string(), "a\\u{1b}[2Jb");
        assert_eq!(shown(&[b'x'; 100]).to_string().chars().count(), 81);
    }
}
