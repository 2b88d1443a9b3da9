//! Composes a digest and delivers it: into a folder, or to an SMTP server.
//!
//! A mail may be sent twice: the server accepted it, and the process was killed before it could record that. So the
//! mail is composed from its rows alone, with their hash in `Message-ID` and their date in `Date`: the second mail
//! equals the first.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp;
use lettre::transport::smtp::AsyncSmtpTransportBuilder;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::import;
use crate::inbox;
use crate::tables::{digest, extreme};

/// The limit of one step of the conversation with the server.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a mail was not delivered. The errors of `lettre` print their own causes.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server refused this mail permanently.
    #[error("refused: {0}")]
    Refused(smtp::Error),
    /// The server did not accept this mail for now.
    #[error("not accepted for now: {0}")]
    Later(smtp::Error),
    /// The server cannot be reached, so no mail can be sent.
    #[error("the mail server {server} cannot be reached: {error}")]
    Away { server: String, error: smtp::Error },
    /// The server rejects the credentials, so no mail can be sent until a human corrects them.
    #[error("the mail server {server} does not accept `username` and `password` of [email_sender]: {error}")]
    Credentials { server: String, error: smtp::Error },
    #[error("cannot write to the outbox")]
    Outbox(#[from] io::Error),
    #[error("cannot compose")]
    Compose(#[from] lettre::error::Error),
}

/// How mails are delivered.
pub enum Transport {
    /// Each mail becomes a file in this folder.
    Folder(PathBuf),
    Smtp {
        server: String,
        client: AsyncSmtpTransport<Tokio1Executor>,
    },
}

/// How the connection to the server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Not encrypted: for a relay on this machine or in a trusted network.
    #[default]
    None,
    /// The connection begins without TLS and changes to TLS.
    StartTls,
    /// The whole connection uses TLS.
    Tls,
}

impl Transport {
    /// Uses a server, which is given as `host` or `host:port`.
    pub fn smtp(server: &str, security: Security, credentials: Option<Credentials>) -> Result<Self, String> {
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("`{port}` is not a port"))?),
            None => (server, security.usual_port()),
        };
        let client =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port).timeout(Some(STEP_TIMEOUT));
        let mut client = security.apply(client, host)?;
        if let Some(credentials) = credentials {
            client = client.credentials(credentials);
        }
        Ok(Self::Smtp { server: server.to_owned(), client: client.build() })
    }

    /// Checks that mails can be sent.
    pub async fn check(&self) -> Result<(), MailError> {
        match self {
            Self::Folder(folder) => Ok(tokio::fs::create_dir_all(folder).await?),
            Self::Smtp { server, client } => {
                client.test_connection().await.map(drop).map_err(|error| sort(server, error))
            }
        }
    }

    /// Sends one mail to one recipient.
    pub async fn send(&self, mail: &Message, name: &str) -> Result<(), MailError> {
        match self {
            // The same mail has the same name, so it overwrites itself.
            Self::Folder(folder) => Ok(inbox::write(&folder.join(name), &mail.formatted(), None).await?),
            Self::Smtp { server, client } => match client.send(mail.clone()).await {
                Ok(_) => Ok(()),
                Err(error) => Err(sort(server, error)),
            },
        }
    }
}

impl Security {
    fn usual_port(self) -> u16 {
        match self {
            Self::None => smtp::SMTP_PORT,
            Self::StartTls => smtp::SUBMISSION_PORT,
            Self::Tls => smtp::SUBMISSIONS_PORT,
        }
    }

    #[cfg(feature = "tls")]
    fn apply(self, client: AsyncSmtpTransportBuilder, host: &str) -> Result<AsyncSmtpTransportBuilder, String> {
        use lettre::transport::smtp::client::{Tls, TlsParameters};
        let parameters = || TlsParameters::new(host.to_owned()).map_err(|error| error.to_string());
        Ok(client.tls(match self {
            Self::None => Tls::None,
            Self::StartTls => Tls::Required(parameters()?),
            Self::Tls => Tls::Wrapper(parameters()?),
        }))
    }

    #[cfg(not(feature = "tls"))]
    fn apply(self, client: AsyncSmtpTransportBuilder, _host: &str) -> Result<AsyncSmtpTransportBuilder, String> {
        match self {
            Self::None => Ok(client),
            Self::StartTls | Self::Tls => {
                Err("this program was built without TLS: build it with `--features tls`, or set tls = \"none\"".into())
            }
        }
    }
}

