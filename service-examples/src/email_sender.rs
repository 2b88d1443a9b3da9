//! `email_sender`: tells the recipients of new extremes.
//!
//! First it decides what the next digest is and to whom it goes, in one transaction; then it sends what was decided.
//! Killed in between, or after the server took a mail, it sends the same mail again, under the same `Message-ID`.

use std::path::PathBuf;

use chrono::{TimeDelta, Utc};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};
use service_core::{Secret, prelude::*};
use tracing::{info, warn};

use crate::mail::{self, MailError, Transport};
use crate::tables::{COMPLETED, FAILED, PENDING, delivery, digest, extreme};

/// Extremes a digest tells of.
const DIGEST: u64 = 50;
/// Deliveries a run works off.
const BATCH: u64 = 20;
/// How often a delivery that is not accepted for now is tried.
const MAX_ATTEMPTS: i32 = 5;

/// `[email_sender]` in `services.toml`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    from: String,
    recipients: Vec<String>,
    /// Where mails go while there is no server.
    outbox: PathBuf,
    /// `host` or `host:port` of an SMTP server.
    smtp: Option<String>,
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
            _ => return Err(Error::fatal("[email_sender] username and password go together: set both or neither")),
        };
        let transport = match settings.smtp {
            Some(server) => Transport::smtp(&server, credentials).map_err(|why| {
                Error::fatal(format!("[email_sender] smtp `{server}`: {why}, expected host or host:port"))
            })?,
            None => Transport::Folder(settings.outbox),
        };
        let recipients: Result<Vec<_>> = settings.recipients.iter().map(|text| mailbox("recipients", text)).collect();
        Ok(Self { from: mailbox("from", &settings.from)?, recipients: recipients?, transport })
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.write_digest(cx).await?;
        let now = Utc::now();
        let due = delivery::Entity::find()
            .filter(delivery::Column::Status.eq(PENDING))
            .filter(delivery::Column::Due.is_null().or(delivery::Column::Due.lte(now)))
            .order_by_asc(delivery::Column::Id)
            .limit(BATCH)
            .all(cx.db()?)
            .await?;
        if due.is_empty() {
            return Ok(Outcome::idle());
        }
        // Before anything is charged for a server that is not there.
        self.transport.check().await?;
        let (mut sent, mut failed) = (0, 0);
        let more = due.len() as u64 == BATCH;
        for row in due {
            if cx.is_stopping() {
                break;
            }
            let result = self.deliver(cx, &row).await;
            let attempts = row.attempts + 1;
            let mut row = row.into_active_model();
            row.attempts = Set(attempts);
            row.updated_at = Set(Some(Utc::now()));
            match result {
                Ok(()) => {
                    sent += 1;
                    row.status = Set(COMPLETED.to_owned());
                    row.error_message = Set(None);
                }
                Err(error) => {
                    failed += 1;
                    let again = error.find::<MailError>().is_some_and(|e| matches!(e, MailError::Later(_)));
                    warn!("a digest to {} was {error:#}", row.recipient.as_ref());
                    row.error_message = Set(Some(format!("{error:#}")));
                    if again && attempts < MAX_ATTEMPTS {
                        row.due = Set(Some(Utc::now() + TimeDelta::minutes(1 << attempts)));
                    } else if error
                        .find::<MailError>()
                        .is_some_and(|e| matches!(e, MailError::Refused(_) | MailError::Later(_)))
                    {
                        row.status = Set(FAILED.to_owned());
                    } else {
                        return Err(error);
                    }
                }
            }
            row.update(cx.db()?).await?;
        }
        let outcome = Outcome::processed(sent).failed(failed);
        Ok(if more { outcome.again() } else { outcome })
    }

    /// A server that is away is waited for; wrong credentials are for a human.
    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        match failure.find::<MailError>() {
            Some(MailError::Away { .. }) => Recovery::Ignore,
            Some(MailError::Credentials { .. }) => Recovery::Stop,
            _ => failure.recovery(),
        }
    }

    /// Decides on the next digest, if there is anything new.
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

    async fn deliver(&self, cx: &Context, row: &delivery::Model) -> Result<()> {
        let digest = digest::Entity::find_by_id(row.digest_id).one(cx.db()?).await?;
        let digest = digest.ok_or_else(|| Error::msg(format!("there is no digest {}", row.digest_id)))?;
        let extremes = extreme::Entity::find()
            .filter(extreme::Column::DigestId.eq(digest.id))
            .order_by_asc(extreme::Column::Id)
            .all(cx.db()?)
            .await?;
        let to: Mailbox = row.recipient.parse()?;
        let mail = mail::compose(&digest, &extremes, &self.from, &to)?;
        self.transport.send(&mail, &mail::file_name(&digest, &to)).await?;
        info!("{} new extremes sent to {to}", extremes.len());
        Ok(())
    }
}
