//! Servers and poolers that refuse a connection with an error of their own: the error is shown, with advice where there
//! is one.

use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait};
use service_core::database;
use service_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::away::{health, until};

/// Answers each connection with this error. Returns the URL.
async fn refusing_server(sqlstate: &'static str, message: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let Ok(mut length) = client.read(&mut buffer).await else { return };
                // A request for TLS, which is refused first.
                if buffer[..length].starts_with(&[0, 0, 0, 8, 4, 210, 22, 47]) {
                    let _ = client.write_all(b"N").await;
                    length = client.read(&mut buffer).await.unwrap_or_default();
                }
                if length == 0 {
                    return;
                }
                let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0");
                let size = u32::try_from(fields.len() + 4).unwrap();
                let answer = [b"E".as_slice(), &size.to_be_bytes(), fields.as_bytes()].concat();
                let _ = client.write_all(&answer).await;
            });
        }
    });
    format!("postgres://tester:secret@{address}/app")
}

#[derive(Default)]
struct Keeper;

#[service(interval = "50ms", retry_delay = "50ms", max_failures = 2, discover = false)]
impl Keeper {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.store().set("seen", &true).await
    }
}

/// Uses the pool without the framework's tables.
#[derive(Default)]
struct Direct;

#[service(interval = "50ms", retry_delay = "50ms", max_failures = 2, discover = false)]
impl Direct {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let tx = cx.begin().await?;
        tx.execute_unprepared("SELECT 1").await?;
        tx.commit().await
    }
}

const ADVICE: &str = "ignore_startup_parameters = extra_float_digits";

/// PgBouncer refuses a parameter that the driver sends at the start of a connection, with 08P01 and a text that differs
/// between its versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_refuses_a_parameter_is_explained() {
    for message in ["unsupported startup parameter: extra_float_digits", "nicht unterstützter Parameter"] {
        let url = refusing_server("08P01", message).await;
        let error = format!("{:#}", database::connect(&url).await.unwrap_err());
        assert!(error.contains(ADVICE) && error.contains(message) && !error.contains("secret"), "{error}");
        let mut options = ConnectOptions::new(&url);
        options.acquire_timeout(Duration::from_secs(2));
        let plain = ServiceRegistry::builder().database_url(&url);
        for builder in [plain, ServiceRegistry::builder().database_with(options)] {
            let services = builder
                .without_discovered()
                .service_of::<Keeper>("keeper")
                .service_of::<Direct>("direct")
                .start_all()
                .await
                .unwrap();
            for id in ["keeper", "direct"] {
                until("the advice is in health", || {
                    let found = health(&services, id);
                    let shown =
                        |text: Option<String>| text.is_some_and(|text| text.contains(ADVICE) && text.contains(message));
                    shown(found.last_error) && shown(found.reason)
                })
                .await;
                let count = health(&services, id).error_count;
                until("more failures than the limit", || health(&services, id).error_count > count + 2).await;
                assert_eq!(health(&services, id).state, ServiceState::BackingOff, "an outage");
            }
            services.shutdown().await.unwrap();
        }
    }
}

/// Other refusals are shown as they are, and get no advice about poolers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_refusals_of_a_connection_are_shown_as_they_are() {
    for (sqlstate, message) in [
        ("28P01", "Passwort-Authentifizierung für Benutzer »tester« fehlgeschlagen"),
        ("3D000", "database \"app\" does not exist"),
        ("53300", "sorry, too many clients already"),
        ("57P03", "the database system is starting up"),
    ] {
        let url = refusing_server(sqlstate, message).await;
        let mut options = ConnectOptions::new(&url);
        options.acquire_timeout(Duration::from_secs(2));
        let services = ServiceRegistry::builder()
            .without_discovered()
            .service_of::<Keeper>("keeper")
            .database_with(options)
            .start_all()
            .await
            .unwrap();
        until("the message is in health", || {
            let found = health(&services, "keeper");
            let shown =
                |text: Option<String>| text.is_some_and(|text| text.contains(message) && !text.contains(ADVICE));
            shown(found.last_error) && shown(found.reason)
        })
        .await;
        let count = health(&services, "keeper").error_count;
        until("more failures than the limit", || health(&services, "keeper").error_count > count + 2).await;
        assert_eq!(health(&services, "keeper").state, ServiceState::BackingOff, "an outage");
        services.shutdown().await.unwrap();
    }
}
