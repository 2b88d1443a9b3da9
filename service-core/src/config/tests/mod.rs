//! Configuration, tested through [`Sources`] with an environment and a directory of the test's own.

mod buffered;
mod keys;
mod layers;
mod mistakes;
mod page;
mod reading;
mod secrets;
mod units;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::ServiceDescriptor;
use crate::config::options::Options;
use crate::service::literal::Literal;

/// A directory of its own, with a `services.toml`, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn with(toml: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("service-core-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("services.toml"), toml).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a test configures: the file's text, the environment, the builder's settings.
#[derive(Default)]
struct Given {
    toml: &'static str,
    env: Vec<(&'static str, &'static str)>,
    sets: Vec<(&'static str, SettingValue)>,
    for_all: Vec<(&'static str, SettingValue)>,
}

fn toml(toml: &'static str) -> Given {
    Given { toml, ..Given::default() }
}

fn env<const N: usize>(env: [(&'static str, &'static str); N]) -> Given {
    toml("").env(env)
}

impl Given {
    fn env<const N: usize>(mut self, env: [(&'static str, &'static str); N]) -> Self {
        self.env.extend(env);
        self
    }

    fn set(mut self, key: &'static str, value: impl Into<SettingValue>) -> Self {
        self.sets.push((key, value.into()));
        self
    }

    fn set_for_all(mut self, key: &'static str, value: impl Into<SettingValue>) -> Self {
        self.for_all.push((key, value.into()));
        self
    }

    fn load(&self) -> Sources {
        let folder = Folder::with(self.toml);
        let owned = |(key, value): &(&str, SettingValue)| ((*key).to_owned(), value.clone());
        Sources::load(Inputs {
            file: None,
            environment: self.env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(),
            directory: Some(folder.0.clone()),
            sets: self.sets.iter().map(owned).collect(),
            sets_for_all: self.for_all.iter().map(owned).collect(),
        })
    }

    /// Service `mail`, with these attributes.
    fn resolve(&self, attributes: &'static [(&'static str, Literal)]) -> Result<Arc<Resolved>, String> {
        self.load()
            .resolve(Target::new("mail", descriptor(attributes, Some(|| None)), None), &[])
            .map_err(|errors| errors.to_string())
    }

    fn options(&self, attributes: &'static [(&'static str, Literal)]) -> Options {
        Options::clone(&self.resolve(attributes).unwrap().options)
    }

    /// The errors of service `mail` without attributes.
    fn errors(&self) -> String {
        self.resolve(&[]).map(|_| ()).unwrap_err()
    }

    /// Own settings of service `mail`.
    fn settings<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        let resolved = self.resolve(&[])?;
        resolved.settings.get("mail").map_err(|error| error.to_string())
    }
}

/// A service whose settings have keys that are not known.
fn undeclared() -> &'static ServiceDescriptor {
    descriptor(&[], Some(|| None))
}

/// A service with `run`.
fn long_running() -> &'static ServiceDescriptor {
    Box::leak(Box::new(ServiceDescriptor { long_running: true, ..new_descriptor(&[], Some(|| None)) }))
}

fn descriptor(
    attributes: &'static [(&'static str, Literal)],
    settings: Option<fn() -> Option<&'static [&'static str]>>,
) -> &'static ServiceDescriptor {
    Box::leak(Box::new(new_descriptor(attributes, settings)))
}

fn new_descriptor(
    attributes: &'static [(&'static str, Literal)],
    settings: Option<fn() -> Option<&'static [&'static str]>>,
) -> ServiceDescriptor {
    ServiceDescriptor {
        id: "mail",
        type_name: || "app::Mail",
        module_path: "app",
        file: "src/mail.rs",
        line: 7,
        attributes,
        settings: settings.map(|fields| crate::config::SettingsType {
            fields,
            check: |_, _| Ok(()),
            source: crate::config::descriptor::SettingsSource::Calls,
        }),
        long_running: false,
    }
}
