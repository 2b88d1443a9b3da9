//! What the parser of cron expressions accepts and reads otherwise than it is written. `#[service]` refuses the same, with
//! the same texts (`service-macros/src/parse/cron.rs`), so that all layers have one grammar.
//!
//! The parser skips empty items, reduces a step that is too large, ignores a lone `L` and what follows `W`, and replaces
//! the names of months and weekdays in any field.

struct Field {
    name: &'static str,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const DAY_OF_MONTH: &str = "day of month";
const DAY_OF_WEEK: &str = "day of week";

const FIELDS: [Field; 6] = [
    Field { name: "second", max: 59, names: &[] },
    Field { name: "minute", max: 59, names: &[] },
    Field { name: "hour", max: 23, names: &[] },
    Field { name: DAY_OF_MONTH, max: 31, names: &[] },
    Field { name: "month", max: 12, names: &MONTHS },
    Field { name: DAY_OF_WEEK, max: 7, names: &DAYS },
];

/// Returns the fields of an expression with this many parts: five, or six with seconds first. A nickname has none.
fn fields(parts: usize) -> Option<&'static [Field]> {
    (parts >= 5).then_some(FIELDS.get(FIELDS.len().checked_sub(parts)?..)?)
}

/// Returns the name of each field of an expression with this many parts.
pub(super) fn names(parts: usize) -> Option<impl Iterator<Item = &'static str>> {
    Some(fields(parts)?.iter().map(|field| field.name))
}

/// Checks an expression that the parser has accepted. Returns why it is wrong.
pub(super) fn misread(expression: &str) -> Option<String> {
    let parts: Vec<&str> = expression.split_whitespace().collect();
    let fields = fields(parts.len())?;
    parts.iter().zip(fields).find_map(|(part, field)| {
        let why = field.misread(part)?;
        Some(format!("{} field `{part}`: {why}", field.name))
    })
}

impl Field {
    fn misread(&self, part: &str) -> Option<String> {
        let part = if self.name == DAY_OF_WEEK { part.strip_prefix('+').unwrap_or(part) } else { part };
        let has = |wanted: &str| part.split(',').any(|item| item.eq_ignore_ascii_case(wanted));
        if self.name == DAY_OF_MONTH && has("L") && has("LW") {
            return Some("`L` and `LW` cannot be used together, keep one of them".to_owned());
        }
        part.split(',').find_map(|item| self.misread_item(item))
    }

    fn misread_item(&self, item: &str) -> Option<String> {
        if item.is_empty() {
            return Some("an item between commas is empty".to_owned());
        }
        if matches!(item, "*" | "?") {
            return None;
        }
        let (range, step) = item.split_once('/').unwrap_or((item, "1"));
        match step.parse::<u32>() {
            Ok(step) if step > self.max => return Some(format!("the largest step is {}", self.max)),
            Err(_) => return Some(format!("the step `{step}` is not a number")),
            Ok(_) if range == "?" => return Some(format!("a step needs a range; write `*/{step}`")),
            Ok(_) if range == "*" => return None,
            Ok(_) => {}
        }
        let upper = range.to_ascii_uppercase();
        match self.name {
            DAY_OF_MONTH => match upper.strip_suffix('W') {
                Some("L") => None,
                Some(day) => self.not_a_number(day),
                None if upper == "L" => None,
                None => self.misread_range(range),
            },
            DAY_OF_WEEK => match upper.strip_suffix('L').filter(|day| !day.ends_with('#')) {
                Some("") => Some("`L` needs a weekday before it, for example `FRIL`".to_owned()),
                Some(day) => self.not_a_number(day),
                None => match range.split_once('#') {
                    Some((range, "1" | "2" | "3" | "4" | "5" | "L" | "l")) => self.misread_range(range),
                    Some((_, nth)) => Some(format!("`#{nth}` is not one of `#1` to `#5` and `#L`")),
                    None => self.misread_range(range),
                },
            },
            _ => self.misread_range(range),
        }
    }

    fn misread_range(&self, range: &str) -> Option<String> {
        range.split('-').find_map(|number| self.not_a_number(number))
    }

    fn not_a_number(&self, text: &str) -> Option<String> {
        let is_name = self.names.iter().any(|name| name.eq_ignore_ascii_case(text));
        if is_name || text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(match self.names {
            [] => format!("`{text}` is not a number"),
            names => format!("`{text}` is neither a number nor one of {}", names.join(", ")),
        })
    }
}
