//! The same application on a PostgreSQL server that the test starts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "the server is not stopped in the middle here")]
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod support;

use std::time::Duration;

use postgres::Postgres;
use support::Station;

#[test]
fn figures_are_the_same_on_postgresql() {
    let Some(server) = Postgres::shared() else { return };
    let station = Station::new().env("DATABASE_URL", server.database());
    station.once();
    station.compare_figures();
    station.once();
    station.compare_figures();
    assert!(!station.path("station.db").exists());
}

#[test]
fn killed_replicas_lose_nothing_and_do_nothing_twice() {
    let Some(server) = Postgres::shared() else { return };
    let mut station = Station::new()
        .env("DATABASE_URL", server.database())
        .env("SERVICES__DATA_PROCESSOR__BATCH_SIZE", 5)
        .env("RUST_LOG", "warn");
    let mut pause = 150;
    for _ in 0..8 {
        let (one, other) = (station.spawn(), station.spawn());
        std::thread::sleep(Duration::from_millis(pause));
        one.kill();
        std::thread::sleep(Duration::from_millis(pause / 3));
        other.kill();
        pause = (pause * 37 + 11) % 500;
    }
    station.set("SERVICES__DATA_PROCESSOR__BATCH_SIZE", 100);
    station.once();
    station.compare_figures();
}
