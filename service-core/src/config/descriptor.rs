//! [`ServiceDescriptor`]: what the attribute says about a service, as it stands in the binary.

use std::fmt;

use serde::de::DeserializeOwned;

use super::errors::ConfigError;
use super::fields::fields;
use super::settings::Settings;
use crate::service::literal::Literal;

/// What `#[service]` leaves in the binary about one service.
pub struct ServiceDescriptor {
    #[doc(hidden)]
    pub id: &'static str,
    #[doc(hidden)]
    pub type_name: fn() -> &'static str,
    #[doc(hidden)]
    pub module_path: &'static str,
    #[doc(hidden)]
    pub file: &'static str,
    #[doc(hidden)]
    pub line: u32,
    /// The attribute's keys in the order written.
    #[doc(hidden)]
    pub attributes: &'static [(&'static str, Literal)],
    /// What is known of the type of `configure`'s settings.
    #[doc(hidden)]
    pub settings: Option<SettingsType>,
}

impl ServiceDescriptor {
    /// The id.
    pub const fn id(&self) -> &'static str {
        self.id
    }

    /// Full name of the type.
    pub fn type_name(&self) -> &'static str {
        (self.type_name)()
    }

    /// Module of the attribute.
    pub const fn module_path(&self) -> &'static str {
        self.module_path
    }

    /// Source file of the attribute.
    pub const fn file(&self) -> &'static str {
        self.file
    }

    /// Line of the attribute.
    pub const fn line(&self) -> u32 {
        self.line
    }

    /// Names of the service's own settings, where its `configure` takes some and their type tells.
    pub fn setting_names(&self) -> Option<&'static [&'static str]> {
        self.settings.as_ref().and_then(|settings| (settings.fields)())
    }

    /// The attribute's keys and values, in the order written.
    pub const fn attributes(&self) -> &'static [(&'static str, Literal)] {
        self.attributes
    }
}

impl fmt::Debug for ServiceDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceDescriptor")
            .field("id", &self.id)
            .field("type_name", &self.type_name())
            .field("at", &format_args!("{}:{}", self.file, self.line))
            .field("attributes", &self.attributes)
            .finish_non_exhaustive()
    }
}

/// What is known of the type of a service's own settings.
pub struct SettingsType {
    /// The names of its fields: `None` where they are not known.
    pub(crate) fields: fn() -> Option<&'static [&'static str]>,
    /// Whether these settings of this service can be read as the type.
    #[allow(dead_code, reason = "only rows of tables are checked ahead")]
    pub(crate) check: fn(&Settings, &str) -> std::result::Result<(), ConfigError>,
}

/// The settings of a service whose `configure` does not take them, while its code reads some by `cx.config`: their keys are
/// not known.
pub(crate) const UNDECLARED: SettingsType = SettingsType { fields: || None, check: |_, _| Ok(()) };

/// What is known of `T` as the type of a service's own settings.
pub(crate) const fn settings<T: DeserializeOwned>() -> SettingsType {
    SettingsType { fields: fields::<T>, check: |settings, service| settings.get_all::<T>(service).map(drop) }
}
