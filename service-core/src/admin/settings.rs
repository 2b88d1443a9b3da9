//! [`Admin`]: the admin interface of one registry. The registry starts it before its services, and stops it after them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use crate::admin::access::{Access, Exposure, Token};
use crate::admin::app::{App, Core, RenderMetrics};
use crate::admin::routes;
use crate::admin::server::Server;
use crate::log::info;
use crate::registry::companion::{CompanionBuilder, CompanionSettings, Environment};
use crate::registry::service_registry::{Companion, ServiceRegistry};
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// What the builder sets.
#[derive(Default)]
pub(crate) struct AdminSettings {
    pub(crate) address: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) metrics: Vec<RenderMetrics>,
    /// Nothing is served: a command that needs no running program builds the registry.
    pub(crate) is_offline: bool,
}

/// The admin interface of one registry.
pub(crate) struct Admin {
    /// `None`: nothing is served.
    address: Option<SocketAddr>,
    pub(crate) token: Option<Token>,
    pub(crate) core: Arc<Core>,
    server: Mutex<Option<Server>>,
}

inventory::submit! {
    CompanionBuilder { build: |settings, environment| Ok(Arc::new(Admin::new(settings, environment)?)) }
}

impl Admin {
    fn new(settings: &mut CompanionSettings, environment: Environment<'_>) -> Result<Self> {
        let settings = std::mem::take(settings.get::<AdminSettings>());
        let variable = |name: &str| match environment.iter().find(|(known, _)| known == name) {
            Some((_, value)) => match value.to_str().map(str::trim) {
                Some("") => Ok(None),
                Some(value) => Ok(Some(value)),
                None => Err(Error::msg(format!("the environment variable {name} is not valid UTF-8"))),
            },
            None => Ok(None),
        };
        let core = Arc::new(Core::new(settings.metrics));
        if settings.is_offline {
            // The variables may be those of a program elsewhere, and the token may be known only there.
            return Ok(Self { address: None, token: None, core, server: Mutex::default() });
        }
        // The environment wins over code, as in the configuration of services.
        let token = match (variable("ADMIN_TOKEN")?, &settings.token) {
            (Some(token), _) => Token::parse(token, "the environment variable ADMIN_TOKEN")?,
            (None, Some(token)) => Token::parse(token, "`.admin_token(…)`")?,
            (None, None) => None,
        };
        let address = match (variable("ADMIN_ADDR")?, settings.address) {
            (Some(address), _) => Some(parse(address, "the environment variable ADMIN_ADDR")?),
            (None, Some(address)) => Some(parse(&address, "the address of `.admin(…)`")?),
            (None, None) => None,
        };
        if let Some(address) = address.filter(|address| !address.ip().is_loopback() && token.is_none()) {
            return Err(Error::msg(format!(
                "the admin address {address} is not a loopback address, so anybody on the network could stop services: set a token with \
                 the environment variable ADMIN_TOKEN or `.admin_token(…)`, or use 127.0.0.1"
            )));
        }
        Ok(Self { address, token, core, server: Mutex::default() })
    }

    /// Returns the admin interface of a registry.
    pub(crate) fn of(services: &ServiceRegistry) -> &Self {
        match services.companion() {
            Some(admin) => admin,
            None => unreachable!("with the feature `admin`, every registry has this companion"),
        }
    }

