//! A real Prometheus scrapes a real program, and an alert fires.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use service_core::admin::alert_rules;
use service_core::prelude::*;

use crate::site::{Answer, Steady, eventually_for, raw};

/// A process that is killed when the test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts `admin-site`, whose service `mail_sender` fails permanently at its first run.
fn start_site(port: u16) -> Process {
    let site = Command::new(env!("CARGO_BIN_EXE_admin-site"))
        .env("ADMIN_ADDR", format!("127.0.0.1:{port}"))
        .env_remove("ADMIN_TOKEN")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Process(site.unwrap())
}

fn start_prometheus(directory: &Path, port: u16, site: u16) -> Option<Process> {
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [rules.yml]\n\
         scrape_configs:\n  - job_name: site\n    static_configs: [{{ targets: ['127.0.0.1:{site}'] }}]\n"
    );
    std::fs::write(directory.join("prometheus.yml"), config).unwrap();
    let log = std::fs::File::create(directory.join("prometheus.log")).unwrap();
    let started = Command::new("prometheus")
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    match started {
        Ok(started) => Some(Process(started)),
        Err(_) => {
            println!("SKIPPED: Prometheus is not installed (Debian: the package `prometheus`)");
            None
        }
    }
}

/// Prometheus and its API.
struct Prometheus {
    port: u16,
}

impl Prometheus {
    async fn get(&self, path: &str) -> Option<Value> {
        let address = ([127, 0, 0, 1], self.port).into();
        if tokio::net::TcpStream::connect(address).await.is_err() {
            return None;
        }
        // An answer of HTTP 1.0 is not chunked.
        let Answer { status, body, .. } = raw(address, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
        (status == 200).then(|| serde_json::from_str(&body).ok()).flatten()
    }

    /// The values of an instant query, by one label.
    async fn query(&self, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/api/v1/query?query={query}")).await.unwrap_or_default();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_sees_a_real_failure_and_fires() {
    let dir = tempfile::tempdir().unwrap();
    let (site_port, port) = (free_port(), free_port());
    // The rules for the states of services are the same for every program.
    let registry = ServiceRegistry::builder().without_discovered().service_of::<Steady>("mail_sender").build().await;
    std::fs::write(dir.path().join("rules.yml"), alert_rules(&registry.unwrap()).to_string()).unwrap();
    let Some(_prometheus) = start_prometheus(dir.path(), port, site_port) else { return };
    let _site = start_site(site_port);
    let prometheus = Prometheus { port };
    let began = Instant::now();
    eventually_for(Duration::from_secs(120), async || {
        let Some(answer) = prometheus.get("/api/v1/alerts").await else { return false };
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|alert| {
            alert["labels"]["alertname"] == "ServiceFailed"
                && alert["labels"]["service"] == "mail_sender"
                && alert["state"] == "firing"
                && alert["annotations"]["summary"] == "Service mail_sender has failed permanently"
        })
    })
    .await;
    println!("the alert fired after {:?}", began.elapsed());
    let targets = prometheus.get("/api/v1/targets").await.unwrap();
    assert_eq!(targets["data"]["activeTargets"][0]["health"], "up", "{targets}");
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "", "{targets}");
    let rules = prometheus.get("/api/v1/rules").await.unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 5 && rules.iter().all(|rule| rule["health"] == "ok"), "{groups:?}");
    for metric in [
        "service_runs_total",
        "service_failures_total",
        "service_run_duration_seconds_bucket",
        "service_last_success_timestamp_seconds",
        "service_next_run_timestamp_seconds",
        "service_state",
        "service_status",
        "service_active",
        "service_given_up",
        "service_interval_seconds",
        "service_items_processed_total",
        "service_custom",
    ] {
        let series = prometheus.query(metric).await;
        assert!(series.iter().all(|one| one["metric"]["job"] == "site") && !series.is_empty(), "{metric}: {series:?}");
    }
    let failed = prometheus.query("service_failures_total{service=%22mail_sender%22,kind=%22error%22}").await;
    assert_eq!(failed[0]["value"][1], "1", "{failed:?}");
}
