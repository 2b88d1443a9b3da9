//! [`Subject`]: the service whose settings are read.

/// The service whose settings are read, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) service: &'a str,
    /// The file in which a missing setting can be set.
    pub(crate) file: &'a str,
    /// Whether a key that the type does not read is an error.
    pub(crate) complete: bool,
}
