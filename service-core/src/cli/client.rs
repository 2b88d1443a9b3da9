//! [`Client`]: requests to the admin interface of a running program.

use std::env::VarError;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::admin::AdminInCode;
use crate::cli::address::Address;
use crate::cli::cli_error::CliError;
use crate::humanize;
use crate::observe::health::ServiceHealth;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server answers reading within milliseconds, unless its database hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// A stop waits for the current run and for `cleanup`.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Sends requests to the admin interface of a running program.
pub(crate) struct Client {
    address: Address,
    token: Option<String>,
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Client {
    /// Returns a client for the address that the arguments or ADMIN_ADDR give, else the one of the program's code. The
    /// token is that of ADMIN_TOKEN, else of the code.
    ///
    /// # Errors
    /// The address in the code is wrong, or ADMIN_TOKEN is not valid UTF-8.
    pub(crate) fn new(given: Option<&Address>, code: AdminInCode) -> Result<Self, CliError> {
        let address = match given {
            Some(address) => address.clone(),
            None => {
                let wrong = |why| CliError::Refused(format!("the address of `.admin(…)` cannot be used: {why}"));
                code.address.unwrap_or_default().parse().map_err(wrong)?
            }
        };
        let variable = match std::env::var("ADMIN_TOKEN") {
            Err(VarError::NotUnicode(_)) => {
                return Err(CliError::Refused("the environment variable ADMIN_TOKEN is not valid UTF-8".to_owned()));
            }
            variable => variable.ok(),
        };
        // As the program does.
        let given =
            |token: Option<String>| token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Ok(Self { address, token: given(variable).or(given(code.token)) })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.request(Method::GET, path, Bytes::new(), READ_TIMEOUT).await
    }

    /// Returns the health of all services.
    ///
    /// # Errors
    /// It cannot be read. An admin interface has this page, so the answer 404 is that of another server.
    pub(crate) async fn services(&self) -> Result<Vec<ServiceHealth>, CliError> {
        match self.get("/services").await {
            Err(CliError::NotFound(error)) => {
                let why = format!("it answers `{}`: {error}", StatusCode::NOT_FOUND);
                Err(CliError::Unreachable(self.is_no_admin_interface(&why)))
            }
            answer => answer,
        }
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Refused(error.to_string()))?;
        self.request(Method::POST, path, body.into(), CHANGE_TIMEOUT).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, CliError> {
        let request = Request::builder()
            .method(&method)
            .uri(format!("{}{path}", self.address.path))
            .header(HOST, self.address.authority())
            .header(CONTENT_TYPE, "application/json");
        let request = match &self.token {
            Some(token) => request.header(AUTHORIZATION, bearer(token)?),
            None => request,
        };
        let request = request.body(Full::new(body)).map_err(|error| CliError::Refused(error.to_string()))?;
        let stream = self.connect().await?;
        let reads = method == Method::GET;
        let why = match tokio::time::timeout(limit, exchange(stream, request)).await {
            Ok(Ok((status, answer))) => return self.read(status, &answer),
            Ok(Err(error)) => self.is_no_admin_interface(&error.to_string()),
            Err(_) if reads => format!("{} does not answer within {}", self.address, humanize::long(limit)),
            Err(_) => format!("{} has not answered within {}", self.address, humanize::long(limit)),
        };
        let result = if reads { "" } else { "; the command may still be carried out, see `status`" };
        Err(CliError::Unreachable(why + result))
    }

    async fn connect(&self) -> Result<TcpStream, CliError> {
        let connecting = TcpStream::connect((self.address.host.as_str(), self.address.port));
        let why = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => in_words(&error),
            Err(_) => format!("no answer within {}", humanize::long(CONNECT_TIMEOUT)),
        };
        Err(CliError::Unreachable(format!(
            "cannot reach {} ({why}): is the program running, with `.admin(…)`? `--address` or ADMIN_ADDR sets another address",
            self.address
        )))
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, answer: &[u8]) -> Result<T, CliError> {
        if status.is_success() {
            return serde_json::from_slice(answer)
                .map_err(|error| CliError::Unreachable(self.is_no_admin_interface(&error.to_string())));
        }
        let Ok(Refusal { error }) = serde_json::from_slice(answer) else {
            return Err(CliError::Unreachable(self.is_no_admin_interface(&format!("it answers `{status}`"))));
        };
        Err(match (status, &self.token) {
            (StatusCode::NOT_FOUND, _) => CliError::NotFound(error),
            (StatusCode::UNAUTHORIZED, None) => {
                CliError::Refused(format!("the program at {} requires a token: set ADMIN_TOKEN", self.address))
            }
            (StatusCode::UNAUTHORIZED, Some(_)) => {
                CliError::Refused(format!("the token is not that of the program at {}: set ADMIN_TOKEN", self.address))
            }
            _ => CliError::Refused(error),
        })
    }

    fn is_no_admin_interface(&self, why: &str) -> String {
        format!(
            "{} does not answer as an admin interface does ({why}): `--address` or ADMIN_ADDR sets another address",
            self.address
        )
    }
}

fn bearer(token: &str) -> Result<HeaderValue, CliError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        let why = "the token (ADMIN_TOKEN, or `.admin_token(…)`) has characters that a header cannot contain";
        CliError::Refused(why.to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

type Answer = (StatusCode, Bytes);

async fn exchange(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the answer has been read; its errors are also those of the request.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await?;
    Ok((status, answer.to_bytes()))
}

/// The error without the number of the operating system.
fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.kind().to_string(),
        None => error.to_string(),
    }
}
