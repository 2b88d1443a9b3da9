//! The alerting rules and the Grafana dashboard: Prometheus accepts them, and each alert fires when it must, and not
//! before.

use std::time::Duration;

use serde_json::{Value, json};
use service_core::admin::{AlertRules, alert_rules, grafana_dashboard};
use service_core::prelude::*;

use crate::promtool::promtool;
use crate::site::Steady;

struct Feed;

#[service(discover = false)]
impl Feed {
    async fn run(&mut self, cx: &Context) {
        cx.stopping().await;
    }
}

/// A registry that is built, and not started. The tables of work are those that are linked into this program.
async fn registry() -> ServiceRegistry {
    let options = ServiceOptions::new;
    ServiceRegistry::builder()
        .without_discovered()
        .service_of::<Steady>("mail")
        .service_of::<Steady>("nightly")
        .options_of("nightly", options().cron("0 3 * * *").timezone("Europe/Berlin"))
        .service_of::<Steady>("ledger")
        .options_of("ledger", options().delay(Duration::from_secs(600)).timeout(Duration::from_secs(60)).critical(true))
        .service_of::<Steady>("woken")
        .options_of("woken", options().on_demand(true))
        .service("feed", Feed)
        .database_url("sqlite::memory:")
        .build()
        .await
        .unwrap()
}

async fn rules() -> AlertRules {
    alert_rules(&registry().await)
}

