//! `email_sender`: sends a digest of new extremes to the recipients.
//!
//! First it decides in one transaction what the next digest contains and who receives it; then it sends the mails. If
//! the process is killed in between, or after the server accepted a mail, it sends the same mail again with the same
//! `Message-ID`.

use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use service_core::{Secret, prelude::*};
use tracing::{info, warn};

use crate::mail::{self, MailError, Security, Transport};
use crate::tables::{PENDING, delivery, digest, extreme};

/// The most extremes in one digest.
const DIGEST: u64 = 50;
/// The most deliveries in one run.
const BATCH: u64 = 20;
/// The wait before the second attempt at a delivery that the server does not accept for now; twice as long before the
/// third.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// How long the deliveries of a process that was killed stay claimed.
const LEASE: Duration = Duration::from_secs(15);

/// `[email_sender]` in `services.toml`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    from: String,
    recipients: Vec<String>,
    /// The folder for mails, if there is no `smtp`.
    outbox: PathBuf,
    /// `host` or `host:port` of an SMTP server.
    smtp: Option<String>,
    tls: Security,
    username: Option<String>,
    password: Option<Secret<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            from: "Weather station <station@station.example>".into(),
            recipients: vec!["observer@station.example".into()],
            outbox: "outbox".into(),
            smtp: None,
            tls: Security::None,
            username: None,
            password: None,
        }
    }
}

/// The service.
pub struct EmailSender {
    from: Mailbox,
    recipients: Vec<Mailbox>,
    transport: Transport,
}

#[service(interval = 30, initial_delay = 5, timeout = "5m")]
impl EmailSender {
    fn configure(_cx: &Context, settings: Settings) -> Result<Self> {
        let mailbox = |key: &str, text: &str| {
            let parsed = text.parse::<Mailbox>();
            parsed
                .map_err(|error| Error::fatal(format!("[email_sender] {key} `{text}` is not a mail address: {error}")))
        };
        let credentials = match (settings.username, settings.password) {
            (Some(name), Some(password)) => Some(Credentials::new(name, password.expose().clone())),
            (None, None) => None,
            _ => return Err(Error::fatal("[email_sender] set both username and password, or neither")),
        };
        let transport = match settings.smtp {
            Some(server) => {
                if credentials.is_some() && settings.tls == Security::None {
                    warn!(
                        "the password for {server} is sent without encryption; set [email_sender] tls = \"starttls\""
                    );
                }
                info!("mails go to the server {server}");
                Transport::smtp(&server, settings.tls, credentials)
                    .map_err(|why| Error::fatal(format!("[email_sender] smtp `{server}`: {why}")))?
            }
            None => {
                info!(
                    "mails go to the folder {} (to send them, set [email_sender] smtp in services.toml)",
                    std::path::absolute(&settings.outbox)?.display()
                );
                Transport::Folder(settings.outbox)
            }
        };
        let recipients: Result<Vec<_>> = settings.recipients.iter().map(|text| mailbox("recipients", text)).collect();
        Ok(Self { from: mailbox("from", &settings.from)?, recipients: recipients?, transport })
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.write_digest(cx).await?;
        let mut batch = cx.claim_each::<delivery::Entity>(BATCH).retry_delay(FIRST_RETRY).lease(LEASE).await?;
        if batch.remaining() > 0 {
            // A server that cannot be reached does not cost a delivery an attempt.
            self.transport.check().await?;
        }
        while !cx.is_stopping()
            && let Some(item) = batch.next().await?
        {
            let to = &item.model().recipient;
            let sent = match self.deliver(cx, item.model()).await {
                Ok(extremes) => {
                    info!("{extremes} new extremes sent to {to}");
                    Ok(())
                }
                Err(error) => {
                    warn!("a digest to {to} was {error:#}");
                    match error.find::<MailError>() {
                        Some(MailError::Refused(_)) => Err(Error::fatal(error)),
                        Some(MailError::Later(_)) => Err(error),
                        // The next one would fail, too.
                        _ => return Err(error),
                    }
                }
            };
            item.settle(sent).await?;
        }
        batch.commit().await
    }

    /// Waits for a server that cannot be reached. Wrong credentials need a human.
    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        match failure.find::<MailError>() {
            Some(MailError::Away { .. }) => Recovery::Ignore,
            Some(MailError::Credentials { .. }) => Recovery::Stop,
            _ => failure.recovery(),
        }
    }

    /// Creates the next digest, if there are new extremes.
    async fn write_digest(&self, cx: &Context) -> Result<()> {
        if self.recipients.is_empty() {
            return Ok(());
        }
        let tx = cx.begin().await?;
        let new = extreme::Entity::find()
            .filter(extreme::Column::DigestId.is_null())
            .order_by_asc(extreme::Column::Id)
            .limit(DIGEST)
            .all(&tx)
            .await?;
        if new.is_empty() {
            return Ok(());
        }
        let digest = digest::ActiveModel {
            id: NotSet,
            message_id: Set(mail::message_id(&new, &self.from)),
            created_at: Set(Utc::now()),
        };
        let digest = digest.insert(&tx).await?;
        extreme::Entity::update_many()
            .col_expr(extreme::Column::DigestId, Expr::value(digest.id))
            .filter(extreme::Column::Id.is_in(new.iter().map(|row| row.id)))
            .exec(&tx)
            .await?;
        let deliveries = self.recipients.iter().map(|recipient| delivery::ActiveModel {
            id: NotSet,
            digest_id: Set(digest.id),
            recipient: Set(recipient.to_string()),
            status: Set(PENDING.to_owned()),
            error_message: Set(None),
            attempts: Set(0),
            due: Set(None),
            updated_at: Set(None),
        });
        delivery::Entity::insert_many(deliveries).exec_without_returning(&tx).await?;
        tx.commit().await
    }

    /// Sends one digest to one recipient. Returns the number of extremes. Reads outside the item's transaction, which
    /// would block all other writers on SQLite while the server answers.
    async fn deliver(&self, cx: &Context, row: &delivery::Model) -> Result<usize> {
        let db = cx.db()?;
        let digest = digest::Entity::find_by_id(row.digest_id).one(db).await?;
        let digest = digest.ok_or_else(|| Error::msg(format!("there is no digest {}", row.digest_id)))?;
        let extremes = extreme::Entity::find()
            .filter(extreme::Column::DigestId.eq(digest.id))
            .order_by_asc(extreme::Column::Id)
            .all(db)
            .await?;
        let to: Mailbox = row.recipient.parse()?;
        let mail = mail::compose(&digest, &extremes, &self.from, &to)?;
        self.transport.send(&mail, &mail::file_name(&digest, &to)).await?;
        Ok(extremes.len())
    }
}