/// Classifies an error by the server's answer: the address, the moment or the server is bad.
fn sort(server: &str, error: smtp::Error) -> MailError {
    let server = server.to_owned();
    match error.status().map(|code| code.to_string()).as_deref() {
        Some("530" | "534" | "535" | "538") => MailError::Credentials { server, error },
        // The server offers no way to log in.
        None if error.is_client() => MailError::Credentials { server, error },
        // The server is about to close the connection; the mail is not the reason.
        Some("421") => MailError::Away { server, error },
        _ if error.is_permanent() => MailError::Refused(error),
        _ if error.is_transient() => MailError::Later(error),
        _ => MailError::Away { server, error },
    }
}

/// Returns the `Message-ID` of a digest with these extremes.
pub fn message_id(extremes: &[extreme::Model], sender: &Mailbox) -> String {
    let rows: String =
        extremes.iter().map(|row| format!("{} {} {} {}\n", row.id, row.kind, row.date, row.value)).collect();
    let hash = import::hash(rows.as_bytes());
    format!("<extremes.{}@{}>", hash.get(..16).unwrap_or(&hash), sender.email.domain())
}

/// Returns the name of the file for a mail to this recipient.
pub fn file_name(digest: &digest::Model, recipient: &Mailbox) -> String {
    let keep = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && !"@.-_".contains(c), "_");
    let id = digest.message_id.trim_matches(['<', '>']).split('@').next().unwrap_or_default();
    format!("{:04}-{}-{}.eml", digest.id, keep(id), keep(recipient.email.as_ref()))
}

/// Composes the mail of a digest.
pub fn compose(
    digest: &digest::Model,
    extremes: &[extreme::Model],
    from: &Mailbox,
    to: &Mailbox,
) -> Result<Message, MailError> {
    let mut body = String::from("Broken records, oldest first:\r\n\r\n");
    for row in extremes {
        let unit = match row.kind.as_str() {
            "wettest" => "mm",
            "windiest" => "m/s",
            _ => "°C",
        };
        body += &format!(
            "{}  {:<8}  {:>5.1} {unit:<3}  (before: {:.1} {unit} on {})\r\n",
            row.date, row.kind, row.value, row.former_value, row.former_date
        );
    }
    let plural = if extremes.len() == 1 { "" } else { "s" };
    let mail = Message::builder()
        .message_id(Some(digest.message_id.clone()))
        .date(SystemTime::from(digest.created_at))
        .from(from.clone())
        .to(to.clone())
        .subject(format!("{} new extreme{plural} at the station", extremes.len()))
        .header(ContentType::TEXT_PLAIN)
        .body(body)?;
    Ok(mail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> (digest::Model, Vec<extreme::Model>, Mailbox) {
        let date = |day| chrono::NaiveDate::from_ymd_opt(2012, 1, day).unwrap();
        let extremes = vec![extreme::Model {
            id: 7,
            kind: "coldest".into(),
            date: date(3),
            value: -1.5,
            former_date: date(2),
            former_value: 2.8,
            digest_id: Some(1),
        }];
        let from: Mailbox = "Station <station@station.example>".parse().unwrap();
        let message_id = message_id(&extremes, &from);
        (digest::Model { id: 1, message_id, created_at: chrono::DateTime::UNIX_EPOCH }, extremes, from)
    }

    #[test]
    fn the_same_rows_give_the_same_mail() {
        let (digest, extremes, from) = digest();
        let to: Mailbox = "a/b@example.org".parse().unwrap();
        let mail = || compose(&digest, &extremes, &from, &to).unwrap().formatted();
        assert_eq!(mail(), mail());
        let text = String::from_utf8(mail()).unwrap();
        assert!(text.contains(&format!("Message-ID: {}\r\n", digest.message_id)), "{text}");
        assert!(text.contains("Subject: 1 new extreme at the station\r\n"), "{text}");
        assert!(text.contains("2012-01-03  coldest    -1.5 =C2=B0C") || text.contains("-1.5 °C"), "{text}");
        // The address of a recipient cannot select a path outside the outbox.
        assert!(!file_name(&digest, &to).contains('/'));
    }

    #[test]
    fn other_rows_give_another_message_id() {
        let (digest, mut extremes, from) = digest();
        extremes[0].value = -1.6;
        assert_ne!(message_id(&extremes, &from), digest.message_id);
    }

    #[test]
    fn a_server_is_a_host_with_an_optional_port() {
        let open = |server, security| Transport::smtp(server, security, None).err().unwrap_or_default();
        assert_eq!(open("localhost", Security::None), "");
        assert_eq!(open("localhost:2525", Security::None), "");
        assert_eq!(open("localhost:smtp", Security::None), "`smtp` is not a port");
        let tls = open("localhost", Security::Tls);
        assert_eq!(tls.contains("built without TLS"), !cfg!(feature = "tls"), "{tls}");
    }
}