#[tokio::test]
async fn the_rules_follow_from_the_services_and_the_tables() {
    let text = rules().await.to_string();
    let rules_of = |alert: &str| text.matches(&format!("- alert: {alert}\n")).count();
    for (alert, count) in [
        ("ServiceFailed", 1),
        ("ServiceGivenUp", 1),
        ("ServiceBackingOff", 1),
        ("ServiceRestarting", 1),
        ("ServiceOverdue", 1),
        ("ServiceUnhealthy", 1),
        // The services with a schedule.
        ("ServiceNoSuccess", 3),
        // The critical one.
        ("ServiceAbsent", 1),
        ("WorkRowsFailed", 1),
        ("WorkRowsOld", 1),
    ] {
        assert_eq!(rules_of(alert), count, "{alert} in\n{text}");
    }
    assert!(text.contains("service_active{service=\"mail\"} offset 3m"), "{text}");
    assert!(text.contains("service_active{service=\"ledger\"} offset 33m"), "{text}");
    assert!(text.contains("service_active{service=\"nightly\"} offset 3d1h"), "{text}");
    assert!(text.contains("cron 0 3 * * * (Europe/Berlin)"), "{text}");
    let of_job = rules().await.job("the \"station\"").to_string();
    assert!(of_job.contains(r#"service_active{job="the \"station\"",service="mail"} offset 3m"#), "{of_job}");
    assert!(!of_job.contains("{service=") && !of_job.contains("{state="), "every series is of the job: {of_job}");
    for text in [text, of_job] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rules.yml"), &text).unwrap();
        let Some((is_well, said)) = promtool(dir.path(), &["check", "rules", "rules.yml"], "") else { return };
        assert!(is_well && said.contains("SUCCESS"), "{said}\n{text}");
    }
}

#[tokio::test]
async fn without_services_there_are_the_rules_for_all_services() {
    let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let text = alert_rules(&registry).to_string();
    assert!(
        text.contains("ServiceFailed") && !text.contains("ServiceAbsent") && !text.contains("work-tables"),
        "{text}"
    );
}

/// What Prometheus has scraped, and the alerts that fire at some times.
struct Case {
    name: &'static str,
    /// The time between two scrapes.
    every: &'static str,
    /// Series that differ from those of services that work.
    series: &'static [(&'static str, &'static str)],
    /// A time, and the alerts that fire at it: the name, and the service or the table.
    firing: &'static [(&'static str, &'static [(&'static str, &'static str)])],
}

/// The series of two services that work, for a day. Runs succeed at every scrape.
const WORKING: [(&str, &str); 15] = [
    ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1+0x2880"),
    ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "0+30x2880"),
    ("service_next_run_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "60+30x2880"),
    ("service_interval_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "60+0x2880"),
    ("service_consecutive_failures{instance=\"a\",job=\"x\",service=\"mail\"}", "0+0x2880"),
    ("service_given_up{instance=\"a\",job=\"x\",service=\"mail\"}", "0+0x2880"),
    ("service_state{instance=\"a\",job=\"x\",service=\"mail\",state=\"failed\"}", "0+0x2880"),
    ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0+0x2880"),
    ("service_active{instance=\"a\",job=\"x\",service=\"ledger\"}", "1+0x2880"),
    ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"ledger\"}", "0+30x2880"),
    ("service_active{instance=\"a\",job=\"x\",service=\"nightly\"}", "1+0x2880"),
    ("service_work_rows{instance=\"a\",job=\"x\",table=\"admin_parcel\",state=\"failed\"}", "0+0x2880"),
    ("service_work_rows{instance=\"b\",job=\"x\",table=\"admin_parcel\",state=\"failed\"}", "0+0x2880"),
    ("service_work_oldest_due_seconds{instance=\"a\",job=\"x\",table=\"admin_parcel\"}", "0+0x2880"),
    ("service_work_oldest_due_seconds{instance=\"b\",job=\"x\",table=\"admin_parcel\"}", "0+0x2880"),
];

const SCRAPED: &str = "30s";
/// For a case that takes days.
const SCRAPED_SELDOM: &str = "4m";

const CASES: [Case; 26] = [
    Case {
        name: "services that work are quiet",
        every: SCRAPED,
        series: &[],
        firing: &[("1m", &[]), ("10m", &[]), ("23h", &[])],
    },
    Case {
        name: "a service fails",
        every: SCRAPED,
        series: &[
            ("service_state{instance=\"a\",job=\"x\",service=\"mail\",state=\"failed\"}", "0x19 1x100"),
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x19 0x100"),
            ("service_consecutive_failures{instance=\"a\",job=\"x\",service=\"mail\"}", "0x19 4x100"),
            ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x19 1x100"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "0+30x19 570x100"),
            ("service_next_run_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "60+30x19 stale"),
        ],
        // One alert, not several for one cause.
        firing: &[("9m30s", &[]), ("10m", &[("ServiceFailed", "mail")]), ("45m", &[("ServiceFailed", "mail")])],
    },
    Case {
        name: "a run is given up, and the next one succeeds",
        every: SCRAPED,
        series: &[
            ("service_given_up{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 1x1 0x100"),
            ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x9 1x1 0x100"),
        ],
        firing: &[("4m30s", &[]), ("5m", &[("ServiceGivenUp", "mail")]), ("6m30s", &[])],
    },
    Case {
        name: "a service retries for long",
        every: SCRAPED,
        series: &[
            ("service_consecutive_failures{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 1+1x100"),
            ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x9 1x100"),
        ],
        firing: &[("19m30s", &[]), ("20m", &[("ServiceBackingOff", "mail")])],
    },
    Case {
        name: "a run is given up, and its failures still count",
        every: SCRAPED,
        series: &[
            ("service_given_up{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 1x100"),
            ("service_consecutive_failures{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 4x100"),
            ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x9 1x100"),
        ],
        firing: &[("5m", &[("ServiceGivenUp", "mail")]), ("40m", &[("ServiceGivenUp", "mail")])],
    },
    Case {
        name: "an operator stops a service whose run was given up",
        every: SCRAPED,
        series: &[
            ("service_given_up{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 1x100"),
            ("service_state{instance=\"a\",job=\"x\",service=\"mail\",state=\"stopped\"}", "0x19 1x100"),
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x19 0x100"),
        ],
        firing: &[("9m30s", &[("ServiceGivenUp", "mail")]), ("10m", &[]), ("40m", &[])],
    },
    Case {
        name: "a service stops itself after a failure",
        every: SCRAPED,
        series: &[
            ("service_consecutive_failures{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 1x100"),
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x9 0x100"),
            ("service_state{instance=\"a\",job=\"x\",service=\"mail\",state=\"stopped\"}", "0x9 1x100"),
            ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x9 1x100"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "0+30x9 270x100"),
        ],
        firing: &[("14m30s", &[]), ("15m", &[("ServiceUnhealthy", "mail")])],
    },
    Case {
        name: "a service stops itself after its run was given up",
        every: SCRAPED,
        series: &[
            ("service_given_up{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 1x100"),
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x19 0x100"),
            ("service_state{instance=\"a\",job=\"x\",service=\"mail\",state=\"stopped\"}", "0x19 1x100"),
            ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x9 1x100"),
        ],
        firing: &[("9m30s", &[("ServiceGivenUp", "mail")]), ("19m30s", &[]), ("20m", &[("ServiceUnhealthy", "mail")])],
    },
    Case {
        name: "a service is restarted twice in the first minutes of its process",
        every: SCRAPED,
        series: &[("service_restarts_total{instance=\"a\",job=\"x\",service=\"mail\"}", "_x2 0 1 2x100")],
        firing: &[("2m20s", &[]), ("3m", &[]), ("30m", &[])],
    },
    Case {
        name: "a service is restarted every ten minutes",
        every: SCRAPED,
        series: &[(
            "service_restarts_total{instance=\"a\",job=\"x\",service=\"mail\"}",
            "0x20 1x20 2x20 3x20 4x20 5x20",
        )],
        firing: &[("20m", &[]), ("45m", &[("ServiceRestarting", "mail")])],
    },
    Case {
        name: "a service was restarted twice",
        every: SCRAPED,
        series: &[("service_restarts_total{instance=\"a\",job=\"x\",service=\"mail\"}", "0x40 1x20 2x300")],
        firing: &[("30m", &[]), ("60m", &[]), ("80m", &[])],
    },
    Case {
        name: "a service retries, and a retry succeeds",
        every: SCRAPED,
        series: &[("service_consecutive_failures{instance=\"a\",job=\"x\",service=\"mail\"}", "0x9 1x24 0x100")],
        firing: &[("17m", &[]), ("30m", &[])],
    },
    Case {
        name: "a run does not begin",
        every: SCRAPED,
        series: &[
            ("service_next_run_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "60+30x10 360x100"),
            ("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x13 1x100"),
        ],
        // Due at 6 min, more than a minute late from 7.5 min on, for 2 min.
        firing: &[("9m", &[]), ("9m30s", &[("ServiceOverdue", "mail")]), ("40m", &[("ServiceOverdue", "mail")])],
    },
    Case {
        name: "a paused service is not overdue, and need not succeed",
        every: SCRAPED,
        series: &[
            ("service_next_run_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "60+30x10 360x100"),
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x9 0x90"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "0+30x9 270x90"),
        ],
        firing: &[("8m", &[]), ("15m", &[]), ("40m", &[])],
    },
    Case {
        name: "a service does not succeed",
        every: SCRAPED,
        series: &[(
            "service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}",
            "0+30x10 300x100",
        )],
        firing: &[("8m", &[]), ("8m30s", &[("ServiceNoSuccess", "mail")]), ("40m", &[("ServiceNoSuccess", "mail")])],
    },
    Case {
        name: "a service has never succeeded",
        every: SCRAPED,
        series: &[("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "_x100")],
        firing: &[("2m30s", &[]), ("3m", &[("ServiceNoSuccess", "mail")])],
    },
    Case {
        name: "a process is restarted, and has no success yet",
        every: SCRAPED,
        series: &[
            (
                "service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}",
                "0+30x10 _x4 450+30x100",
            ),
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x10 _x1 1x100"),
        ],
        firing: &[("6m", &[]), ("7m30s", &[]), ("20m", &[])],
    },
    Case {
        name: "a resumed service has its time again",
        every: SCRAPED,
        series: &[
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x9 0x19 1x100"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "0+30x9 270x100"),
        ],
        // Resumed at 15 min.
        firing: &[("14m30s", &[]), ("17m30s", &[]), ("18m", &[("ServiceNoSuccess", "mail")])],
    },
    Case {
        name: "an operator made the interval longer",
        every: SCRAPED,
        series: &[
            ("service_interval_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "60x9 3600x100"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "0+30x9 270x100"),
        ],
        firing: &[("15m", &[]), ("45m", &[])],
    },
    Case {
        name: "a longer interval has ended, and the next run takes its time",
        every: SCRAPED,
        series: &[
            ("service_interval_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "60x9 3600x100 60x100"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"mail\"}", "0+30x9 270x200"),
        ],
        // It has ended at 55 min.
        firing: &[("55m", &[]), ("57m30s", &[]), ("59m", &[("ServiceNoSuccess", "mail")])],
    },
    Case {
        name: "a slower and critical service does not succeed",
        every: SCRAPED,
        series: &[(
            "service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"ledger\"}",
            "0+30x10 300x100",
        )],
        // Three times (10 min and the limit of a run, 1 min) after 5 min.
        firing: &[("38m", &[]), ("38m30s", &[("ServiceNoSuccess", "ledger")])],
    },
    Case {
        name: "the instances of a nightly service change, and none succeeds",
        every: SCRAPED_SELDOM,
        series: &[
            ("service_active{instance=\"a\",job=\"x\",service=\"nightly\"}", "1x600 _x1500"),
            ("service_active{instance=\"b\",job=\"x\",service=\"nightly\"}", "_x599 1x1500"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"nightly\"}", "_x14 3600x500"),
            ("service_active{instance=\"a\",job=\"x\",service=\"ledger\"}", "1x1500"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"ledger\"}", "0+240x1500"),
        ],
        // 73 h after 1 h.
        firing: &[("73h", &[]), ("73h56m", &[]), ("74h4m", &[("ServiceNoSuccess", "nightly")])],
    },
    Case {
        name: "another replica takes a nightly service over, and none succeeds",
        every: SCRAPED_SELDOM,
        series: &[
            ("service_active{instance=\"a\",job=\"x\",service=\"nightly\"}", "1x600 0x1500"),
            ("service_active{instance=\"b\",job=\"x\",service=\"nightly\"}", "0x599 1x1500"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"nightly\"}", "_x14 3600x2100"),
            ("service_active{instance=\"a\",job=\"x\",service=\"ledger\"}", "1x1500"),
            ("service_last_success_timestamp_seconds{instance=\"a\",job=\"x\",service=\"ledger\"}", "0+240x1500"),
        ],
        firing: &[("73h", &[]), ("73h56m", &[]), ("74h4m", &[("ServiceNoSuccess", "nightly")])],
    },
    Case {
        name: "a run hangs",
        every: SCRAPED,
        series: &[("service_status{instance=\"a\",job=\"x\",service=\"mail\",status=\"unhealthy\"}", "0x9 1x100")],
        firing: &[("14m30s", &[]), ("15m", &[("ServiceUnhealthy", "mail")])],
    },
    Case {
        name: "a program with a critical service ends",
        every: SCRAPED,
        series: &[
            ("service_active{instance=\"a\",job=\"x\",service=\"ledger\"}", "1x9 stale"),
            ("service_active{instance=\"a\",job=\"x\",service=\"mail\"}", "1x9 stale"),
            ("service_active{instance=\"a\",job=\"x\",service=\"nightly\"}", "1x9 stale"),
        ],
        firing: &[("9m30s", &[]), ("10m", &[("ServiceAbsent", "ledger")])],
    },
    Case {
        name: "rows fail, and a row is old",
        every: SCRAPED,
        series: &[
            ("service_work_rows{instance=\"a\",job=\"x\",table=\"admin_parcel\",state=\"failed\"}", "0x9 2x100"),
            ("service_work_rows{instance=\"b\",job=\"x\",table=\"admin_parcel\",state=\"failed\"}", "0x9 2x100"),
            ("service_work_oldest_due_seconds{instance=\"a\",job=\"x\",table=\"admin_parcel\"}", "0x9 0+30x100"),
        ],
        // Each alert is there once, although two processes report it.
        firing: &[
            ("4m30s", &[]),
            ("5m", &[("WorkRowsFailed", "admin_parcel")]),
            ("20m", &[("WorkRowsFailed", "admin_parcel")]),
            ("20m30s", &[("WorkRowsFailed", "admin_parcel"), ("WorkRowsOld", "admin_parcel")]),
        ],
    },
];

/// Writes a case as `promtool test rules` reads it.
fn test_of(case: &Case) -> Value {
    // Those are scraped often.
    let others = WORKING.iter().filter(|_| case.every == SCRAPED);
    let others = others.filter(|(series, _)| !case.series.iter().any(|(own, _)| own == series));
    let series: Vec<Value> =
        others.chain(case.series).map(|(series, values)| json!({ "series": series, "values": values })).collect();
    let count = "count by (alertname, subject) (label_join(ALERTS{alertstate=\"firing\"}, \"subject\", \"\", \"service\", \"table\"))";
    let firing = case.firing.iter().map(|(at, alerts)| {
        let samples: Vec<Value> = alerts
            .iter()
            .map(|(alert, subject)| {
                json!({ "labels": format!("{{alertname=\"{alert}\",subject=\"{subject}\"}}"), "value": 1 })
            })
            .collect();
        json!({ "expr": count, "eval_time": at, "exp_samples": samples })
    });
    json!({
        "name": case.name,
        "interval": case.every,
        "input_series": series,
        "promql_expr_test": firing.collect::<Vec<_>>(),
    })
}

#[tokio::test]
async fn each_alert_fires_when_it_must_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rules.yml"), rules().await.to_string()).unwrap();
    let (often, seldom): (Vec<&Case>, Vec<&Case>) = CASES.iter().partition(|case| case.every == SCRAPED);
    let mut tests: Vec<Value> = often.into_iter().map(test_of).collect();
    tests.push(json!({
        "name": "the texts of an alert",
        "interval": "30s",
        "input_series": [
            { "series": "service_state{instance=\"a:9876\",job=\"x\",service=\"mail\",state=\"failed\"}", "values": "1x20" },
        ],
        "alert_rule_test": [{
            "alertname": "ServiceFailed",
            "eval_time": "1m",
            "exp_alerts": [{
                "exp_labels": { "severity": "critical", "instance": "a:9876", "job": "x", "service": "mail", "state": "failed" },
                "exp_annotations": {
                    "summary": "Service mail has failed permanently",
                    "description": "Service mail on a:9876 makes no more runs: its retries are used up, or its error was permanent. \
                                    Its page on the dashboard shows the error.",
                    "action": "Remove the cause, then reset the service: on the dashboard, or with POST /services/mail/reset.",
                },
            }],
        }],
    }));
    let seldom: Vec<Value> = seldom.into_iter().map(test_of).collect();
    for (name, every, tests) in [("often.yml", SCRAPED, tests), ("seldom.yml", SCRAPED_SELDOM, seldom)] {
        // JSON is YAML.
        let file = json!({ "rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests });
        std::fs::write(dir.path().join(name), file.to_string()).unwrap();
    }
    let Some((is_well, said)) = promtool(dir.path(), &["test", "rules", "often.yml", "seldom.yml"], "") else { return };
    assert!(is_well && said.matches("SUCCESS").count() == 2, "{said}");
}

#[tokio::test]
async fn the_dashboard_has_valid_queries_and_panels_that_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&grafana_dashboard(&registry().await)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let place = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().unwrap();
    let overlaps = |a: &Value, b: &Value, at: &str, size: &str| {
        place(a, at) < place(b, at) + place(b, size) && place(b, at) < place(a, at) + place(a, size)
    };
    for (n, panel) in panels.iter().enumerate() {
        assert!(place(panel, "x") + place(panel, "w") <= 24, "{panel}");
        for other in &panels[..n] {
            assert!(!(overlaps(panel, other, "x", "w") && overlaps(panel, other, "y", "h")), "{panel} and {other}");
            assert!(panel["id"] != other["id"] && panel["title"] != other["title"]);
        }
    }
    let names: Vec<_> = dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
    assert_eq!(names, ["datasource", "job", "service", "table"]);
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<&str> = queries.map(|target| target["expr"].as_str().unwrap()).collect();
    for metric in ["service_status", "service_failures_total", "service_work_rows"] {
        assert!(queries.iter().any(|query| query.contains(metric)), "{metric} in {queries:?}");
    }
    // A rule has to be a valid query.
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(n, query)| json!({ "record": format!("query_{n}"), "expr": query.replace("$__rate_interval", "5m") }))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = json!({ "groups": [{ "name": "queries", "rules": rules }] });
    std::fs::write(dir.path().join("queries.yml"), file.to_string()).unwrap();
    let Some((is_well, said)) = promtool(dir.path(), &["check", "rules", "queries.yml"], "") else { return };
    assert!(is_well && said.contains("SUCCESS"), "{said}");
    let without_tables = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    assert!(!grafana_dashboard(&without_tables).contains("service_work_"));
}
