//! Secrets: values of keys with certain names, and parts of strings.

use std::ops::Range;

use crate::service::secret::REDACTED;

/// Whether the value of a key is a secret: the key ends in `token`, `password`, `secret` or `key`.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "password", "secret", "key"].iter().any(|end| key.ends_with(end))
}

/// Where a secret in a text ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// A password at the last `@`, a parameter at the next `&`: they can contain any other character. A parameter in
    /// quotes at the end of the text.
    Last,
    /// At a character that ends a URL or a parameter in most texts.
    Usual,
}

/// Replaces the secrets in a text: the passwords of URLs (`postgres://user:password@host`), and parameters with the
/// names of secrets (`?token=…`). Some of the text behind a secret can be replaced, too, but no part of a secret is
/// shown.
pub(crate) fn redact_url(text: &str) -> String {
    let mut shown = String::new();
    let mut end = 0;
    for span in spans(text, End::Last) {
        shown.push_str(&text[end..span.start]);
        shown.push_str(REDACTED);
        end = span.end;
    }
    shown + &text[end..]
}

/// The secrets in a text, with both of their ends: the message of other code can contain a secret alone.
pub(crate) fn in_text(text: &str) -> impl Iterator<Item = &str> {
    [End::Last, End::Usual].into_iter().flat_map(|end| spans(text, end)).map(|span| &text[span])
}

/// The places of the secrets, from left to right.
fn spans(text: &str, end: End) -> Vec<Range<usize>> {
    let found = passwords(text, end).chain(parameters(text, end));
    let mut spans: Vec<Range<usize>> = found.filter(|span| !span.is_empty()).collect();
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

fn passwords(text: &str, end: End) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(move |(at, separator)| {
        let start = at + separator.len();
        let url = text[start..].split(|c| end.is_at(c, "")).next()?;
        // A password can contain an `@`, so the last one counts as the one before the host.
        let (colon, at) = (url.find(':')?, url.rfind('@')?);
        Some(start + colon + 1..start + at)
    })
}

fn parameters(text: &str, end: End) -> impl Iterator<Item = Range<usize>> {
    text.match_indices(['=', ':']).filter_map(move |(at, separator)| {
        let is_name = |c: char| c.is_alphanumeric() || "_-.%[]".contains(c);
        let before = text[..at].trim_end();
        // `"api_key": "…"` of JSON is also a parameter, `api_key: …` of a sentence is not.
        if separator == ":" && !before.ends_with('"') {
            return None;
        }
        // And so is `{ "api_key" = "…" }`.
        let before = before.trim_end_matches(|c: char| c.is_whitespace() || "\"'".contains(c));
        let name = before.rsplit(|c| !is_name(c)).next()?;
        // The name of a parameter can be encoded.
        if !is_secret(name) && !name.contains('%') {
            return None;
        }
        let value = text[at + 1..].trim_start();
        let quote = value.chars().next().filter(|first| "\"'".contains(*first));
        let (start, length) = match (quote, end) {
            (Some(quote), End::Usual) => (1, value[1..].find(quote)),
            (Some(_), End::Last) => (0, None),
            (None, _) => (0, value.find(|c| c == '&' || end.is_at(c, ";#,"))),
        };
        let at = text.len() - value.len() + start;
        Some(at..length.map_or(text.len(), |length| at + length))
    })
}

impl End {
    /// Whether a character ends a URL or, with these separators, one of its parameters.
    fn is_at(self, c: char, separators: &str) -> bool {
        self == Self::Usual && (c.is_whitespace() || "\"'`<>".contains(c) || separators.contains(c))
    }
}
