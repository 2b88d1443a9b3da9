//! The columns of keys: how their values are written and read.

use sea_orm::sea_query::{ColumnType as Type, Expr, ExprTrait, Value};
use sea_orm::{ColumnTrait, DbBackend};

/// A value of a key, as the engine can compare it with its column.
pub(crate) fn key_value(column: impl ColumnTrait, backend: DbBackend, value: Value) -> Expr {
    let value = column.save_as(Expr::val(value));
    match column.def().get_column_type() {
        // With a text, PostgreSQL would compare the column without the blanks at its end.
        Type::Char(_) if backend == DbBackend::Postgres => value.cast_as("bpchar"),
        _ => value,
    }
}

/// A column as it is read: a native enum as text.
pub(crate) fn read_as_text(column: impl ColumnTrait) -> Expr {
    column.select_as(Expr::col(column.as_column_ref()))
}

/// The PostgreSQL type of an array of a column's values. `None` for other types, and for a column with a cast of its
/// own.
pub(super) fn array_type(column: impl ColumnTrait) -> Option<&'static str> {
    if !matches!(column.save_as(Expr::val("")), Expr::Value(_)) {
        return None;
    }
    match column.def().get_column_type() {
        Type::TinyInteger | Type::SmallInteger | Type::Integer | Type::BigInteger => Some("bigint[]"),
        Type::TinyUnsigned | Type::SmallUnsigned | Type::Unsigned | Type::BigUnsigned => Some("bigint[]"),
        Type::String(_) | Type::Text => Some("text[]"),
        Type::Uuid => Some("uuid[]"),
        _ => None,
    }
}

/// Whether SQLite may store values of a column in several ways that are read as the same value: it has no such type, or
/// the driver reads texts as bytes.
pub(super) fn has_formats(column: impl ColumnTrait) -> bool {
    matches!(
        column.def().get_column_type(),
        Type::DateTime
            | Type::Timestamp
            | Type::TimestampWithTimeZone
            | Type::Date
            | Type::Time
            | Type::Float
            | Type::Decimal(_)
            | Type::Json
            | Type::JsonBinary
            | Type::Binary(_)
            | Type::VarBinary(_)
            | Type::Blob
    )
}
