//! [`Labels`]: what code says of a service by key and value, for its spans, its log lines and its health.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// The most labels that a service can have.
const MOST: usize = 8;

/// The labels of one service. Without labels it takes no memory of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels(Option<Box<Set>>);

#[derive(Clone, Debug)]
struct Set {
    by_key: BTreeMap<String, String>,
    /// `region=eu tenant="a b"`
    text: Arc<str>,
}

impl Labels {
    /// Adds a label. It replaces an earlier one of the same key.
    ///
    /// # Errors
    /// The key is malformed, or there are too many labels; the message has the rule.
    pub(crate) fn set(&mut self, key: String, value: String) -> Result<(), String> {
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!("`{key}` cannot be the key of a label: a key has only a-z and `_`"));
        }
        let mut by_key = self.0.take().map(|set| set.by_key).unwrap_or_default();
        by_key.insert(key, value);
        if by_key.len() > MOST {
            return Err(format!("a service can have {MOST} labels, but it has {}", by_key.len()));
        }
        let text = text(&by_key).into();
        self.0 = Some(Box::new(Set { by_key, text }));
        Ok(())
    }

    /// Returns the labels by key.
    pub(crate) fn by_key(&self) -> BTreeMap<String, String> {
        self.0.as_ref().map(|set| set.by_key.clone()).unwrap_or_default()
    }

    /// Returns all labels as one text, if there are any.
    pub(crate) fn text(&self) -> Option<&Arc<str>> {
        self.0.as_ref().map(|set| &set.text)
    }
}

/// Writes labels as one text. A value that is not one plain word is quoted.
pub(crate) fn text(labels: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in labels {
        let is_plain = !value.is_empty() && value.chars().all(|c| c.is_alphanumeric() || "_-.:/@+".contains(c));
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = match is_plain {
            true => write!(text, "{space}{key}={value}"),
            false => write!(text, "{space}{key}={value:?}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_label_by_key_and_quotes_what_is_not_a_word() {
        let mut labels = Labels::default();
        assert_eq!(labels.text(), None);
        for (key, value) in
            [("tenant", "acme"), ("region", "a b"), ("note", "two\nlines"), ("empty", ""), ("tenant", "b.c")]
        {
            labels.set(key.to_owned(), value.to_owned()).unwrap();
        }
        assert_eq!(labels.text().unwrap().as_ref(), r#"empty="" note="two\nlines" region="a b" tenant=b.c"#);
        assert_eq!(labels.by_key().len(), 4);
    }

    #[test]
    fn a_wrong_key_and_a_ninth_label_are_errors_that_have_the_rule() {
        for key in ["", "Tenant", "tenant-id", "tenant2", "größe"] {
            let why = Labels::default().set(key.to_owned(), String::new()).unwrap_err();
            assert!(why.contains(&format!("`{key}`")) && why.contains("a-z"), "{why}");
        }
        let mut labels = Labels::default();
        for key in ["a", "b", "c", "d", "e", "f", "g", "h", "h"] {
            labels.set(key.to_owned(), String::new()).unwrap();
        }
        assert!(labels.set("i".to_owned(), String::new()).unwrap_err().contains('8'));
    }
}
