//! Overrides by operators: reading, setting and removing them. Every change is recorded in the audit.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::app::{App, AppState, SharedApp};
use crate::admin::error::{ApiError, ApiResult, is_made};
use crate::admin::input::{Author, Input, Parameters, parse_until};
use crate::config::is_option;
use crate::observe::health::ServiceHealth;
use crate::registry::handle::ServiceHandle;
use crate::rfc3339;
use crate::runtime::operator_store::{OperatorStore, PAUSED, StoredOverride};
use crate::runtime::registration::RegisteredService;
use crate::service::secret::REDACTED;

/// The name of overrides for all services.
const DEFAULTS: &str = "defaults";

/// What an override is for.
enum Overridden {
    Service(ServiceHandle),
    /// All services of the type with this name, or with `defaults` all services.
    Services(String),
}

/// The health of what an override is for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum OverriddenHealth {
    Service(Box<ServiceHealth>),
    Services(Vec<ServiceHealth>),
}

impl Overridden {
    /// # Errors
    /// This is not the id of a service, the name of a type, or `defaults` (404).
    fn find(app: &App, name: &str) -> ApiResult<Self> {
        match app.registry.get(name) {
            Some(handle) => Ok(Self::Service(handle)),
            None if name == DEFAULTS || !services_of(app, name).is_empty() => Ok(Self::Services(name.to_owned())),
            None => Err(ApiError::no_service(name)),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Service(handle) => handle.id(),
            Self::Services(name) => name,
        }
    }

    /// Checks an override.
    ///
    /// # Errors
    /// It cannot be used (422).
    fn check(&self, app: &App, store: &dyn OperatorStore, key: &str, value: &Value) -> ApiResult<()> {
        let checked = match self {
            Self::Service(handle) => store.check_override(&app.registry.inner.services, &handle.service, key, value),
            Self::Services(name) if key != PAUSED => {
                Err(format!("an override of `{name}` can only be `paused`: override `{key}` for one service"))
            }
            Self::Services(_) if !value.is_boolean() => Err(format!("`paused` is `{value}`, expected true or false")),
            Self::Services(_) => Ok(()),
        };
        checked.map_err(ApiError::unusable)
    }

    fn health(&self, app: &App) -> OverriddenHealth {
        match self {
            Self::Service(handle) => OverriddenHealth::Service(Box::new(handle.health())),
            Self::Services(name) => {
                let services = services_of(app, name);
                let health = services.iter().map(|service| app.registry.health_of(service));
                OverriddenHealth::Services(health.collect())
            }
        }
    }
}

/// Returns the services of a type, or with `defaults` all services.
fn services_of(app: &App, name: &str) -> Vec<Arc<RegisteredService>> {
    let mut services = app.registry.inner.services.all();
    services.retain(|service| name == DEFAULTS || service.descriptor.id() == name);
    services
}

/// `GET /services/{id}/overrides`
pub(crate) async fn overrides(
    State(app): AppState,
    Parameters([id]): Parameters<1>,
) -> ApiResult<Json<Vec<StoredOverride>>> {
    Overridden::find(&app, &id)?;
    Ok(Json(read_overrides(&app, &id).await?))
}

/// Returns the overrides of a service. The values of secrets are hidden.
pub(crate) async fn read_overrides(app: &App, id: &str) -> ApiResult<Vec<StoredOverride>> {
    let Some(store) = app.store() else { return Ok(Vec::new()) };
    let id = id.to_owned();
    let registry = app.registry.clone();
    let mut all = app.read(async move { store.overrides(&registry.inner.services, &id).await }).await?;
    for one in &mut all {
        if !is_shown(&one.key) {
            one.value = REDACTED.into();
        }
    }
    Ok(all)
}

/// Whether values of this key are shown. Only the type of the service declares which of its own settings are secret, so
/// only options are.
fn is_shown(key: &str) -> bool {
    is_option(key) || key == PAUSED
}

