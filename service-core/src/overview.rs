//! The table that is logged at start: what was found, when it runs, and what is not the default.

use std::fmt::Write;

use tracing::info;

use crate::clock::plain;
use crate::options::{Options, Schedule};
use crate::registry::ServiceRegistry;

pub(crate) fn log(registry: &ServiceRegistry) {
    let rows = rows(registry);
    if rows.is_empty() {
        info!("no services");
        return;
    }
    let id_width = rows.iter().map(|row| row.0.len()).max().unwrap_or_default();
    let schedule_width = rows.iter().map(|row| row.1.len()).max().unwrap_or_default();
    let mut table = String::new();
    for (id, schedule, rest) in &rows {
        let _ = write!(table, "\n  {id:id_width$}  {schedule:schedule_width$}  {rest}");
    }
    info!("{} service(s){table}", rows.len());
}

fn rows(registry: &ServiceRegistry) -> Vec<(String, String, String)> {
    registry
        .entries()
        .iter()
        .map(|entry| {
            let control = entry.lock();
            let set: Vec<String> = control
                .resolved
                .provenance
                .iter()
                .filter(|set| !matches!(set.key, "interval" | "delay" | "cron" | "timezone"))
                .map(|set| format!("{} = {} ({})", set.key, set.value, set.place))
                .chain(
                    control
                        .resolved
                        .provenance
                        .iter()
                        .filter(|set| matches!(set.key, "interval" | "delay" | "cron"))
                        .map(|set| format!("{} by {}", set.key, set.place)),
                )
                .collect();
            (entry.id.to_string(), schedule(&control.options), set.join(", "))
        })
        .collect()
}

/// A schedule in words.
pub(crate) fn schedule(options: &Options) -> String {
    if !options.enabled {
        return "disabled".to_owned();
    }
    match &options.schedule {
        Schedule::Interval(every) => format!("every {}", plain(*every)),
        Schedule::Delay(wait) => format!("{} after each run", plain(*wait)),
        Schedule::Cron(cron) => format!("cron {} ({})", cron.expression, cron.timezone),
    }
}
