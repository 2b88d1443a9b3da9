//! `GET /openapi.json`: the OpenAPI 3.1 description of the interface, without its pages.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{Method, Uri};
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Components, ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths, RefOr, Required,
    ResponseBuilder, Server,
};

use crate::admin::access::{self, Access};
use crate::admin::app::AppState;
use crate::admin::commands::Command;
use crate::admin::openapi::schemas::{any, list, map, one_of, reference, text};

mod schemas;

/// The names of the schemes by which the token is sent: in a header, or in the cookie of `POST /login`.
const TOKEN: &str = "token";
const COOKIE: &str = "cookie";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const EVENTS: &str = "text/event-stream";
const HTML: &str = "text/html";

/// `GET /openapi.json`
pub(crate) async fn document(State(app): AppState, OriginalUri(original): OriginalUri, uri: Uri) -> Json<OpenApi> {
    // Below this path the application has mounted the interface.
    let mount = original.path().strip_suffix(uri.path()).unwrap_or_default();
    Json(describe(&app.access, mount))
}

/// Describes the interface as it is served: which operations need the token depends on how it can be reached.
fn describe(access: &Access, mount: &str) -> OpenApi {
    let info = InfoBuilder::new()
        .title("service-core")
        .description(Some("Operates the services of a program."))
        .version(env!("CARGO_PKG_VERSION"));
    let servers = (!mount.is_empty()).then(|| vec![Server::new(mount)]);
    OpenApiBuilder::new().info(info).servers(servers).paths(paths(access)).components(Some(components())).build()
}

fn components() -> Components {
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(access::COOKIE)));
    ComponentsBuilder::new()
        .schemas_from_iter(schemas::all())
        .security_scheme(TOKEN, SecurityScheme::Http(token))
        .security_scheme(COOKIE, cookie)
        .build()
}

fn paths(access: &Access) -> Paths {
    let mut paths = Paths::new();
    let mut add = |path: &str, method: HttpMethod, operation: Api| {
        let reads = matches!(method, HttpMethod::Get);
        let needs_token = access.needs_token(if reads { &Method::GET } else { &Method::POST }, path);
        let item = PathItem::new(method, operation.build(needs_token));
        paths.paths.entry(path.to_owned()).or_default().merge_operations(item);
    };
    let health = || reference("ServiceHealth");
    add(
        "/health/live",
        HttpMethod::Get,
        Api::new("live", "Whether the process is alive.").ok(JSON, reference("Live")).error(503, "Live"),
    );
    add(
        "/health/ready",
        HttpMethod::Get,
        Api::new("ready", "Whether the program is ready.").ok(JSON, reference("Ready")).error(503, "Ready"),
    );
    add("/services", HttpMethod::Get, Api::new("services", "The health of all services.").ok(JSON, list(health())));
    add("/services/{id}", HttpMethod::Get, Api::new("service", "The health of a service.").id().ok(JSON, health()));
    add(
        "/services/{id}/runs",
        HttpMethod::Get,
        Api::new("runs", "The last 50 runs, the newest first.").id().ok(JSON, list(reference("Run"))),
    );
    add(
        "/services/{id}/explain",
        HttpMethod::Get,
        Api::new(
            "explain",
            "The options of a service, with the place of each, its next runs, and why it does not run.",
        )
        .id()
        .ok(JSON, reference("Explanation")),
    );
    for command in Command::ALL {
        let path = format!("/services/{{id}}/{}", command.name());
        let (and, answer) = match command {
            Command::Run => (", and with the report of the run if it ends within 10 s", reference("RunAnswer")),
            _ => ("", health()),
        };
        let summary = format!("Carries out `{}`, and answers with the new health{and}.", command.name());
        let api = Api::new(command.name(), &summary).id().body("Author", Required::False);
        add(&path, HttpMethod::Post, api.conflict().unavailable().ok(JSON, answer));
    }
    let overrides = |name: &str, summary: &str| {
        let id = "The id of a service, the name of the type of services, or `defaults` for all services.";
        Api::new(name, summary).with(parameter("id", ParameterIn::Path, text(), id)).missing().unavailable()
    };
    let read = overrides("overrides", "The operator overrides of a service.");
    add("/services/{id}/overrides", HttpMethod::Get, read.ok(JSON, list(reference("Override"))));
    let key = "The option or setting, or `paused`; only `paused` if the override is for several services.";
    let key = || parameter("key", ParameterIn::Path, text(), key);
    // Of a service; of all services that the override is for.
    let health = || one_of([reference("ServiceHealth"), list(reference("ServiceHealth"))]);
    let path = "/services/{id}/overrides/{key}";
    let put = overrides("set_override", "Sets an operator override. It needs a database.").with(key()).conflict();
    add(path, HttpMethod::Put, put.body("NewOverride", Required::True).ok(JSON, health()));
    let delete = overrides("remove_override", "Removes an operator override.").with(key()).conflict();
    add(path, HttpMethod::Delete, delete.body("Author", Required::False).ok(JSON, health()));
    add(
        "/work",
        HttpMethod::Get,
        Api::new("work", "The tables of work, with the counts of the last 30 s.")
            .ok(JSON, list(reference("WorkTable"))),
    );
    let number =
        || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(u32::MAX)).build().into();
    let table = || parameter("table", ParameterIn::Path, text(), "The name of the table.");
    let failed = Api::new("failed_rows", "Failed rows of a table of work, with their errors.")
        .with(table())
        .missing()
        .unavailable();
    let failed = failed
        .with(parameter("offset", ParameterIn::Query, number(), "How many rows to leave out."))
        .with(parameter("limit", ParameterIn::Query, number(), "How many rows at most (50; at most 500)."));
    add("/work/{table}/failed", HttpMethod::Get, failed.bad_request().ok(JSON, list(reference("FailedRow"))));
    let retry =
        Api::new("retry", "Makes failed rows pending again: those with these keys, or all.").with(table()).missing();
    add(
        "/work/{table}/retry",
        HttpMethod::Post,
        retry.body("Retry", Required::True).unavailable().ok(JSON, reference("Retried")),
    );
    let audit = Api::new("audit", "Who changed what, when and why, the newest first.")
        .unavailable()
        .bad_request()
        .with(parameter("subject", ParameterIn::Query, text(), "Only entries of this service or table."))
        .with(parameter("before", ParameterIn::Query, text(), "Only entries before the one with this id."))
        .with(parameter("limit", ParameterIn::Query, number(), "How many entries at most (100; at most 1,000)."));
    add("/audit", HttpMethod::Get, audit.ok(JSON, list(reference("AuditEntry"))));
    let replicas =
        Api::new("replicas", "All replicas with services of `scope = \"cluster\"`, and the health of their services.");
    add("/replicas", HttpMethod::Get, replicas.unavailable().ok(JSON, list(reference("Replica"))));
    let boolean = ObjectBuilder::new().schema_type(Type::Boolean).build().into();
    let events =
        Api::new("events", "The events of services from now on, at most one message a second of each service.")
            .bad_request()
            .with(parameter("service", ParameterIn::Query, text(), "Only the events of this service."))
            .with(parameter(
                "health",
                ParameterIn::Query,
                boolean,
                "Whether each message has the health of its service.",
            ));
    add("/events", HttpMethod::Get, events.ok(EVENTS, text()));
    add(
        "/metrics",
        HttpMethod::Get,
        Api::new("metrics", "The metrics of all services, as Prometheus text.").ok(TEXT, text()),
    );
    add("/openapi.json", HttpMethod::Get, Api::new("openapi", "This description.").ok(JSON, map(any())));
    let dashboard = Api::new("dashboard", "The dashboard: all services.").ok(HTML, text());
    add("/", HttpMethod::Get, dashboard);
    add("/login", HttpMethod::Get, Api::new("login_page", "The page that asks for the token.").ok(HTML, text()));
    let login = Api::new("login", "Checks the token, and sets the cookie by which a browser sends it.");
    let login = login.body("Login", Required::True);
    add(
        "/login",
        HttpMethod::Post,
        login.see_other("The cookie is set; the dashboard, or its page `next`, is at `Location`."),
    );
    paths
}

