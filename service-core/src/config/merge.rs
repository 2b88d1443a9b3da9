//! Merging the tables of two layers.

use super::coercion;
use super::values::{Node, Table, Value};

/// Merges `upper` into `lower`, tables key by key. Other values replace those of `lower`. The inline table of TOML in
/// an environment variable is a table, too.
pub(crate) fn merge(lower: &mut Table, upper: Table) {
    for (key, mut node) in upper {
        // Names of environment variables have no case: `BATCHSIZE` is `batchSize` if a lower layer has that key.
        let key = match lower.keys().find(|known| node.origin.layer.is_meant(&key, known)) {
            Some(known) if !lower.contains_key(&key) => known.clone(),
            _ => key,
        };
        // A later layer writes the key as the field is called.
        let meant =
            lower.iter().find(|(known, below)| below.origin.layer.is_meant(known, &key)).map(|(known, _)| known);
        if let Some(meant) = meant.filter(|_| !lower.contains_key(&key)).cloned()
            && let Some(below) = lower.remove(&meant)
        {
            lower.insert(key.clone(), below);
        }
        let Some(below) = lower.get_mut(&key) else {
            lower.insert(key, node);
            continue;
        };
        // Text is an inline table only if the other value is a table: else the field can be a string.
        match (&below.value, &node.value) {
            (Value::Table(_), Value::Text { .. }) => split_text(&mut node),
            (Value::Text { .. }, Value::Table(_)) => split_text(below),
            _ => {}
        }
        match (&mut below.value, node) {
            (Value::Table(below), Node { value: Value::Table(above), .. }) => merge(below, above),
            (_, node) => *below = node,
        }
    }
}

/// Replaces text that is an inline table by this table.
fn split_text(node: &mut Node) {
    let Value::Text { text, secret } = &node.value else { return };
    let Some(table) = coercion::table(text) else { return };
    let table = Value::Table(table);
    *node = Node::new(if *secret { table.into_secret() } else { table }, &node.origin);
}