/// The body of `PUT /services/{id}/overrides/{key}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NewOverride {
    #[serde(deserialize_with = "some")]
    pub(crate) value: Option<Value>,
    pub(crate) by: Option<String>,
    pub(crate) why: Option<String>,
    pub(crate) until: Option<String>,
}

/// `null` is a value, too.
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// `PUT /services/{id}/overrides/{key}`
pub(crate) async fn put_override(
    State(app): AppState,
    Parameters([id, key]): Parameters<2>,
    Input(new): Input<NewOverride>,
) -> ApiResult<Json<OverriddenHealth>> {
    set_override(&app, &id, &key, new).await.map(Json)
}

/// Sets an override, and records it.
///
/// # Errors
/// There is no such service (404); there is no database (409); the value cannot be used (422); the database does not
/// answer (503).
pub(crate) async fn set_override(
    app: &SharedApp,
    id: &str,
    key: &str,
    new: NewOverride,
) -> ApiResult<OverriddenHealth> {
    let overridden = Overridden::find(app, id)?;
    let store = store(app)?;
    let (by, why) = Author::new(new.by, new.why).checked()?;
    let Some(value) = new.value else { return Err(ApiError::unusable("`value` is missing")) };
    let (shared, key) = (app.clone(), key.to_owned());
    let work = async move {
        let services = &shared.registry.inner.services;
        overridden.check(&shared, &*store, &key, &value)?;
        let now = store.now(services).await.map_err(ApiError::unavailable)?;
        let until = new.until.as_deref().map(str::trim).filter(|until| !until.is_empty());
        let until = until.map(|until| parse_until(until, now)).transpose()?;
        let shown = if is_shown(&key) { value.to_string() } else { REDACTED.to_owned() };
        let until_text = until.map_or_else(String::new, |until| format!(" until {}", rfc3339::seconds(until)));
        let new = StoredOverride {
            service_id: overridden.name().to_owned(),
            key: key.clone(),
            value,
            by: by.clone(),
            why: why.clone(),
            at: now,
            until,
        };
        let set = store.set_override(services, new).await.map_err(ApiError::unavailable);
        if is_made(&set) {
            shared.record(overridden.name(), "override", format!("{key} = {shown}{until_text}"), &by, &why).await;
        }
        set?;
        Ok(overridden.health(&shared))
    };
    app.on_home(work).await?
}

/// `DELETE /services/{id}/overrides/{key}`
pub(crate) async fn delete_override(
    State(app): AppState,
    Parameters([id, key]): Parameters<2>,
    Input(author): Input<Author>,
) -> ApiResult<Json<OverriddenHealth>> {
    remove_override(&app, &id, &key, author).await.map(Json)
}

/// Removes an override, and records it.
///
/// # Errors
/// There is no such service or override (404); there is no database (409); the database does not answer (503).
pub(crate) async fn remove_override(
    app: &SharedApp,
    id: &str,
    key: &str,
    author: Author,
) -> ApiResult<OverriddenHealth> {
    let overridden = Overridden::find(app, id)?;
    let store = store(app)?;
    let (by, why) = author.checked()?;
    // PostgreSQL refuses a NUL in a text.
    let (shared, key) = (app.clone(), key.replace('\0', " "));
    let work = async move {
        let removed = store.remove_override(&shared.registry.inner.services, overridden.name(), &key).await;
        let removed = removed.map_err(ApiError::unavailable);
        if let Ok(false) = removed {
            let why = format!("`{}` has no override of `{key}`", overridden.name());
            return Err(ApiError::new(StatusCode::NOT_FOUND, why));
        }
        if is_made(&removed) {
            shared.record(overridden.name(), "remove override", key, &by, &why).await;
        }
        removed?;
        Ok(overridden.health(&shared))
    };
    app.on_home(work).await?
}

fn store(app: &App) -> ApiResult<Arc<dyn OperatorStore>> {
    let why = "overrides are kept in a database, and this program has none: add `.database(…)` or `.database_url(…)` to the builder";
    app.store().ok_or_else(|| ApiError::new(StatusCode::CONFLICT, why))
}
