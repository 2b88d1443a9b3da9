//! Who may do what: the token, other sites, other hosts.
//!
//! The tricky part is a browser. A page of another site can make it send requests to a loopback address, or point a
//! host name of its own at it. So on loopback only loopback's host names are answered, and requests that another site
//! began are refused.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use cookie::{Cookie, SameSite};
use subtle::ConstantTimeEq;

use crate::admin::error::ApiError;
use crate::service::error::{Error, Result};
use crate::service::secret::Secret;

/// The name of the cookie that holds the token.
pub(crate) const COOKIE: &str = "service_admin";

/// The token. It has no space around it, because a header cannot have that, either.
#[derive(Clone, Debug)]
pub(crate) struct Token(Secret<String>);

impl Token {
    /// Returns the token; `None` if the text is empty. The error names `place`.
    ///
    /// # Errors
    /// A header cannot contain it.
    pub(crate) fn parse(text: &str, place: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if HeaderValue::from_str(text).is_err() {
            let why = "has characters that a header cannot contain, such as a line break, so no request could send it";
            return Err(Error::msg(format!("the token of {place} {why}")));
        }
        Ok((!text.is_empty()).then(|| Self(Secret::new(text.to_owned()))))
    }

    /// Compares in a time that does not depend on where the texts differ.
    pub(crate) fn is(&self, other: &str) -> bool {
        self.0.expose().as_bytes().ct_eq(other.as_bytes()).into()
    }
}

/// From where the interface can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// An address of its own, on loopback.
    Loopback,
    /// An address of its own that others can reach.
    Network,
    /// The application's own server, whose address is not known.
    Mounted,
}

/// Who may do what.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    exposure: Exposure,
    token: Option<Token>,
}

/// What is known of the sender of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// May see details.
    pub(crate) is_trusted: bool,
}

impl Access {
    pub(crate) fn new(exposure: Exposure, token: Option<Token>) -> Self {
        Self { exposure, token }
    }

    /// Whether the sender may see details.
    pub(crate) fn is_trusted(&self, headers: &HeaderMap) -> bool {
        self.exposure == Exposure::Loopback || self.has_token(headers)
    }

    /// Whether the request needs the token.
    pub(crate) fn needs_token(&self, method: &Method, path: &str) -> bool {
        // The style sheet is for the page that asks for the token.
        let is_open = path.starts_with("/health/") || path == "/login" || path.starts_with("/assets/");
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match self.exposure {
            Exposure::Loopback => self.token.is_some() && !reads && !is_open,
            Exposure::Network | Exposure::Mounted => !is_open,
        }
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return false };
        // Not `to_str`, which refuses all but ASCII.
        let sent = headers.get_all(header::AUTHORIZATION).iter();
        let bearer = sent.filter_map(|value| str::from_utf8(value.as_bytes()).ok());
        let mut bearer = bearer.filter_map(|value| value.split_once(' '));
        bearer.any(|(scheme, sent)| scheme.eq_ignore_ascii_case("bearer") && token.is(sent.trim()))
            || cookies(headers).any(|cookie| cookie.name() == COOKIE && token.is(cookie.value()))
    }

    /// Whether this is the token.
    pub(crate) fn is_token(&self, sent: &str) -> bool {
        self.token.as_ref().is_some_and(|token| token.is(sent))
    }

    /// Whether the application's own server serves the interface.
    pub(crate) fn is_mounted(&self) -> bool {
        self.exposure == Exposure::Mounted
    }

    pub(crate) fn has_a_token(&self) -> bool {
        self.token.is_some()
    }

    /// Returns why the request is refused, if it is.
    pub(crate) fn refusal(&self, request: &Request) -> Option<ApiError> {
        let (headers, path) = (request.headers(), request.uri().path());
        let host = host(request);
        if self.exposure == Exposure::Loopback && !host.as_ref().is_some_and(is_loopback) {
            let why = "this address only answers requests for `localhost` and loopback addresses (header Host)";
            return Some(ApiError::new(StatusCode::FORBIDDEN, why));
        }
        if !is_link(request) && !is_same_site(headers, host.as_ref()) {
            let why = "requests from other sites are refused (headers Origin and Sec-Fetch-Site)";
            return Some(ApiError::new(StatusCode::FORBIDDEN, why));
        }
        if self.needs_token(request.method(), path) && !self.has_token(headers) {
            let why = match self.token {
                Some(_) => "this needs the token: send it as `Authorization: Bearer …`, or log in at /login",
                None => "this needs a token, and the program has none: start it with ADMIN_TOKEN set",
            };
            return Some(ApiError::new(StatusCode::UNAUTHORIZED, why));
        }
        None
    }
}

/// Returns the cookie that holds the token.
pub(crate) fn login_cookie(token: &str, headers: &HeaderMap) -> Option<HeaderValue> {
    let is_https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    // Without a path, it is sent to the directory of `/login`: where the interface is mounted.
    let cookie = Cookie::build((COOKIE, token)).http_only(true).same_site(SameSite::Strict).secure(is_https).build();
    HeaderValue::from_str(&cookie.encoded().to_string()).ok()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = Cookie<'_>> {
    // Other cookies of the same host may have any bytes.
    let texts = headers.get_all(header::COOKIE).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    texts.flat_map(|text| Cookie::split_parse_encoded(text).filter_map(Result::ok))
}

/// Returns the host that the request is for. With HTTP/2 it is in the URI, and there is no header `Host`.
fn host(request: &Request) -> Option<Authority> {
    let mut all = request.headers().get_all(header::HOST).iter();
    let Some(host) = all.next() else { return request.uri().authority().cloned() };
    let host = host.to_str().ok()?;
    if all.next().is_some() { None } else { host.parse().ok() }
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    address.map_or_else(|_| name == "localhost" || name.ends_with(".localhost"), |address| address.is_loopback())
}

/// Whether this is the path of a page, not of the API.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/" || path == "/login" || path.starts_with("/ui/")
}

/// Whether a user follows a link to a page. That changes nothing, and shows nothing to the site of the link.
fn is_link(request: &Request) -> bool {
    let is = |name: &str, value: &str| request.headers().get(name).is_some_and(|sent| sent == value);
    request.method() == Method::GET
        && is_page(request.uri().path())
        && !request.headers().contains_key(header::ORIGIN)
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
}

fn is_same_site(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    let from_here = |value: &HeaderValue| value == "same-origin" || value == "none";
    if !headers.get_all("sec-fetch-site").iter().all(from_here) {
        return false;
    }
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        let authority = origin.as_ref().and_then(Uri::authority);
        authority.is_some_and(|origin| host == Some(origin))
    })
}
