//! Database URLs: which engine they name, and how messages show them.

use sea_orm::DbBackend;

use crate::config::redact_url;
use crate::service::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    SqliteFile,
    SqliteMemory,
    Postgres,
}

impl Engine {
    pub(crate) fn backend(self) -> DbBackend {
        match self {
            Self::SqliteFile | Self::SqliteMemory => DbBackend::Sqlite,
            Self::Postgres => DbBackend::Postgres,
        }
    }
}

/// A parsed database URL.
#[derive(Debug)]
pub(crate) struct DatabaseUrl<'a> {
    given: &'a str,
    pub(crate) engine: Engine,
    pub(crate) read_only: bool,
}

impl<'a> DatabaseUrl<'a> {
    pub(crate) fn parse(given: &'a str) -> Result<Self> {
        let (scheme, rest) = given.split_once(':').unwrap_or((given, ""));
        // Other libraries accept `host=db password=…`, so text that is not a URL can contain a password and is not
        // shown.
        if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._/\\".contains(c)) {
            return Err(Error::fatal(
                "this is not a database URL: write `sqlite:app.db`, or `postgres://user:password@host/database`",
            ));
        }
        if !given.contains(':') {
            return Err(Error::fatal(format!(
                "`{given}` is not a database URL: write `sqlite:{}` for a file, \
                 or `postgres://user:password@host/database`",
                if given.is_empty() { "app.db" } else { given }
            )));
        }
        let engine = match scheme {
            "sqlite" if is_memory(rest) => Engine::SqliteMemory,
            "sqlite" if rest.trim_start_matches('/').is_empty() => {
                return Err(Error::fatal(
                    "`sqlite:` lacks the file's name: write `sqlite:app.db` or `sqlite::memory:`",
                ));
            }
            "sqlite" => Engine::SqliteFile,
            "postgres" | "postgresql" => Engine::Postgres,
            other => {
                return Err(Error::fatal(format!("`{other}:` is not supported: use `sqlite:…` or `postgres://…`")));
            }
        };
        let read_only = engine == Engine::SqliteFile && parameters(rest).any(|p| p == "mode=ro" || p == "immutable=1");
        Ok(Self { given, engine, read_only })
    }

    /// Whether the URL requires TLS. `default_mode` is the value of the variable `PGSSLMODE`, which the driver reads.
    #[cfg(feature = "postgres")]
    pub(crate) fn requires_tls(&self, default_mode: Option<&str>) -> bool {
        let parameters = parameters(self.given).filter_map(|parameter| parameter.split_once('='));
        let mode = parameters.filter(|(name, _)| matches!(*name, "sslmode" | "ssl-mode")).map(|(_, mode)| mode).last();
        let requires =
            |mode: &str| ["require", "verify-ca", "verify-full"].iter().any(|tls| mode.eq_ignore_ascii_case(tls));
        self.engine == Engine::Postgres && mode.or(default_mode).is_some_and(requires)
    }

    /// The URL without its password.
    pub(crate) fn shown(&self) -> String {
        redact_url(self.given)
    }

    /// The URL for the driver: a missing file is created, unless the URL sets a mode.
    pub(crate) fn url(&self) -> String {
        if self.engine != Engine::SqliteFile || parameters(self.given).any(|p| p.starts_with("mode=")) {
            return self.given.to_owned();
        }
        let joint = if self.given.contains('?') { '&' } else { '?' };
        format!("{}{joint}mode=rwc", self.given)
    }
}

fn is_memory(rest: &str) -> bool {
    let name = rest.split('?').next().unwrap_or_default();
    name.trim_start_matches('/') == ":memory:" || parameters(rest).any(|p| p == "mode=memory")
}

fn parameters(url: &str) -> impl Iterator<Item = &str> {
    url.split_once('?').map_or("", |(_, parameters)| parameters).split('&')
}

/// How messages name the database at this URL.
pub(crate) fn display_name(url: &str) -> String {
    format!("database `{}`", redact_url(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_created_unless_the_url_says_otherwise() {
        for (given, opened) in [
            ("sqlite:app.db", "sqlite:app.db?mode=rwc"),
            ("sqlite://app.db?cache=private", "sqlite://app.db?cache=private&mode=rwc"),
            ("sqlite:app.db?mode=ro", "sqlite:app.db?mode=ro"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("postgres://a@b/c", "postgres://a@b/c"),
        ] {
            assert_eq!(DatabaseUrl::parse(given).unwrap().url(), opened);
        }
    }

    #[test]
    fn the_error_about_a_wrong_url_shows_the_right_form() {
        for (given, part) in [
            ("app.db", "write `sqlite:app.db`"),
            ("", "write `sqlite:app.db`"),
            ("host=db user=ann", "write `sqlite:app.db`, or `postgres://"),
            ("sqlite:", "lacks the file's name"),
            ("mysql://localhost/x", "use `sqlite:…` or `postgres://…`"),
        ] {
            let message = DatabaseUrl::parse(given).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn tls_is_required_where_the_mode_says_so() {
        for (url, required) in [
            ("postgres://db/app?sslmode=require", true),
            ("postgres://db/app?a=b&ssl-mode=VERIFY-FULL", true),
            ("postgres://db/app?sslmode=prefer", false),
            ("postgres://db/app", false),
            ("sqlite:app.db?sslmode=require", false),
        ] {
            let url = DatabaseUrl::parse(url).unwrap();
            assert_eq!(url.requires_tls(None), required, "{url:?}");
            let has_mode = url.given.contains("mode=");
            assert_eq!(url.requires_tls(Some("prefer")), required, "{url:?}");
            let is_postgres = url.engine == Engine::Postgres;
            assert_eq!(url.requires_tls(Some("require")), required || is_postgres && !has_mode, "{url:?}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("postgres://ann:se:cr@t@db:5432/app", "postgres://ann:•••@db:5432/app"),
            ("postgres://ann@db/app", "postgres://ann@db/app"),
            ("sqlite:app.db", "sqlite:app.db"),
            ("sqlite:app.db?key=secret&mode=ro", "sqlite:app.db?key=•••&mode=ro"),
            ("postgres://db/app?user=ann&password=s%20@t", "postgres://db/app?user=ann&password=•••"),
            ("postgres://ann:pw@db/app?host=/run", "postgres://ann:•••@db/app?host=/run"),
            ("postgres://db/app?pass%77ord=secret", "postgres://db/app?pass%77ord=•••"),
            ("postgres://ann:se cr'et@db/app", "postgres://ann:•••@db/app"),
            ("postgres://db/app?password=se cr,et&a=b", "postgres://db/app?password=•••&a=b"),
        ] {
            assert_eq!(redact_url(url), shown);
        }
        for url in [
            "postgres://db:1/app?user=ann&password=s@ecret",
            "postgres://ann:pw@db:1/app?password=x@ecret",
            "postgres://ann:pw?s@ecret@db/app",
        ] {
            let shown = redact_url(url);
            assert!(!shown.contains("ecret") && !shown.contains("pw"), "{shown}");
        }
        for given in ["host=db password=secret", "host=db password=secret:1", "ann:secret@db/app", "//ann:secret@db"] {
            let message = DatabaseUrl::parse(given).unwrap_err().to_string();
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
