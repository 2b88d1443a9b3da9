//! [`Subject`]: whose settings are read.

/// Whose settings are read, for messages, and how.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) service: &'a str,
    /// The file in which a missing setting can be set.
    pub(crate) file: &'a str,
    /// Whether the type has a field for every key: then a key that it does not read is an error.
    pub(crate) complete: bool,
}
