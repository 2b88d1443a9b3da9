//! The table that is logged at start: what was found, when it runs, and what is not the default.

use std::fmt::Write;

use tracing::info;

use crate::config::Provenance;
use crate::options::Schedule;
use crate::registry::ServiceRegistry;

pub(crate) fn log(registry: &ServiceRegistry) {
    info!("{}", table(registry));
}

/// One service a row: id, schedule, and every value that some layer has set, one a line.
fn table(registry: &ServiceRegistry) -> String {
    let rows = rows(registry);
    let mut table = match rows.len() {
        0 => return "no services".to_owned(),
        1 => "1 service".to_owned(),
        count => format!("{count} services"),
    };
    let id_width = rows.iter().map(|row| row.0.len()).max().unwrap_or_default();
    let schedule_width = rows.iter().map(|row| row.1.chars().count()).max().unwrap_or_default();
    for (id, schedule, set) in &rows {
        let mut set = set.iter();
        let first = set.next().map_or("", String::as_str);
        let line = format!("  {id:id_width$}  {schedule:schedule_width$}  {first}");
        // Writing to a string cannot fail.
        let _ = write!(table, "\n{}", line.trim_end());
        for more in set {
            let _ = write!(table, "\n  {:id_width$}  {:schedule_width$}  {more}", "", "");
        }
    }
    table
}

fn rows(registry: &ServiceRegistry) -> Vec<(String, String, Vec<String>)> {
    let option = |set: &Provenance| format!("{} = {} ({})", set.key, set.value, set.place);
    // Whether a setting's value is a secret only the service's type knows.
    let setting = |(key, place): (String, String)| format!("{key} ({place})");
    registry
        .entries()
        .iter()
        .map(|entry| {
            let control = entry.lock();
            let schedule = match control.options.enabled {
                true => schedule(&control.options.schedule),
                false => "disabled".to_owned(),
            };
            let settings = control.resolved.settings.places().into_iter().map(setting);
            let set = control.resolved.provenance.iter().map(option).chain(settings).collect();
            (entry.id.to_string(), schedule, set)
        })
        .collect()
}

/// A schedule in words.
pub(crate) fn schedule(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Interval(every) => format!("every {}", humantime::format_duration(*every)),
        Schedule::Delay(wait) => format!("{} after each run", humantime::format_duration(*wait)),
        Schedule::Cron(cron) => format!("cron {} ({})", cron.expression, cron.timezone),
    }
}
