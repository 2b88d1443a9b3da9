//! The schemas of the OpenAPI description.

use utoipa::openapi::schema::{
    AdditionalProperties, AllOfBuilder, ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat,
    SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};

use crate::observe::health::HealthStatus;
use crate::service::state::ServiceState;

type Named = (&'static str, RefOr<Schema>);

/// All schemas, by their names.
pub(super) fn all() -> impl Iterator<Item = Named> {
    let groups = [probe_schemas(), service_schemas(), operator_schemas(), work_schemas(), replica_schemas()];
    groups.into_iter().flatten()
}

/// The answers of the probes, and of a command that failed.
fn probe_schemas() -> Vec<Named> {
    vec![
        ("Error", object([("error", text(), true)])),
        ("Live", object([("live", boolean(), true), ("reason", or_null(Type::String), true)])),
        (
            "Ready",
            object([
                ("ready", boolean(), true),
                ("reason", or_null(Type::String), true),
                ("status", statuses(), true),
                (
                    "services",
                    list(object([
                        ("service_id", text(), true),
                        ("state", states(), true),
                        ("status", statuses(), true),
                        ("reason", or_null(Type::String), false),
                    ])),
                    true,
                ),
            ]),
        ),
    ]
}

/// Services, their runs and their options.
fn service_schemas() -> Vec<Named> {
    vec![
        (
            "ServiceHealth",
            object([
                ("service_id", text(), true),
                ("labels", map(text()), true),
                ("optional", boolean(), false),
                ("state", states(), true),
                ("status", statuses(), true),
                ("reason", or_null(Type::String), true),
                ("running", boolean(), true),
                ("in_run", boolean(), false),
                ("paused", boolean(), true),
                ("failures", integer(), true),
                ("max_failures", or_null(Type::Integer), true),
                ("last_run", time_or_null(), true),
                ("last_success", time_or_null(), true),
                ("next_run", time_or_null(), true),
                ("last_run_duration_ms", or_null(Type::Integer), true),
                ("last_error", or_null(Type::String), true),
                ("total_processed", integer(), true),
                ("total_failed", integer(), true),
                ("error_count", integer(), true),
                ("runs", integer(), true),
                ("restarts", integer(), true),
                ("metrics", map(or_null(Type::Number)), true),
            ]),
        ),
        (
            "Run",
            object([
                ("run", integer(), true),
                ("started_at", time(), true),
                ("duration_ms", number(), true),
                ("succeeded", boolean(), true),
                ("processed", integer(), true),
                ("failed", integer(), true),
                ("failure", or_null(Type::String), true),
                ("error", or_null(Type::String), true),
            ]),
        ),
        (
            "RunReport",
            object([
                ("run", or_null(Type::Integer), true),
                ("succeeded", boolean(), true),
                ("processed", integer(), true),
                ("failed", integer(), true),
                ("again", boolean(), true),
                ("duration_ms", number(), true),
                ("error", or_null(Type::String), true),
            ]),
        ),
        ("RunAnswer", all_of([reference("ServiceHealth"), object([("report", reference("RunReport"), false)])])),
        (
            "ExplainedOption",
            object([
                ("key", text(), true),
                ("value", text(), true),
                ("layer", text(), true),
                ("place", text(), true),
                ("hides", list(reference("ExplainedOption")), true),
            ]),
        ),
        (
            "ExplainedLease",
            object([
                ("description", text(), true),
                ("holder", text(), false),
                ("is_this", boolean(), true),
                ("epoch", integer(), false),
            ]),
        ),
        (
            "ExplainedReplica",
            object([
                ("label", text(), true),
                ("is_this", boolean(), true),
                ("is_live", boolean(), true),
                ("seen_ms_ago", integer(), true),
                ("state", states(), true),
                ("status", statuses(), true),
                ("lease_epoch", integer(), false),
            ]),
        ),
        (
            "Explanation",
            object([
                ("service_id", text(), true),
                ("labels", map(text()), true),
                ("optional", boolean(), true),
                ("parent", or_null(Type::String), true),
                ("type_name", text(), true),
                ("place", text(), true),
                ("requester_id", text(), true),
                ("at", time(), true),
                ("state", states(), true),
                ("status", statuses(), true),
                ("reason", or_null(Type::String), true),
                ("now", text(), true),
                ("schedule", text(), true),
                ("next_runs", list(time()), true),
                ("options", list(reference("ExplainedOption")), true),
                ("settings", list(object([("key", text(), true), ("place", text(), true)])), true),
                ("rejected", list(text()), true),
                ("lease", reference("ExplainedLease"), false),
                ("replicas", list(reference("ExplainedReplica")), false),
            ]),
        ),
    ]
}

/// What operators send and change.
fn operator_schemas() -> Vec<Named> {
    vec![
        (
            "Override",
            object([
                ("key", text(), true),
                ("value", any(), true),
                ("by", text(), true),
                ("why", text(), true),
                ("at", time(), true),
                ("until", time_or_null(), true),
            ]),
        ),
        ("Author", input([("by", or_null_text(100), false), ("why", or_null_text(1_000), false)])),
        (
            "NewOverride",
            input([
                ("value", any(), true),
                ("by", or_null_text(100), false),
                ("why", or_null_text(1_000), false),
                ("until", or_null(Type::String), false),
            ]),
        ),
        ("Login", object([("token", text(), true), ("next", text(), false)])),
        (
            "AuditEntry",
            object([
                ("id", text(), true),
                ("at", time(), true),
                ("subject", text(), true),
                ("action", text(), true),
                ("detail", text(), true),
                ("by", text(), true),
                ("why", text(), true),
            ]),
        ),
    ]
}

/// Tables of work.
fn work_schemas() -> Vec<Named> {
    vec![
        (
            "WorkTable",
            object([
                ("table", text(), true),
                ("pending", integer(), false),
                ("due", integer(), false),
                ("in_flight", integer(), false),
                ("failed", integer(), false),
                ("oldest_due_seconds", or_null(Type::Number), false),
                ("sampled_at", time_or_null(), true),
                ("error", or_null(Type::String), true),
            ]),
        ),
        (
            "FailedRow",
            object([
                ("key", list(text()), true),
                ("error", or_null(Type::String), true),
                ("attempts", or_null(Type::Integer), true),
                ("updated_at", or_null(Type::String), true),
            ]),
        ),
        (
            "Retry",
            one_of([
                input([
                    (
                        "keys",
                        ArrayBuilder::new().items(list(text())).min_items(Some(1)).max_items(Some(500)).build().into(),
                        true,
                    ),
                    ("by", or_null_text(100), false),
                    ("why", or_null_text(1_000), false),
                ]),
                input([
                    (
                        "all",
                        ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([true])).build().into(),
                        true,
                    ),
                    ("by", or_null_text(100), false),
                    ("why", or_null_text(1_000), false),
                ]),
            ]),
        ),
        ("Retried", object([("retried", integer(), true)])),
    ]
}

