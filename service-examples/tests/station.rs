//! The application end to end, as a process: its files, and starting it again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::Write;
use std::time::Duration;

use support::{Station, data, text};

#[test]
fn once_processes_all_pending_work() {
    let station = Station::new();
    let printed = station.once();
    assert!(printed.contains("all work is done: 1465 readings completed, 3 failed, 12 lines rejected"), "{printed}");
    assert!(printed.contains("handmade-2016.csv, line 4: 5 columns, expected 6"), "{printed}");
    assert!(printed.contains("handmade-2016.csv, line 9: temp_min 12.2 is above temp_max 3.3"), "{printed}");

    let files = station.query("SELECT name, readings, known, rejected FROM imported_file ORDER BY name", |row| {
        (
            row.try_get_by_index::<String>(0).unwrap(),
            row.try_get_by_index::<i32>(1).unwrap(),
            row.try_get_by_index::<i32>(2).unwrap(),
            row.try_get_by_index::<i32>(3).unwrap(),
        )
    });
    assert_eq!(
        files.iter().map(|file| file.1 + file.2 + file.3).sum::<i32>(),
        1461 + 21,
        "every line is accounted for"
    );
    assert!(files.contains(&("seattle-weather.csv".into(), 1461, 0, 0)) || files[1].2 == 2, "{files:?}");

    assert_eq!(station.files("inbox"), [""; 0]);
    assert_eq!(station.files("inbox/done").len(), 2);
    assert_eq!(station.files("inbox/rejected").len(), 1);
    assert!(!station.files("outbox").is_empty());
    let unsent: i64 = station.value("SELECT count(*) FROM extreme WHERE digest_id IS NULL");
    assert_eq!(unsent, 0);
}

#[test]
fn the_figures_equal_those_of_an_independent_program() {
    let station = Station::new();
    station.once();
    station.compare_figures();
}

#[test]
fn a_second_start_changes_nothing() {
    let station = Station::new();
    station.once();
    let before = station.contents();
    assert_eq!(before.iter().filter(|row| row.starts_with("reading")).count(), 1468);
    let mails = station.files("outbox");
    station.once();
    assert_eq!(station.contents(), before);
    assert_eq!(station.files("outbox"), mails);
}

#[test]
fn a_file_that_arrives_twice_adds_nothing() {
    let station = Station::new();
    station.once();
    let before = station.contents();
    station.put("the-same-again.csv", data("seattle-weather.csv").as_bytes());
    let printed = station.once();
    assert!(printed.contains("the-same-again.csv was imported as seattle-weather.csv"), "{printed}");
    assert_eq!(station.contents(), before);
    assert_eq!(station.files("inbox"), [""; 0]);
}

#[test]
fn of_an_overlapping_file_only_the_new_days_are_imported() {
    let station = Station::new();
    station.once();
    let lines = "2015/12/30,0.0,5.6,-1.0,3.4,sun\n2015/12/31,0.0,5.6,-2.1,3.5,sun\n2016/02/01,1.5,8.0,2.0,3.0,rain\n";
    station.put("overlap.csv", format!("date,precipitation,temp_max,temp_min,wind,weather\n{lines}").as_bytes());
    let printed = station.once();
    assert!(printed.contains("overlap.csv: 1 new readings, 2 known, 0 rejected"), "{printed}");
    assert_eq!(station.value::<i32>("SELECT days FROM monthly WHERE month = '2015-12'"), 31);
    assert_eq!(station.value::<i32>("SELECT days FROM monthly WHERE month = '2016-02'"), 1);
}

#[test]
fn rejected_lines_can_be_corrected_and_imported() {
    let station = Station::new();
    station.once();
    let name = station.files("inbox/rejected").pop().unwrap();
    let lines = std::fs::read(station.path("inbox/rejected").join(&name)).unwrap();
    assert!(lines.windows(3).any(|bytes| bytes == b"r\xff\xfe"), "the line is kept byte for byte");
    let right = String::from_utf8_lossy(&lines).replace(",warm,", ",1.5,").replace("2016/02/30", "2016/02/29");
    station.put("right.csv", right.as_bytes());
    let printed = station.once();
    assert!(printed.contains("right.csv: 2 new readings, 0 known, 10 rejected"), "{printed}");
}

