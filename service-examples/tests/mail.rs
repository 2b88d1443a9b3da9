//! `email_sender` with a mail server that works, refuses, fails or cannot be reached.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::TcpListener;

use support::smtp::{Manner, SmtpServer};
use support::{Station, text};

fn mailing(server: &str) -> Station {
    Station::new().env("SERVICES__EMAIL_SENDER__SMTP", server).env("SERVICES__DATA_PROCESSOR__BATCH_SIZE", 200)
}

fn delivered(station: &Station) -> i64 {
    station.value("SELECT count(*) FROM delivery WHERE status = 'completed'")
}

#[test]
fn every_recipient_gets_the_digest_and_a_refused_one_does_not_delay_the_others() {
    let server = SmtpServer::start(Manner::Friendly);
    let station = mailing(&server.address.to_string()).env(
        "SERVICES__EMAIL_SENDER__RECIPIENTS",
        r#"["ada@example.org", "refused@example.org", "grace@example.org"]"#,
    );
    let printed = station.once();
    assert!(printed.contains("refused@example.org was refused") && printed.contains("no such user here"), "{printed}");
    let failed = station.query("SELECT recipient, error_message FROM delivery WHERE status = 'failed'", |row| {
        (row.try_get_by_index::<String>(0).unwrap(), row.try_get_by_index::<String>(1).unwrap())
    });
    assert!(!failed.is_empty());
    for (recipient, message) in failed {
        assert_eq!(recipient, "refused@example.org");
        assert!(message.contains("550"), "{message}");
    }
    let taken = server.taken();
    for recipient in ["ada@example.org", "grace@example.org"] {
        let mails: Vec<_> = taken.iter().filter(|mail| mail.recipient == recipient).collect();
        let lines: usize = mails.iter().map(|mail| mail.content.matches("(before").count()).sum();
        assert_eq!(lines as i64, station.value::<i64>("SELECT count(*) FROM extreme"), "each extreme is sent once");
    }
    assert_eq!(taken.len() as i64, delivered(&station));
    assert_eq!(station.files("outbox"), [""; 0]);
}

#[test]
fn a_server_that_cannot_be_reached_costs_no_mail() {
    // A port without a listener.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let station = mailing(&address.to_string());
    let output = station.run(&["once"]);
    assert_eq!(output.status.code(), Some(1), "some work is left");
    assert!(text(&output).contains(&format!("the mail server {address} cannot be reached")), "{}", text(&output));
    assert_eq!(station.value::<i64>("SELECT count(*) FROM delivery WHERE status <> 'pending'"), 0);
    assert_eq!(station.value::<i64>("SELECT sum(attempts) FROM delivery"), 0, "it costs no mail an attempt");

    let server = SmtpServer::listen(TcpListener::bind(address).unwrap(), Manner::Friendly);
    station.once();
    assert_eq!(station.value::<i64>("SELECT count(*) FROM delivery WHERE status <> 'completed'"), 0);
    assert_eq!(server.taken().len() as i64, delivered(&station));
}

#[test]
fn a_mail_whose_answer_was_lost_is_sent_again_with_the_same_message_id() {
    let server = SmtpServer::start(Manner::HangsUpAfterData);
    let station = mailing(&server.address.to_string());
    assert_eq!(station.run(&["once"]).status.code(), Some(1));
    server.set(Manner::Friendly);
    // Its next attempt would be later.
    station.execute("UPDATE delivery SET due = NULL");
    station.once();
    let taken = server.taken();
    assert!(taken.len() >= 2);
    assert_eq!(taken[0], taken[1], "the second mail equals the first, byte for byte");
    assert!(taken[0].message_id.starts_with("<extremes.") && taken[0].message_id.ends_with("@station.example>"));
}

#[test]
fn a_mail_to_a_busy_mailbox_is_retried_later() {
    let server = SmtpServer::start(Manner::Friendly);
    let station =
        mailing(&server.address.to_string()).env("SERVICES__EMAIL_SENDER__RECIPIENTS", r#"["later@example.org"]"#);
    station.once();
    let waiting = "SELECT count(*) FROM delivery WHERE status = 'pending' AND attempts = 1 AND due IS NOT NULL";
    assert!(station.value::<i64>(waiting) > 0);
    // There is no attempt before it is due. After five attempts it fails.
    station.once();
    assert!(station.value::<i64>(waiting) > 0);
    for _ in 0..4 {
        station.execute("UPDATE delivery SET due = NULL");
        station.once();
    }
    assert_eq!(station.value::<i64>("SELECT count(*) FROM delivery WHERE status = 'pending'"), 0);
    assert_eq!(station.value::<String>("SELECT DISTINCT status FROM delivery"), "failed");
}

#[test]
fn wrong_credentials_stop_the_service_and_are_never_shown() {
    let server = SmtpServer::start(Manner::RefusesPasswords);
    let station = mailing(&server.address.to_string())
        .env("SERVICES__EMAIL_SENDER__USERNAME", "station")
        .env("SERVICES__EMAIL_SENDER__PASSWORD", "hunter2-hunter2");
    let output = station.run(&["once"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output);
    assert!(printed.contains("does not accept `username` and `password` of [email_sender]"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    assert_eq!(station.value::<i64>("SELECT sum(attempts) FROM delivery"), 0);

    server.set(Manner::Friendly);
    station.once();
    assert!(delivered(&station) > 0);
}
