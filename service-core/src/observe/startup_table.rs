//! The table that is logged at the start: the services, their schedules, and every value that is not the default.

use std::fmt::Write;

use crate::log::info;

use crate::config::Provenance;
use crate::humanize;
use crate::runtime::services::Services;
use crate::schedule::Schedule;

pub(crate) fn log(services: &Services) {
    info!("{}", table(services));
}

/// One service per row: id, schedule, and every value that some layer has set, one per line.
fn table(services: &Services) -> String {
    let rows = rows(services);
    let mut table = match rows.len() {
        0 => return "no services".to_owned(),
        count => humanize::services(count),
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

fn rows(services: &Services) -> Vec<(String, String, Vec<String>)> {
    let option = |set: &Provenance| format!("{} = {} ({})", set.key, set.value, set.place);
    // Only the service's type declares whether a setting is secret, so its value is not shown.
    let setting = |(key, place): (String, String)| format!("{key} ({place})");
    services
        .all()
        .iter()
        .map(|service| {
            let snapshot = service.inner.lock().snapshot();
            let schedule = match snapshot.options.enabled {
                true => schedule(&snapshot.options.schedule),
                false => "disabled".to_owned(),
            };
            let settings = snapshot.resolved.settings.places().into_iter().map(setting);
            let set = snapshot.resolved.provenance.iter().map(option).chain(settings).collect();
            (service.id().to_string(), schedule, set)
        })
        .collect()
}

/// A schedule as text.
pub(crate) fn schedule(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Interval(every) => format!("every {}", humanize::exact(*every)),
        Schedule::Delay(wait) => format!("{} after each run", humanize::exact(*wait)),
        Schedule::OnDemand => "on demand".to_owned(),
        Schedule::LongRun(_) => "runs until it is stopped".to_owned(),
        Schedule::Cron(cron) => format!("cron {} ({})", cron.expression, cron.timezone),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Inputs;
    use crate::config::options::ServiceOptions;
    use crate::{Context, ServiceRegistry, service};

    #[derive(serde::Deserialize)]
    struct Settings {
        #[allow(dead_code, reason = "only whether it is set counts here")]
        api_token: String,
    }

    struct Mailer;

    #[service(crate = crate, interval = 30, max_failures = 5, discover = false)]
    impl Mailer {
        fn configure(_cx: &Context, _settings: Settings) -> Self {
            Self
        }

        async fn update(&mut self) {}
    }

    struct Plain;

    #[service(crate = crate, discover = false)]
    impl Plain {
        async fn update(&mut self) {}
    }

    #[tokio::test]
    async fn the_table_shows_every_value_that_is_not_the_default_and_its_place() {
        let folder = std::env::temp_dir().join(format!("service-core-startup-table-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = "[defaults]\nretry_delay = \"10s\"\n[mailer]\ninterval = \"5m\"\napi_token = \"hunter2\"";
        std::fs::write(folder.join("services.toml"), text).unwrap();
        let environment = vec![("SERVICES__OFF__ENABLED".into(), "no".into())];
        let mut builder = ServiceRegistry::builder().without_discovered();
        builder.inputs = Some(Inputs { environment, directory: Some(folder.clone()), ..Inputs::default() });
        let (options, code) = (ServiceOptions::new(), line!());
        let options = options.delay(Duration::from_millis(90_500)).timeout(Duration::from_secs(9));
        let registry = builder
            .service_of::<Mailer>("mailer")
            .service("off", Plain)
            .service("plain", Plain)
            .options_of("plain", options)
            .build()
            .await
            .unwrap();
        let table = table(&registry.inner.services);
        std::fs::remove_dir_all(&folder).unwrap();
        let attribute = format!("startup_table.rs:{}", <Mailer as crate::Service>::DESCRIPTOR.line());
        let table = table
            .replace(&attribute, "startup_table.rs:8")
            .replace(&format!("startup_table.rs:{code}"), "startup_table.rs:9");
        let expected = "\
3 services
  mailer  every 5m                     interval = 5m (services.toml:4)
                                       max_failures = 5 (attribute at service-core/src/observe/startup_table.rs:8)
                                       retry_delay = 10s (services.toml:2)
                                       api_token (services.toml:5)
  off     disabled                     retry_delay = 10s (services.toml:2)
                                       enabled = false (environment variable SERVICES__OFF__ENABLED)
  plain   1m 30s 500ms after each run  delay = 1m 30s 500ms (ServiceOptions at service-core/src/observe/startup_table.rs:9)
                                       retry_delay = 10s (services.toml:2)
                                       timeout = 9s (ServiceOptions at service-core/src/observe/startup_table.rs:9)";
        assert_eq!(table, expected);
    }

    #[tokio::test]
    async fn without_services_there_is_no_table() {
        let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
        assert_eq!(table(&registry.inner.services), "no services");
    }
}
