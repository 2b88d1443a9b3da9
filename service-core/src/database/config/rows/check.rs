//! Checks an override before it is written, as it would be applied.

use serde_json::Value;

use super::{TableRow, TableRows, resolve_with};
use crate::config::{ConfigError, Layer};
use crate::runtime::operator_store::PAUSED;
use crate::runtime::registration::RegisteredService;
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
        let (id, descriptor) = (service.id(), service.descriptor);
        let row = TableRow::new(Layer::Override, key.to_owned(), Ok(value.clone()), PLACE.to_owned());
        let row = row.normalized(descriptor.setting_names());
        if let Some(problem) = row.problem(id) {
            return Err(problem.to_string());
        }
        if row.key == PAUSED {
            return Ok(());
        }
        let applied = self.state.lock().applied.get(id).cloned().unwrap_or_default();
        let mut rows = applied.clone();
        rows.retain(|known| known.slot() != row.slot());
        rows.push(row);
        let checked = resolve_with(services, service, &rows)?;
        let is_of_row = |error: &&ConfigError| error.setting().is_some_and(|setting| setting.place == PLACE);
        if let Some(error) = checked.wrong.iter().chain(&checked.settings).find(is_of_row) {
            return Err(error.to_string());
        }
        // A mistake that the settings have without the override, too, does not refuse it.
        let can_be_read = || resolve_with(services, service, &applied).is_ok_and(|before| before.settings.is_none());
        match checked.settings {
            Some(error) if can_be_read() => Err(error.to_string()),
            _ => Ok(()),
        }
    }
}
