//! Finds the rows because of which the settings of a service cannot be read, if the error names none of them: a row can
//! make a setting required that no layer sets, or contradict another one.

use super::{TableRow, TableRows, resolve_with};
use crate::config::{ConfigError, is_option};
use crate::runtime::registration::RegisteredService;
use crate::runtime::services::Services;

impl TableRows {
    /// Returns the rows without which the settings can be read, in their order and each with its error, as few as can
    /// be found. Only rows that have changed since the settings could be read are suspected, if that is enough. `None`:
    /// the settings cannot be read without any rows either.
    pub(super) fn blamed(
        &self,
        services: &Services,
        service: &RegisteredService,
        rows: &[TableRow],
    ) -> Option<Vec<(usize, ConfigError)>> {
        let id = service.id();
        let applied = self.state.lock().applied.get(id).cloned().unwrap_or_default();
        let has_changed =
            |row: &TableRow| !applied.iter().any(|known| known.slot() == row.slot() && known.value == row.value);
        let all: Vec<usize> = (0..rows.len()).filter(|at| !is_option(first_key(&rows[*at]))).collect();
        let changed: Vec<usize> = all.iter().copied().filter(|at| has_changed(&rows[*at])).collect();
        let error_with = |rows: &[TableRow]| match resolve_with(services, service, rows) {
            Ok(checked) => checked.settings,
            Err(problem) => Some(ConfigError::Settings { service: id.to_string(), problem }),
        };
        let error_without = |suspects: &[usize]| {
            let mut without = rows.to_vec();
            suspects.iter().rev().for_each(|at| self.replace(id, &mut without, *at));
            error_with(&without)
        };
        let suspects = [changed, all.clone()].into_iter().find(|suspects| error_without(suspects).is_none());
        let Some(mut blamed) = suspects else {
            let options = (0..rows.len()).filter(|at| !all.contains(at)).map(|at| rows[at].clone());
            let error = error_without(&all).filter(|_| error_with(&options.collect::<Vec<_>>()).is_none())?;
            return Some(all.into_iter().map(|at| (at, error.clone())).collect());
        };
        // Accepts one setting after the other. One that contradicts another one may be accepted after that one.
        loop {
            let (before, mut wrong) = (blamed.len(), Vec::new());
            for setting in by_setting(rows, &blamed) {
                let others: Vec<usize> = blamed.iter().copied().filter(|at| !setting.contains(at)).collect();
                match error_without(&others) {
                    None => blamed = others,
                    Some(error) => wrong.extend(setting.into_iter().map(|at| (at, error.clone()))),
                }
            }
            if blamed.len() == before {
                wrong.sort_by_key(|(at, _)| *at);
                return Some(wrong).filter(|wrong| !wrong.is_empty());
            }
        }
    }
}

/// Groups rows of the same setting: `smtp.host` and `smtp.port`.
fn by_setting(rows: &[TableRow], of: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in of {
        match groups.iter_mut().find(|group| first_key(&rows[group[0]]) == first_key(&rows[*at])) {
            Some(group) => group.push(*at),
            None => groups.push(vec![*at]),
        }
    }
    groups
}

fn first_key(row: &TableRow) -> &str {
    row.key.split_once('.').map_or(&*row.key, |(first, _)| first)
}
