//! The Grafana dashboard of a program.

use serde_json::{Value, json};

use crate::admin::promql::Selector;
use crate::registry::service_registry::ServiceRegistry;

/// The panels stand on a grid of this width.
const WIDTH: u64 = 24;
/// Colours that Grafana has in every theme.
const BAD: &str = "red";
const POOR: &str = "yellow";
const GOOD: &str = "green";

/// Returns a Grafana dashboard for the metrics of a program, as JSON to be imported or provisioned: the status of its
/// services, runs, failures by kind, durations, items, the services' own counters and gauges, firing alerts, and tables
/// of work, if it has any. Variables select the data source, the job and the services. Nothing has to run: a registry
/// that was only built is enough.
///
/// ```standalone_crate
/// use service_core::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let services = ServiceRegistry::builder().build().await?;
/// std::fs::write(std::env::temp_dir().join("services.json"), service_core::admin::grafana_dashboard(&services))?;
/// # Ok(())
/// # }
/// ```
pub fn grafana_dashboard(registry: &ServiceRegistry) -> String {
    let store = registry.inner.extension.operator_store();
    let has_work = store.is_some_and(|store| !store.work_tables().is_empty());
    let of_services = Selector::default().matches("job", "$job").matches("service", "$service");
    let mut panels = Panels::default();
    services(&mut panels, &of_services);
    runs(&mut panels, &of_services);
    if has_work {
        work(&mut panels, &Selector::default().matches("job", "$job").matches("table", "$table"));
    }
    let mut variables = vec![
        json!({ "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus" }),
        variable("job", "Job", "label_values(service_active, job)"),
        variable("service", "Service", "label_values(service_active{job=~\"$job\"}, service)"),
    ];
    if has_work {
        variables.push(variable("table", "Table of work", "label_values(service_work_rows{job=~\"$job\"}, table)"));
    }
    let alerts = json!({
        "name": "Alerts", "enable": true, "iconColor": BAD, "datasource": data_source(),
        "expr": of_services.is("alertstate", "firing").of("ALERTS"), "titleFormat": "{{alertname}}", "textFormat": "{{service}}",
    });
    let dashboard = json!({
        "title": "Services",
        "uid": "service-core",
        "tags": ["service-core"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "annotations": { "list": [alerts] },
        "templating": { "list": variables },
        "panels": panels.all,
    });
    format!("{dashboard:#}\n")
}

fn services(panels: &mut Panels, of: &Selector) {
    let status = |status: &str| of.is("status", status).of("service_status");
    for (title, status, color) in
        [("Unhealthy", "unhealthy", BAD), ("Degraded", "degraded", POOR), ("Healthy", "healthy", GOOD)]
    {
        let query = format!("sum({})", of.is("status", status).of("service_status"));
        let steps = match color {
            GOOD => vec![step(None, GOOD)],
            _ => vec![step(None, GOOD), step(Some(1.0), color)],
        };
        let options = json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "background" });
        let defaults = json!({ "noValue": "0", "thresholds": { "mode": "absolute", "steps": steps } });
        panels.add(title, "stat", (4, 8), options, defaults, &[(&query, "")]);
    }
    panels.timeseries(
        "Seconds since the last success",
        "s",
        &[(&format!("time() - max by (service) ({})", of.of("service_last_success_timestamp_seconds")), "{{service}}")],
    );
    // 0, 1 or 2: the worst of all processes.
    let query = format!("max by (service) ({} + ignoring (status) 2 * {})", status("degraded"), status("unhealthy"),);
    let states = [("0", "healthy", GOOD), ("1", "degraded", POOR), ("2", "unhealthy", BAD)];
    let mappings: serde_json::Map<String, Value> = states
        .iter()
        .enumerate()
        .map(|(index, (value, text, color))| {
            ((*value).to_owned(), json!({ "text": text, "color": color, "index": index }))
        })
        .collect();
    let defaults = json!({
        "mappings": [{ "type": "value", "options": mappings }],
        "thresholds": { "mode": "absolute", "steps": [step(None, GOOD), step(Some(1.0), POOR), step(Some(2.0), BAD)] },
    });
    let options = json!({ "mergeValues": true, "showValue": "auto" });
    panels.add("Status", "state-timeline", (WIDTH, 10), options, defaults, &[(&query, "{{service}}")]);
}

