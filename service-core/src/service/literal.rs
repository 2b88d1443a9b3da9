//! [`Literal`]: a value of an attribute, as generated code hands it over.

/// A value as it stands in the attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Literal {
    /// A whole number.
    Int(i64),
    /// A number with a point.
    Float(f64),
    /// A string.
    Str(&'static str),
    /// `true` or `false`.
    Bool(bool),
    /// A list of ids.
    List(&'static [&'static str]),
}