/// Replicas.
fn replica_schemas() -> Vec<Named> {
    vec![
        (
            "Replica",
            object([
                ("id", text(), true),
                ("host", text(), true),
                ("pid", integer(), true),
                ("version", text(), true),
                ("started_at", time(), true),
                ("seen_ms_ago", integer(), true),
                ("is_live", boolean(), true),
                ("is_this", boolean(), true),
                ("services", list(reference("ReplicaService")), true),
            ]),
        ),
        (
            "ReplicaService",
            object([
                ("service_id", text(), true),
                ("state", states(), true),
                ("status", statuses(), true),
                ("reason", or_null(Type::String), false),
                ("lease_epoch", integer(), false),
            ]),
        ),
    ]
}

fn states() -> RefOr<Schema> {
    words(ServiceState::ALL.map(ServiceState::as_str))
}

fn statuses() -> RefOr<Schema> {
    words(HealthStatus::ALL.map(|status| status.to_string()))
}

fn number() -> RefOr<Schema> {
    typed(Type::Number)
}

fn integer() -> RefOr<Schema> {
    typed(Type::Integer)
}

fn boolean() -> RefOr<Schema> {
    typed(Type::Boolean)
}

pub(super) fn reference(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

fn typed(kind: Type) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(kind).build().into()
}

pub(super) fn any() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).build().into()
}

pub(super) fn map(of: RefOr<Schema>) -> RefOr<Schema> {
    ObjectBuilder::new().additional_properties(Some(AdditionalProperties::RefOr(of))).build().into()
}

pub(super) fn text() -> RefOr<Schema> {
    typed(Type::String)
}

fn time() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .build()
        .into()
}

fn time_or_null() -> RefOr<Schema> {
    let kinds = SchemaType::from_iter([Type::String, Type::Null]);
    ObjectBuilder::new()
        .schema_type(kinds)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .build()
        .into()
}

fn or_null(kind: Type) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null])).build().into()
}

fn or_null_text(longest: usize) -> RefOr<Schema> {
    let kinds = SchemaType::from_iter([Type::String, Type::Null]);
    ObjectBuilder::new().schema_type(kinds).max_length(Some(longest)).build().into()
}

fn words<T: Into<serde_json::Value>>(words: impl IntoIterator<Item = T>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.into_iter().map(Into::into))).build().into()
}

pub(super) fn list(of: RefOr<Schema>) -> RefOr<Schema> {
    ArrayBuilder::new().items(of).build().into()
}

/// The properties of an object, each with whether it is always there.
type Properties<const N: usize> = [(&'static str, RefOr<Schema>, bool); N];

fn builder<const N: usize>(properties: Properties<N>) -> ObjectBuilder {
    let add = |object: ObjectBuilder, (name, schema, required): (&str, RefOr<Schema>, bool)| {
        let object = object.property(name, schema);
        if required { object.required(name) } else { object }
    };
    properties.into_iter().fold(ObjectBuilder::new(), add)
}

fn object<const N: usize>(properties: Properties<N>) -> RefOr<Schema> {
    builder(properties).build().into()
}

pub(super) fn one_of<const N: usize>(schemas: [RefOr<Schema>; N]) -> RefOr<Schema> {
    RefOr::T(Schema::OneOf(schemas.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item).build()))
}

fn all_of<const N: usize>(schemas: [RefOr<Schema>; N]) -> RefOr<Schema> {
    RefOr::T(Schema::AllOf(schemas.into_iter().fold(AllOfBuilder::new(), AllOfBuilder::item).build()))
}

/// An object that has no other properties.
fn input<const N: usize>(properties: Properties<N>) -> RefOr<Schema> {
    builder(properties).additional_properties(Some(AdditionalProperties::FreeForm(false))).build().into()
}
