//! Secrets: values of keys with certain names, and parts of strings.

use std::ops::Range;

/// What is shown in place of a secret.
pub(crate) const REDACTED: &str = "•••";

/// Whether the value of a key is a secret: the key ends in `token`, `password`, `secret` or `key`.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "password", "secret", "key"].iter().any(|end| key.ends_with(end))
}

/// Replaces the secrets in a text: the passwords of URLs (`postgres://user:password@host`), and parameters with the
/// names of secrets (`?token=…`).
pub(crate) fn redact(text: &str) -> String {
    without(text, spans(text, is_end_of_url, "&;#,"))
}

/// The same for a text that is one URL, which may contain spaces and quotes by mistake.
#[allow(dead_code, reason = "only databases use it")]
pub(crate) fn redact_url(url: &str) -> String {
    without(url, spans(url, |_| false, "&"))
}

fn without(text: &str, spans: Vec<Range<usize>>) -> String {
    let mut shown = String::new();
    let mut end = 0;
    for span in spans {
        shown.push_str(&text[end..span.start]);
        shown.push_str(REDACTED);
        end = span.end;
    }
    shown + &text[end..]
}

/// The secrets in a text.
pub(crate) fn in_text(text: &str) -> impl Iterator<Item = &str> {
    spans(text, is_end_of_url, "&;#,").into_iter().map(|span| &text[span])
}

/// Whether a URL within a text ends before this character.
fn is_end_of_url(c: char) -> bool {
    c.is_whitespace() || "\"'`<>".contains(c)
}

/// The places of the secrets, from left to right. `is_end` finds the end of a URL, and `separators` end the value of a parameter.
fn spans(text: &str, is_end: fn(char) -> bool, separators: &str) -> Vec<Range<usize>> {
    let found = passwords(text, is_end).chain(parameters(text, is_end, separators));
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

fn passwords(text: &str, is_end: fn(char) -> bool) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(move |(at, separator)| {
        let start = at + separator.len();
        let url = text[start..].split(is_end).next()?;
        // A password can contain any character, so the last `@` counts as the one before the host.
        let (colon, at) = (url.find(':')?, url.rfind('@')?);
        Some(start + colon + 1..start + at)
    })
}

fn parameters(text: &str, is_end: fn(char) -> bool, separators: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('=').filter_map(move |(at, _)| {
        let is_name = |c: char| c.is_alphanumeric() || "_-.%[]".contains(c);
        let name = text[..at].rsplit(|c| !is_name(c)).next()?;
        // The name of a parameter can be encoded.
        if !is_secret(name) && !name.contains('%') {
            return None;
        }
        let value = &text[at + 1..];
        let quote = value.chars().next().filter(|first| "\"'".contains(*first));
        let (start, end) = match quote {
            Some(quote) => (1, value[1..].find(quote).map_or(value.len(), |end| end + 1)),
            None => (0, value.find(|c: char| is_end(c) || separators.contains(c)).unwrap_or(value.len())),
        };
        Some(at + 1 + start..at + 1 + end)
    })
}
