//! `expect_services!`: the services that must be linked, so that the start can name those that the linker dropped.

/// The ids that one `expect_services!` names, and the place of the macro call.
#[doc(hidden)]
pub struct ExpectedServices {
    pub ids: &'static [&'static str],
    pub file: &'static str,
    pub line: u32,
}

inventory::collect!(ExpectedServices);

/// Names services that must be linked into the binary. An item: write it once, beside `main`.
///
/// The linker drops a crate that is in `Cargo.toml` if no code refers to it, together with its services. The start then
/// fails and names the missing services. Add `use that_crate as _;` to the program.
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
