//! The same application on a PostgreSQL server that the test starts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "the server is not stopped in the middle here")]
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod support;

use std::time::Duration;

use postgres::Postgres;
use support::{Station, wait_until};

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

/// On real time, because processes are killed and leases expire by the server's clock.
#[test]
fn another_replica_takes_over_the_cleanup_of_one_that_was_killed() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    // Each in its own folder, so that each has its own log.
    let [one, other] = [(); 2].map(|()| Station::new().env("DATABASE_URL", &url).env("RUST_LOG", "info"));
    let first = one.spawn();
    one.wait_for_log("this replica runs the service from now on (epoch 1)");
    let second = other.spawn();
    let holder = || one.value::<String>("SELECT label FROM service_lease WHERE service_id = 'cleanup_service'");
    let is_standby = "SELECT count(*) FROM service_replica WHERE services LIKE '%\"state\":\"standby\"%'";
    wait_until("the second station stands by", || one.value::<i64>(is_standby) == 1);
    assert!(holder().ends_with(&format!("(pid {})", first.id())), "{}", holder());
    assert!(!other.log().contains("this replica runs the service"), "{}", other.log());
    first.kill();
    other.wait_for_log("this replica runs the service from now on (epoch 2)");
    assert!(holder().ends_with(&format!("(pid {})", second.id())), "{}", holder());
    // A shutdown releases the lease, so a third station has it at once.
    second.signal("TERM");
    assert_eq!(second.wait(Duration::from_secs(30)), 0);
    let third = one.spawn();
    wait_until("the third station runs it", || holder().ends_with(&format!("(pid {})", third.id())));
}