    /// Returns the address that is served now.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.server.lock().as_ref().map(|server| server.address)
    }

    fn serve(&self, registry: &ServiceRegistry) -> Result<()> {
        let Some(address) = self.address else { return Ok(()) };
        let mut server = self.server.lock();
        if server.is_some() {
            return Ok(());
        }
        let in_use = |error| Error::msg(format!("cannot serve the admin interface on {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(in_use)?;
        let exposure = if address.ip().is_loopback() { Exposure::Loopback } else { Exposure::Network };
        let app = App::new(registry.clone(), self.core.clone(), Access::new(exposure, self.token.clone()));
        let started = Server::start(listener, routes::router(app), self.core.events.clone()).map_err(in_use)?;
        info!("the admin interface is at http://{}/", started.address);
        *server = Some(started);
        Ok(())
    }
}

impl Companion for Admin {
    fn start<'a>(&'a self, registry: &'a ServiceRegistry) -> BoxFuture<'a, Result<()>> {
        // Also for a router that the application mounts later.
        registry.inner.services.keep_runs();
        Box::pin(std::future::ready(self.serve(registry)))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        let server = self.server.lock().take();
        Box::pin(async move {
            if let Some(server) = server {
                server.stop().await;
            }
        })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("address", &self.address).finish_non_exhaustive()
    }
}

fn parse(address: &str, what: &str) -> Result<SocketAddr> {
    if let Some(port) = address.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    address.parse().map_err(|_| {
        Error::msg(format!("{what} is `{address}`, expected an IP address with a port, such as `127.0.0.1:9876`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(address: &str, token: &str) -> Result<Admin> {
        let environment =
            [("ADMIN_ADDR", address), ("ADMIN_TOKEN", token)].map(|(name, value)| (name.into(), value.into()));
        Admin::new(&mut CompanionSettings::default(), &environment)
    }

    #[test]
    fn an_address_that_is_not_loopback_needs_a_token() {
        for address in ["127.0.0.1:0", "127.1.2.3:80", "[::1]:9876", "localhost:9876"] {
            assert!(build(address, "").is_ok_and(|admin| admin.address.is_some()), "{address}");
        }
        for address in ["0.0.0.0:9876", "[::]:9876", "192.168.0.1:80"] {
            for token in ["", "  "] {
                for built in [build(address, token), with_token_in_code(address, token)] {
                    let error = built.unwrap_err().to_string();
                    assert!(error.contains("ADMIN_TOKEN") && error.contains(address), "{error}");
                }
            }
            assert!(build(address, "s3cret").is_ok(), "{address}");
        }
    }

    fn with_token_in_code(address: &str, token: &str) -> Result<Admin> {
        let mut settings = CompanionSettings::default();
        settings.get::<AdminSettings>().token = Some(token.to_owned());
        Admin::new(&mut settings, &[("ADMIN_ADDR".into(), address.into())])
    }

    #[test]
    fn a_token_that_no_request_could_send_is_an_error_that_names_its_place() {
        for (built, place) in [
            (build("127.0.0.1:0", "s3\ncret"), "ADMIN_TOKEN"),
            (with_token_in_code("127.0.0.1:0", "s3\u{7f}cret"), "`.admin_token(…)`"),
        ] {
            let error = built.unwrap_err().to_string();
            assert!(error.contains(place) && !error.contains("s3"), "{error}");
        }
        for token in ["s3cret\n", " s3cret"] {
            let admin = with_token_in_code("0.0.0.0:0", token).unwrap();
            assert!(admin.token.is_some_and(|token| token.is("s3cret")), "{token:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_utf8_is_an_error_that_names_it() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;
        for name in ["ADMIN_TOKEN", "ADMIN_ADDR"] {
            let environment = [(name.into(), OsString::from_vec(vec![b's', 0xff]))];
            let error = Admin::new(&mut CompanionSettings::default(), &environment).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("UTF-8"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_serves_nothing_does_not_read_the_variables() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;
        for name in ["ADMIN_TOKEN", "ADMIN_ADDR"] {
            let environment = [(name.into(), OsString::from_vec(vec![b's', 0xff]))];
            let mut settings = CompanionSettings::default();
            settings.get::<AdminSettings>().is_offline = true;
            assert!(Admin::new(&mut settings, &environment).is_ok_and(|admin| admin.address.is_none()), "{name}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_an_error_that_names_its_place() {
        for address in ["9876", "example.org:80", "127.0.0.1", "http://127.0.0.1:80"] {
            let error = build(address, "s3cret").unwrap_err().to_string();
            assert!(error.contains("ADMIN_ADDR") && error.contains(address), "{error}");
        }
        assert!(build("", "").is_ok_and(|admin| admin.address.is_none()));
    }
}
