//! Checks an override before it is written, as it would be applied.

use serde_json::Value;

use super::{PAUSED, TableRow, TableRows};
use crate::config::{Layer, Row};
use crate::panic::{self, Caught};
use crate::runtime::registration::RegisteredService;
use crate::runtime::resource::unknown_need;
use crate::runtime::services::Services;

/// The place of the override in messages.
const PLACE: &str = "this override";

impl TableRows {
    /// Checks whether an override of this service can be used.
    ///
    /// # Errors
    /// The reason.
    pub(crate) fn check_override(
        &self,
        services: &Services,
        service: &RegisteredService,
        key: &str,
        value: &Value,
    ) -> Result<(), String> {
        let (sources, id, descriptor) = (services.sources(), service.id(), service.descriptor);
        let row = TableRow::new(Layer::Override, key.to_owned(), Ok(value.clone()), PLACE.to_owned());
        let row = row.normalized(descriptor.setting_names());
        if let Some(problem) = row.problem(id) {
            return Err(problem.to_string());
        }
        if row.key == PAUSED {
            return Ok(());
        }
        let mut rows = self.state().applied.get(id).cloned().unwrap_or_default();
        rows.retain(|known| known.slot() != row.slot());
        rows.push(row);
        let layer_row = |row: &TableRow| sources.row(row.layer, row.scope, &row.key, row.value.clone(), &row.place);
        let layer_rows: Vec<Row> = rows.iter().map(layer_row).collect();
        let resolved = sources.resolve(service.target(), &layer_rows).map_err(|errors| errors.to_string())?;
        let is_of_row =
            |error: &&crate::config::ConfigError| error.setting().is_none_or(|setting| setting.place == PLACE);
        let unknown = unknown_need(id, &resolved, &services.resources);
        if let Some(error) = resolved.rejected.iter().chain(&unknown).find(is_of_row) {
            return Err(error.to_string());
        }
        // Reading the settings runs the user's code.
        match panic::catch(|| descriptor.settings.as_ref().map_or(Ok(()), |own| (own.check)(&resolved.settings, id))) {
            Caught::Returned(Ok(())) => {}
            Caught::Returned(Err(error)) => return Err(error.to_string()),
            Caught::Panicked(message) => {
                return Err(format!("reading the settings of service `{id}` panicked: {message}"));
            }
        }
        service.fit(resolved).map(drop).map_err(|wrong| wrong.to_string())
    }
}
