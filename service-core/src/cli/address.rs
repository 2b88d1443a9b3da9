//! [`Address`]: where the admin interface of a running program is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hyper::Uri;

/// The address if none is given.
const DEFAULT: &str = "127.0.0.1:9876";
const DEFAULT_PORT: u16 = 9876;

/// Where the admin interface of a running program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Where the interface is mounted: `/admin`; empty if it has an address of its own.
    pub(crate) path: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // Nothing gives an address.
        let text = if text.is_empty() { DEFAULT } else { text };
        let wrong = || {
            "expected an address such as `127.0.0.1:9876`, or `http://127.0.0.1:8080/admin` for an interface that is mounted in \
             another server"
                .to_owned()
        };
        let has_scheme = text.contains("://");
        let uri = if has_scheme { text.parse::<Uri>() } else { format!("http://{text}").parse() };
        let uri = uri.map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(
                    "https is not supported: use the address behind the TLS proxy, or a tunnel to it".to_owned()
                );
            }
            _ => return Err(wrong()),
        }
        let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else { return Err(wrong()) };
        let after_host = authority.as_str().rsplit_once(host).map_or("", |(_, after)| after);
        let port = match (authority.port_u16(), after_host) {
            (Some(port), _) if port > 0 => port,
            (None, "") if has_scheme => 80,
            (None, "") => DEFAULT_PORT,
            _ => return Err(wrong()),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || uri.query().is_some() {
            return Err(wrong());
        }
        // A program that listens on all addresses is reached on loopback.
        let host = match host.parse() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
            _ => host.to_owned(),
        };
        Ok(Self { host, port, path: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl Address {
    /// Returns the host with the port, as in the header `Host`.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_a_port_or_an_http_url() {
        for (text, reached) in [
            ("", "127.0.0.1:9876"),
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("localhost", "localhost:9876"),
            ("station.internal:80", "station.internal:80"),
            ("0.0.0.0:9876", "127.0.0.1:9876"),
            ("[::]:9876", "[::1]:9876"),
            ("[::1]:7000", "[::1]:7000"),
            ("http://10.0.0.1", "10.0.0.1:80"),
            ("http://10.0.0.1:8080/admin/", "10.0.0.1:8080/admin"),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(reached.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_an_error_that_shows_one() {
        for text in [
            "localhost:70000",
            "localhost:",
            "localhost:0",
            "::1",
            "a b",
            "ftp://localhost",
            "http://",
            "localhost:80?a=b",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("127.0.0.1:9876"), "{text}: {error}");
        }
        assert!("https://station".parse::<Address>().unwrap_err().contains("https is not supported"));
    }
}
