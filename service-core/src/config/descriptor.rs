//! [`ServiceDescriptor`]: the data about a service that `#[service]` writes into the binary.

use std::fmt;

use serde::de::DeserializeOwned;

use super::errors::ConfigError;
use super::fields::fields;
use super::settings::Settings;
use crate::service::literal::Literal;

/// The data about a service that `#[service]` writes into the binary.
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
    /// The keys of the attribute, in the order written.
    #[doc(hidden)]
    pub attributes: &'static [(&'static str, Literal)],
    /// The type of the settings, if the service has one.
    #[doc(hidden)]
    pub settings: Option<SettingsType>,
    /// The service has `run`, not `update`.
    #[doc(hidden)]
    pub long_running: bool,
}

impl ServiceDescriptor {
    /// Whether both are of one attribute. A program may have several copies of a descriptor, and the concrete types of
    /// a generic service have one each.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let place = |of: &Self| (of.id, of.module_path, of.file, of.line);
        place(self) == place(other)
    }

    /// Returns the id.
    pub const fn id(&self) -> &'static str {
        self.id
    }

    /// Returns the full name of the type.
    pub fn type_name(&self) -> &'static str {
        (self.type_name)()
    }

    /// Returns the module of the attribute.
    pub const fn module_path(&self) -> &'static str {
        self.module_path
    }

    /// Returns the source file of the attribute.
    pub const fn file(&self) -> &'static str {
        self.file
    }

    /// Returns the line of the attribute.
    pub const fn line(&self) -> u32 {
        self.line
    }

    /// Returns whether the service has `run`, work that continues until a stop is requested, and not `update`.
    pub const fn long_running(&self) -> bool {
        self.long_running
    }

    /// Returns the names of the service's own settings, if `configure` takes a struct of settings.
    pub fn setting_names(&self) -> Option<&'static [&'static str]> {
        self.settings.as_ref().and_then(|settings| (settings.fields)())
    }

    /// Returns the keys and values of the attribute, in the order written.
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

/// The type of a service's own settings.
pub struct SettingsType {
    /// The names of its fields; `None` if they are not known.
    pub(crate) fields: fn() -> Option<&'static [&'static str]>,
    /// Checks that these settings of this service can be read as the type.
    pub(crate) check: fn(&Settings, &str) -> std::result::Result<(), ConfigError>,
    pub(crate) source: SettingsSource,
}

/// How it is known that a service has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingsSource {
    /// `configure` takes them, as this type.
    Configure,
    /// Its code calls `cx.config`.
    Calls,
    /// It may have none: no code that is known to read some was found.
    Uncertain,
}

/// The settings of a service whose `configure` takes none, but whose code calls `cx.config`: their keys are not known.
pub(crate) const UNDECLARED: SettingsType =
    SettingsType { fields: || None, check: |_, _| Ok(()), source: SettingsSource::Calls };

/// The settings of a service whose code passes the context on to other code, which may read settings or not.
pub(crate) const POSSIBLE: SettingsType = SettingsType { source: SettingsSource::Uncertain, ..UNDECLARED };

/// `T` as the type of a service's own settings.
pub(crate) const fn settings<T: DeserializeOwned>() -> SettingsType {
    let check = |settings: &Settings, service: &str| settings.get_all::<T>(service).map(drop);
    SettingsType { fields: fields::<T>, check, source: SettingsSource::Configure }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(id: &'static str, line: u32) -> ServiceDescriptor {
        let (module_path, file) = ("mails", "src/mails.rs");
        let type_name = || "Mails";
        ServiceDescriptor {
            id,
            type_name,
            module_path,
            file,
            line,
            attributes: &[],
            settings: None,
            long_running: false,
        }
    }

    #[test]
    fn copies_of_a_descriptor_are_the_same_and_others_are_not() {
        static ONE: ServiceDescriptor = at("mails", 7);
        static COPY: ServiceDescriptor = at("mails", 7);
        assert!(ONE.is_same(&COPY) && !std::ptr::eq(&ONE, &COPY));
        assert!(!ONE.is_same(&at("mails", 8)) && !ONE.is_same(&at("letters", 7)));
    }
}
