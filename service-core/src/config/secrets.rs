//! What must not be shown: values by the name of their key, and parts of texts.

use std::ops::Range;

/// What is shown in place of a secret.
pub(crate) const REDACTED: &str = "•••";

/// Whether a key's value must not be shown: it ends in `token`, `password`, `secret` or `key`.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "password", "secret", "key"].iter().any(|end| key.ends_with(end))
}

/// The text without its secrets: the passwords of URLs (`postgres://user:password@host`), and parameters whose names are those
/// of secrets (`?token=…`).
pub(crate) fn redact(text: &str) -> String {
    let mut shown = String::new();
    let mut end = 0;
    for span in spans(text) {
        shown.push_str(&text[end..span.start]);
        shown.push_str(REDACTED);
        end = span.end;
    }
    shown + &text[end..]
}

/// Those secrets.
pub(crate) fn in_text(text: &str) -> impl Iterator<Item = &str> {
    spans(text).into_iter().map(|span| &text[span])
}

/// Where they stand, from left to right.
fn spans(text: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> =
        passwords(text).chain(parameters(text)).filter(|span| !span.is_empty()).collect();
    spans.sort_by_key(|span| span.start);
    spans.dedup_by(|later, earlier| {
        let overlap = later.start < earlier.end;
        if overlap {
            earlier.end = earlier.end.max(later.end);
        }
        overlap
    });
    spans
}

fn passwords(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, separator)| {
        let start = at + separator.len();
        let url = text[start..].split(|c: char| c.is_whitespace() || "\"'`<>".contains(c)).next()?;
        // A password may have any sign in it, so the last `@` is taken for the one before the host.
        let (colon, at) = (url.find(':')?, url.rfind('@')?);
        Some(start + colon + 1..start + at)
    })
}

fn parameters(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('=').filter_map(|(at, _)| {
        let is_name = |c: char| c.is_alphanumeric() || "_-.%[]".contains(c);
        let name = text[..at].rsplit(|c| !is_name(c)).next()?;
        // The name of a parameter may be encoded.
        if !is_secret(name) && !name.contains('%') {
            return None;
        }
        let value = &text[at + 1..];
        let quote = value.chars().next().filter(|first| "\"'".contains(*first));
        let (start, end) = match quote {
            Some(quote) => (1, value[1..].find(quote).map_or(value.len(), |end| end + 1)),
            None => (0, value.find(|c: char| c.is_whitespace() || "&;#,\"'`<>".contains(c)).unwrap_or(value.len())),
        };
        Some(at + 1 + start..at + 1 + end)
    })
}
