//! `expect_services!`: what ought to have been discovered, so that start can name what the linker dropped.

/// Ids that one `expect_services!` names, and where it stands.
#[doc(hidden)]
pub struct ExpectedServices {
    pub ids: &'static [&'static str],
    pub file: &'static str,
    pub line: u32,
}

inventory::collect!(ExpectedServices);

/// Names services that have to be linked into the binary. An item: write it once, beside `main`.
///
/// A linker drops a crate that is in `Cargo.toml` but that no code refers to, and its services with it. Then start fails
/// and names them, and the line to add is `use that_crate as _;`.
///
/// ```standalone_crate
/// service_core::expect_services!["email_sender", "cleanup"];
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! expect_services {
    ($($id:literal),* $(,)?) => {
        $crate::__private::inventory::submit! {
            $crate::__private::ExpectedServices { ids: &[$($id),*], file: ::core::file!(), line: ::core::line!() }
        }
    };
}