#[test]
fn a_file_that_cannot_be_read_does_not_block_others() {
    let station = Station::new().env("SERVICES__IMPORTER__BUNDLED", false);
    station.put("nonsense.csv", &[0xff; 1000]);
    station.put("good.csv", b"date,precipitation,temp_max,temp_min,wind,weather\n2016/03/01,1.5,8.0,2.0,3.0,rain\n");
    // A link to itself looks like a file, but cannot be read.
    std::os::unix::fs::symlink("loop.csv", station.path("inbox").join("loop.csv")).unwrap();
    station.put("notes.txt", b"not for the importer");
    let printed = station.once();
    assert!(printed.contains("nonsense.csv, line 1: the first line is"), "{printed}");
    assert!(printed.contains("good.csv: 1 new readings"), "{printed}");
    assert!(printed.contains("notes.txt stays where it is"), "{printed}");
    assert_eq!(station.value::<i64>("SELECT count(*) FROM daily"), 1);
}

#[test]
fn a_file_that_is_still_being_written_is_imported_when_it_is_complete() {
    let station = Station::new().env("SERVICES__IMPORTER__BUNDLED", false);
    std::fs::create_dir_all(station.path("inbox")).unwrap();
    let mut file = std::fs::File::create(station.path("inbox").join("slow.csv")).unwrap();
    let text = data("seattle-weather.csv");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for part in text.as_bytes().chunks(text.len() / 8 + 1) {
                file.write_all(part).unwrap();
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let printed = station.once();
        assert!(printed.contains("slow.csv: 1461 new readings, 0 known, 0 rejected"), "{printed}");
    });
}

#[test]
fn readings_processed_a_week_ago_are_deleted_and_their_days_are_still_known() {
    let station = Station::new();
    station.once();
    let week = chrono::Utc::now() - chrono::TimeDelta::days(8);
    station.execute(&format!("UPDATE reading SET updated_at = '{}'", week.to_rfc3339()));
    let printed = station.once();
    assert!(printed.contains("readings processed before"), "{printed}");
    assert_eq!(station.value::<i64>("SELECT count(*) FROM reading"), 3, "failed readings are kept");
    let cleared = "SELECT value FROM service_store WHERE service_id = 'cleanup_service' AND key = 'cleared'";
    assert_eq!(station.value::<String>(cleared), "1465");
    assert_eq!(station.value::<i64>("SELECT count(*) FROM daily"), 1465);
    // The same days from another file are known from their figures.
    station.put("again.csv", data("seattle-weather.csv").replace("2012/01/01,0.0", "2012/01/01,0.00").as_bytes());
    let printed = station.once();
    assert!(printed.contains("again.csv: 0 new readings, 1461 known, 0 rejected"), "{printed}");
}

#[test]
fn a_cleanup_that_was_missed_while_the_station_was_down_runs_at_the_next_start() {
    let station = Station::new();
    station.once();
    let ago = |hours| (chrono::Utc::now() - chrono::TimeDelta::hours(hours)).to_rfc3339();
    station.execute(&format!("UPDATE reading SET updated_at = '{}'", ago(8 * 24)));
    station.execute(&format!("UPDATE service_state SET last_fire = '{}' WHERE service_id = 'cleanup_service'", ago(3)));
    let running = station.spawn();
    station.wait_for_log("readings processed before");
    running.signal("TERM");
    assert_eq!(running.wait(Duration::from_secs(20)), 0, "{}", station.log());
    // Of the three fires that it missed, the latest.
    station.wait_for_log("catching up 1 missed cron fire(s)");
}

#[test]
fn ctrl_c_drains_and_the_next_start_continues() {
    for signal in ["INT", "TERM"] {
        let station = Station::new().env("SERVICES__DATA_PROCESSOR__BATCH_SIZE", 10);
        let running = station.spawn();
        station.wait_for_log("10 readings, 2012-01-01 to 2012-01-10");
        running.signal(signal);
        assert_eq!(running.wait(Duration::from_secs(20)), 0, "{}", station.log());
        station.once();
        assert_eq!(station.value::<i64>("SELECT count(*) FROM daily"), 1465);
        assert_eq!(station.value::<i64>("SELECT sum(days) FROM monthly"), 1465);
    }
}

