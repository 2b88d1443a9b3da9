//! [`Webhook`]: posts alerts to a URL, over HTTP 1.1 without TLS.

use axum::body::Body;
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{Method, Request, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::admin::alerts::alert::ServiceAlert;
use crate::service::error::{Error, Result};

/// A URL that alerts are posted to.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    authority: Authority,
    path: PathAndQuery,
}

impl Webhook {
    /// # Errors
    /// The URL cannot be used.
    pub(crate) fn new(url: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::msg(format!(
                "the URL of `.alert_webhook(…)` {why}; expected a URL such as `http://alerts.internal:9000/services`"
            ))
        };
        // The URL is not repeated: it may have a secret in its path.
        let uri: Uri = url.trim().parse().map_err(|error| wrong(&format!("is not a valid URL ({error})")))?;
        if uri.scheme() == Some(&Scheme::HTTPS) {
            return Err(Error::msg(
                "the URL of `.alert_webhook(…)` begins with `https`, but this client has no TLS: use `http` to a proxy or to an \
                 Alertmanager that forwards the alerts, or send them with the application's own client: `.alert_with(…)`",
            ));
        }
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(wrong("does not begin with `http://`"));
        }
        let parts = uri.into_parts();
        let authority = parts.authority.filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user or a password, which are not sent: put a token into its path or query"));
        }
        Ok(Self { authority, path: parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")) })
    }

    /// The host, for logs.
    pub(crate) fn host(&self) -> &str {
        self.authority.as_str()
    }

    /// Sends one alert.
    ///
    /// # Errors
    /// The receiver does not answer; or it answers with another status than 2xx. If a retry cannot help, the error is
    /// fatal.
    pub(crate) async fn send(self, alert: ServiceAlert) -> Result<()> {
        let body = serde_json::to_vec(&alert).map_err(Error::fatal)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.path)
            .header(header::HOST, self.authority.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .header(header::USER_AGENT, concat!("service-core/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", &alert.id)
            .body(Body::from(body))
            .map_err(Error::fatal)?;
        let port = self.authority.port_u16().unwrap_or(80);
        let stream = TcpStream::connect(format!("{}:{port}", self.authority.host())).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Error::new)?;
        // It ends when `sender` is dropped. Its errors are those of the request.
        tokio::spawn(async move { _ = connection.await });
        let status = sender.send_request(request).await.map_err(Error::new)?.status();
        if status.is_success() {
            return Ok(());
        }
        let error = format!("it answered {status}");
        // A redirect can be that of a proxy that is being configured.
        let is_temporary =
            matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
        let is_final = status.is_client_error() && !is_temporary;
        Err(if is_final { Error::fatal(error) } else { Error::msg(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_an_error_that_names_the_fix_and_no_secret() {
        for (url, words) in [
            ("https://hooks.example.org/s3cret", "`.alert_with(…)`"),
            ("hooks.example.org/s3cret", "`http://"),
            ("ftp://hooks.example.org/s3cret", "`http://"),
            ("/s3cret", "`http://"),
            ("http://ann:s3cret@hooks.example.org/", "path or query"),
            ("http://:80/s3cret", "host"),
            ("", "URL"),
        ] {
            let error = Webhook::new(url).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("s3cret"), "{url}: {error}");
        }
        for url in ["http://localhost:9000/x?token=1", "http://[::1]", " http://10.0.0.1/ "] {
            assert!(Webhook::new(url).is_ok(), "{url}");
        }
        assert_eq!(Webhook::new("http://a:1/s3cret").unwrap().host(), "a:1");
    }
}