fn runs(panels: &mut Panels, of: &Selector) {
    let rate = |by: &str, metric: &str| format!("sum by ({by}) (rate({}[$__rate_interval]))", of.of(metric));
    let quantile =
        |q: &str| format!("histogram_quantile({q}, {})", rate("le, service", "service_run_duration_seconds_bucket"));
    panels.timeseries("Runs per second", "ops", &[(&rate("service", "service_runs_total"), "{{service}}")]);
    panels.timeseries(
        "Failures per second by kind",
        "ops",
        &[(&rate("service, kind", "service_failures_total"), "{{service}} {{kind}}")],
    );
    panels.timeseries(
        "Duration of runs",
        "s",
        &[
            (&quantile("0.5"), "{{service}} 50 %"),
            (&quantile("0.95"), "{{service}} 95 %"),
            (&quantile("0.99"), "{{service}} 99 %"),
        ],
    );
    panels.timeseries(
        "Items per second",
        "ops",
        &[
            (&rate("service", "service_items_processed_total"), "{{service}} processed"),
            (&rate("service", "service_items_failed_total"), "{{service}} failed"),
        ],
    );
    let max = |by: &str, metric: &str| format!("max by ({by}) ({})", of.of(metric));
    panels.timeseries("Failures in a row", "none", &[(&max("service", "service_consecutive_failures"), "{{service}}")]);
    panels.timeseries(
        "Own counters and gauges",
        "short",
        &[(&format!("sum by (service, name) ({})", of.of("service_custom")), "{{service}} {{name}}")],
    );
}

fn work(panels: &mut Panels, of: &Selector) {
    // Every process counts the rows of the same tables.
    let max = |by: &str, metric: &str| format!("max by ({by}) ({})", of.of(metric));
    panels.timeseries(
        "Rows of tables of work",
        "short",
        &[(&max("table, state", "service_work_rows"), "{{table}} {{state}}")],
    );
    panels.timeseries(
        "Time since the oldest row is due",
        "s",
        &[(&max("table", "service_work_oldest_due_seconds"), "{{table}}")],
    );
}

fn data_source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn step(from: Option<f64>, color: &str) -> Value {
    json!({ "value": from, "color": color })
}

/// A variable with the values of a label, of which any number is selected.
fn variable(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": data_source(), "query": query,
        "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "current": { "text": "All", "value": "$__all" },
    })
}

/// The panels, from left to right and from top to bottom.
#[derive(Default)]
struct Panels {
    all: Vec<Value>,
    x: u64,
    y: u64,
    /// The height of the present row.
    height: u64,
}

impl Panels {
    /// Adds a panel of half the width with lines over time.
    fn timeseries(&mut self, title: &str, unit: &str, queries: &[(&str, &str)]) {
        let options = json!({ "legend": { "displayMode": "list", "placement": "bottom" }, "tooltip": { "mode": "multi", "sort": "desc" } });
        self.add(title, "timeseries", (WIDTH / 2, 8), options, json!({ "unit": unit, "min": 0 }), queries);
    }

    fn add(
        &mut self,
        title: &str,
        kind: &str,
        (width, height): (u64, u64),
        options: Value,
        defaults: Value,
        queries: &[(&str, &str)],
    ) {
        if self.x + width > WIDTH {
            (self.x, self.y, self.height) = (0, self.y + self.height, 0);
        }
        let targets: Vec<Value> = queries
            .iter()
            .zip('A'..='Z')
            .map(|((query, legend), name)| {
                json!({ "refId": name, "datasource": data_source(), "expr": query, "legendFormat": legend })
            })
            .collect();
        self.all.push(json!({
            "id": self.all.len() + 1,
            "title": title,
            "type": kind,
            "datasource": data_source(),
            "gridPos": { "x": self.x, "y": self.y, "w": width, "h": height },
            "options": options,
            "fieldConfig": { "defaults": defaults, "overrides": [] },
            "targets": targets,
        }));
        (self.x, self.height) = (self.x + width, self.height.max(height));
    }
}
