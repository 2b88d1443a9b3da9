//! [`Literal`]: a value of the attribute, as generated code passes it.

/// A value as it was written in the attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Literal {
    /// An integer.
    Int(i64),
    /// A number with a decimal point.
    Float(f64),
    /// A string.
    Str(&'static str),
    /// `true` or `false`.
    Bool(bool),
    /// A list of ids.
    List(&'static [&'static str]),
}
