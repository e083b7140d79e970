//! `/v1/agent/health/service/…`: whether a local service may be used, as a status code for load balancers that
//! read only the status.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::call::Call;
use crate::server::maintenance::NODE_MAINTENANCE;
use crate::server::shape::Identity;
use crate::store::{CheckKind, ServiceRecord, Store};
use crate::types::CheckStatus;

/// The status of an instance; the worst one is last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Health {
    fn of(store: &Store, service: &ServiceRecord) -> Self {
        let health = store.checks_of(service).map(|check| match check.status {
            _ if check.definition.kind == CheckKind::Maintenance => Self::Maintenance,
            _ if check.definition.id == NODE_MAINTENANCE => Self::Maintenance,
            CheckStatus::Passing => Self::Passing,
            CheckStatus::Warning => Self::Warning,
            CheckStatus::Critical => Self::Critical,
        });
        health.max().unwrap_or(Self::Passing)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Passing => StatusCode::OK,
            Self::Warning => StatusCode::TOO_MANY_REQUESTS,
            Self::Critical | Self::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

pub(crate) fn by_id(call: &Call<'_>) -> Answer {
    let id = call.argument;
    if id.is_empty() {
        return Err(missing(call, "Bad request: Missing serviceID"));
    }
    let store = call.shared.store();
    let Some(service) = store.service(id) else {
        let nothing = json!({"AggregatedStatus": "critical", "Service": null, "Checks": null});
        return Ok(unknown(call, &format!("ServiceId {id} not found"), nothing));
    };
    let health = Health::of(&store, service);
    Ok(answered(call, health, &entry(call, &store, service, health)))
}

pub(crate) fn by_name(call: &Call<'_>) -> Answer {
    let name = call.argument;
    if name.is_empty() {
        return Err(missing(call, "Bad request: Missing service Name"));
    }
    let store = call.shared.store();
    let named = store.own_services().filter(|service| service.definition.name == name);
    let all: Vec<(Health, Value)> = named
        .map(|service| {
            let health = Health::of(&store, service);
            (health, entry(call, &store, service, health))
        })
        .collect();
    let Some(worst) = all.iter().map(|(health, _)| *health).max() else {
        return Ok(unknown(call, &format!("ServiceName {name} Not Found"), json!([])));
    };
    Ok(answered(call, worst, &all.into_iter().map(|(_, entry)| entry).collect()))
}

fn missing(call: &Call<'_>, text: &str) -> Refusal {
    call.mistake(text)
}

fn entry(call: &Call<'_>, store: &Store, service: &ServiceRecord, health: Health) -> Value {
    let identity = &call.shared.identity;
    let checks: Vec<Value> = store
        .checks_of(service)
        .filter(|check| check.definition.kind != CheckKind::Node)
        .map(|check| Identity::local_check(check, store.owner(check)))
        .collect();
    json!({"AggregatedStatus": health.as_str(), "Service": identity.agent_service(service), "Checks": checks})
}

fn answered(call: &Call<'_>, health: Health, body: &Value) -> Response {
    let mut response = if wants_text(call) {
        let mut response = answer::text(health.status(), health.as_str().to_owned());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    } else {
        let mut response = answer::json(body, call.pretty());
        *response.status_mut() = health.status();
        response
    };
    response.headers_mut().insert(REASON, HeaderValue::from_static(health.as_str()));
    response
}

/// Text here is a JSON string, as with Consul.
fn unknown(call: &Call<'_>, reason: &str, body: Value) -> Response {
    let body = if wants_text(call) { Value::String(reason.to_owned()) } else { body };
    let mut response = answer::json(&body, call.pretty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    if let Ok(reason) = HeaderValue::try_from(reason) {
        response.headers_mut().insert(REASON, reason);
    }
    response
}

fn wants_text(call: &Call<'_>) -> bool {
    let accept = call.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    call.params.get("format") == Some("text") || accept == Some("text/plain")
}

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");
