//! Parts of SQL as text: names, literals, keys, arrays, and conditions that sea-query cannot write.

use std::fmt::Write;

use sea_orm::sea_query::{Expr, ExprTrait, Func, Query, SqliteQueryBuilder, ValueTuple};
use sea_orm::{EntityName, Value};

/// Formats a key as text, which is the same for the same row on every machine.
pub(crate) fn key_text(key: &ValueTuple) -> String {
    let mut text = String::new();
    for value in key.clone() {
        if !text.is_empty() {
            text.push(',');
        }
        if let Some(number) = as_integer(&value) {
            // The usual case, for each row some times.
            let _ = write!(text, "{number}");
            continue;
        }
        let literal = Query::select().expr(Expr::Constant(value)).to_string(SqliteQueryBuilder);
        text.push_str(literal.strip_prefix("SELECT ").unwrap_or(&literal));
    }
    text
}

/// A value as text, without quotes.
pub(super) fn plain_text(value: Value) -> String {
    let literal = key_text(&ValueTuple::One(value));
    match literal.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        Some(text) => text.replace("''", "'"),
        None => literal,
    }
}

/// A row for each element, on PostgreSQL. The elements are one parameter, so that the statement is the same for any
/// number of them and is prepared once.
pub(crate) fn unnest(elements: impl Iterator<Item = String>, array_type: &'static str) -> Expr {
    Func::cust("unnest").arg(Expr::val(text_array(elements, 0)).cast_as(array_type)).into()
}

/// An array of PostgreSQL as text. If there are fewer elements than `least`, further ones are NULL.
pub(crate) fn text_array(elements: impl Iterator<Item = String>, least: usize) -> String {
    let quoted = elements.map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    let mut quoted: Vec<String> = quoted.collect();
    quoted.resize(quoted.len().max(least), "NULL".to_owned());
    format!("{{{}}}", quoted.join(","))
}

/// The value of an integer column.
pub(crate) fn as_integer(value: &Value) -> Option<i64> {
    match *value {
        Value::TinyInt(n) => n.map(i64::from),
        Value::SmallInt(n) => n.map(i64::from),
        Value::Int(n) => n.map(i64::from),
        Value::BigInt(n) => n,
        Value::TinyUnsigned(n) => n.map(i64::from),
        Value::SmallUnsigned(n) => n.map(i64::from),
        Value::Unsigned(n) => n.map(i64::from),
        Value::BigUnsigned(n) => n.and_then(|n| i64::try_from(n).ok()),
        _ => None,
    }
}

/// Returns the name, or a shorter one with a hash of `distinct`, since PostgreSQL truncates longer names.
pub(crate) fn identifier(name: &str, distinct: &str) -> String {
    const MAX_BYTES: usize = 63;
    if name.len() <= MAX_BYTES {
        return name.to_owned();
    }
    // FNV-1a, because the name must never change.
    let hash = distinct
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{}_{hash:016x}", &name[..name.floor_char_boundary(MAX_BYTES - 17)])
}

/// Quotes a text.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The condition that the table with this quoted name has triggers or rules of the application. A row may be in a
/// partition, or in a table that inherits, which has triggers of its own; the rules of these do not apply.
pub(crate) fn has_triggers_on_postgres(quoted_name: &str) -> String {
    let table = literal(quoted_name);
    format!(
        "(EXISTS (WITH RECURSIVE tables(id) AS (SELECT to_regclass({table})::oid \
         UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = id) \
         SELECT FROM tables JOIN pg_trigger ON tgrelid = id JOIN pg_proc ON pg_proc.oid = tgfoid \
         WHERE NOT tgisinternal AND proname <> 'service_wake') \
         OR EXISTS (SELECT FROM pg_class WHERE oid = to_regclass({table}) AND relhasrules))"
    )
}

/// The condition that the table has triggers.
pub(crate) fn has_triggers_on_sqlite(entity: &impl EntityName) -> String {
    let schema = schema_prefix(entity);
    let table = literal(entity.table_name());
    format!("EXISTS (SELECT 1 FROM {schema}sqlite_master WHERE type = 'trigger' AND tbl_name = {table} COLLATE NOCASE)")
}

/// Quotes an identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table as SQL names it.
pub(crate) fn qualified(entity: &impl EntityName) -> String {
    format!("{}{}", schema_prefix(entity), quoted(entity.table_name()))
}

/// The schema of an entity, before the name of something that it contains.
pub(crate) fn schema_prefix(entity: &impl EntityName) -> String {
    entity.schema_name().map_or_else(String::new, |schema| format!("{}.", quoted(schema)))
}

/// Shortens a message to the column's length, and replaces the zero character, which PostgreSQL refuses.
pub(super) fn clipped(message: &str, limit: usize) -> String {
    let mut characters = message.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c });
    let mut text: String = characters.by_ref().take(limit).collect();
    if characters.next().is_some() {
        text.pop();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_fits_its_column() {
        assert_eq!(clipped("short", 5), "short");
        assert_eq!(clipped("longer", 5), "long…");
        assert_eq!(clipped("a\0b", 5), "a\u{fffd}b");
    }

    #[test]
    fn different_keys_have_different_texts() {
        let text = |values: Vec<Value>| key_text(&ValueTuple::Many(values));
        assert_eq!(text(vec![5i64.into()]), text(vec![5i32.into()]));
        assert_eq!(text(vec!["a','b".into()]), "'a'',''b'");
        assert_ne!(text(vec!["a','b".into()]), text(vec!["a".into(), "b".into()]));
    }
}