#[test]
fn after_kills_at_any_moment_nothing_is_lost_and_nothing_is_done_twice() {
    let whole = Station::new();
    whole.once();
    // Small batches, so that the process is killed at many different moments.
    let mut station = Station::new().env("SERVICES__DATA_PROCESSOR__BATCH_SIZE", 7);
    let mut pause = 20;
    for _ in 0..12 {
        let running = station.spawn();
        std::thread::sleep(Duration::from_millis(pause));
        running.kill();
        // Not random, so that the test is repeatable; not regular, so that the moments differ.
        pause = (pause * 37 + 11) % 400;
    }
    station.set("SERVICES__DATA_PROCESSOR__BATCH_SIZE", 100);
    station.once();
    // Digests may contain other extremes. Everything else is as without the kills.
    let without_mails = |station: &Station| -> Vec<_> {
        let rows = station.contents().into_iter();
        rows.filter(|row| !row.starts_with("delivery") && !row.starts_with("extreme")).collect()
    };
    let (found, expected) = (without_mails(&station), without_mails(&whole));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(
        station.value::<i64>("SELECT count(*) FROM extreme"),
        whole.value::<i64>("SELECT count(*) FROM extreme")
    );
}

#[test]
fn the_command_line_is_checked() {
    let station = Station::new();
    let help = station.run(&["--help"]);
    assert!(help.status.success() && text(&help).contains("Usage: station"));
    let list = text(&station.run(&["list"]));
    for id in ["cleanup_service", "data_processor", "email_sender", "importer"] {
        assert!(list.contains(id), "{list}");
    }
    let wrong = station.run(&["onse"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        text(&wrong).contains("unrecognized subcommand 'onse'") && text(&wrong).contains("'once'"),
        "{}",
        text(&wrong)
    );
    assert!(!station.path("station.db").exists(), "none of these starts anything");
}

#[test]
fn the_running_station_is_operated_from_a_shell() {
    let mut station = Station::new();
    // Nothing listens there.
    station.set("ADMIN_ADDR", "127.0.0.1:1");
    let down = station.run(&["services", "status"]);
    assert_eq!(down.status.code(), Some(3));
    assert!(text(&down).contains("cannot reach 127.0.0.1:1 (connection refused)"), "{}", text(&down));
    assert!(!station.path("station.db").exists(), "the status needs no database");
    station.set("ADMIN_ADDR", "127.0.0.1:0");
    let running = station.spawn();
    station.wait_for_log("its dashboard is at http://");
    let log = station.log();
    let (_, address) = log.split_once("its dashboard is at http://").unwrap();
    station.set("ADMIN_ADDR", address.split('/').next().unwrap());
    let services = |arguments: &str| {
        let arguments: Vec<&str> = ["services"].into_iter().chain(arguments.split(' ')).collect();
        station.run(&arguments)
    };
    assert!(text(&services("status")).starts_with("4 services: "), "{}", text(&services("status")));
    let paused = services("pause email_sender --why holidays --by ann");
    assert!(
        text(&paused).contains("email_sender is paused, degraded: paused by an override by ann"),
        "{}",
        text(&paused)
    );
    assert!(text(&services("status")).contains("holidays"), "{}", text(&services("status")));
    assert!(services("resume email_sender").status.success());
    drop(running);

    let once = services("run-once importer");
    assert!(once.status.success() && text(&once).contains("importer: the run succeeded in"), "{}", text(&once));
    let list = text(&services("list"));
    assert!(list.contains("cleanup_service") && list.contains("cron 17 * * * *"), "{list}");
    let completions = text(&services("completions bash"));
    assert!(completions.contains("once") && completions.contains("run-once"), "{completions}");
}

#[test]
fn json_logs_are_one_object_per_line() {
    let station = Station::new();
    let output = station.run(&["--json", "once"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut services = 0;
    for line in printed.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["level"].is_string() && object["message"].is_string(), "{line}");
        services += u32::from(object["span"]["service.id"].is_string());
    }
    assert!(services > 10, "{printed}");
}

#[test]
fn the_error_for_wrong_settings_names_them_and_other_services_run() {
    let station = Station::new().env("SERVICES__EMAIL_SENDER__FROM", "not an address");
    let output = station.run(&["once"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("[email_sender] from `not an address` is not a mail address"), "{}", text(&output));
}
