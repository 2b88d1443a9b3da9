//! Parts of PromQL expressions.

use std::time::Duration;

use crate::humanize;

/// The labels that a selector matches, each with its operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector(Vec<String>);

impl Selector {
    /// Adds a label with this value.
    pub(crate) fn is(&self, label: &str, value: &str) -> Self {
        self.with(label, "=", value)
    }

    /// Adds a label whose value matches this regular expression.
    pub(crate) fn matches(&self, label: &str, pattern: &str) -> Self {
        self.with(label, "=~", pattern)
    }

    fn with(&self, label: &str, operator: &str, value: &str) -> Self {
        let mut all = self.clone();
        all.0.push(format!("{label}{operator}{}", quoted(value)));
        all
    }

    /// Returns the selector of a metric's series: `name{label="value"}`.
    pub(crate) fn of(&self, metric: &str) -> String {
        match self.0.is_empty() {
            true => metric.to_owned(),
            false => format!("{metric}{{{}}}", self.0.join(",")),
        }
    }
}

/// Returns a text in double quotes. PromQL, JSON and YAML read the same escapes.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns a duration as PromQL writes it: `1h30m`.
pub(crate) fn duration(duration: Duration) -> String {
    humanize::exact(duration).replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_quotes_its_values() {
        let every = Selector::default();
        assert_eq!(every.of("up"), "up");
        let one = every.is("job", "a \"b\"\\").matches("service", "a|b");
        assert_eq!(one.of("up"), r#"up{job="a \"b\"\\",service=~"a|b"}"#);
        assert_eq!(duration(Duration::from_secs(5_400)), "1h30m");
    }
}