/// An operation while it is described.
struct Api {
    operation: OperationBuilder,
}

impl Api {
    /// Every operation refuses other sites.
    fn new(id: &str, summary: &str) -> Self {
        let operation = OperationBuilder::new().operation_id(Some(id)).summary(Some(summary));
        let errors = [
            (401, "The token is missing or wrong."),
            (403, "The request comes from another site, or is for another host."),
            (408, "The body arrived too slowly."),
            (413, "The body is larger than 64 KiB."),
        ];
        errors
            .into_iter()
            .fold(Self { operation }, |api, (status, why)| api.respond(status, why, JSON, reference("Error")))
    }

    fn respond(mut self, status: u16, description: &str, kind: &str, schema: RefOr<Schema>) -> Self {
        let response = ResponseBuilder::new().description(description).content(kind, Content::new(Some(schema)));
        self.operation = self.operation.response(status.to_string(), response.build());
        self
    }

    fn ok(self, kind: &str, schema: RefOr<Schema>) -> Self {
        self.respond(200, "Done.", kind, schema)
    }

    fn see_other(mut self, description: &str) -> Self {
        self.operation = self.operation.response("303", ResponseBuilder::new().description(description).build());
        self
    }

    fn error(self, status: u16, name: &str) -> Self {
        self.respond(status, "It is not.", JSON, reference(name))
    }

    fn with(mut self, parameter: Parameter) -> Self {
        self.operation = self.operation.parameter(parameter);
        self
    }

    fn id(self) -> Self {
        self.with(parameter("id", ParameterIn::Path, text(), "The id of the service.")).missing()
    }

    fn missing(self) -> Self {
        self.respond(404, "There is none with this name.", JSON, reference("Error")).bad_request()
    }

    fn bad_request(self) -> Self {
        self.respond(400, "The request cannot be read.", JSON, reference("Error"))
    }

    fn conflict(self) -> Self {
        self.respond(409, "The state does not allow it; the reason says why.", JSON, reference("Error"))
    }

    fn unavailable(self) -> Self {
        self.respond(503, "The database, or the runtime of the services, does not answer.", JSON, reference("Error"))
    }

    fn body(mut self, name: &str, required: Required) -> Self {
        let body =
            RequestBodyBuilder::new().content(JSON, Content::new(Some(reference(name)))).required(Some(required));
        self.operation = self.operation.request_body(Some(body.build()));
        self.respond(422, "The body cannot be used; the reason says why.", JSON, reference("Error")).bad_request()
    }

    fn build(self, needs_token: bool) -> Operation {
        let schemes = if needs_token { &[TOKEN, COOKIE][..] } else { &[] };
        let requires = |scheme: &&str| SecurityRequirement::new::<_, [&str; 0], &str>(*scheme, []);
        schemes.iter().map(requires).fold(self.operation, OperationBuilder::security).build()
    }
}

fn parameter(name: &str, place: ParameterIn, schema: RefOr<Schema>, description: &str) -> Parameter {
    let required = if matches!(place, ParameterIn::Path) { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .schema(Some(schema))
        .description(Some(description))
        .build()
}
