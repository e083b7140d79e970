//! `/v1/agent/…`: what services and their operators call.

use http::HeaderValue;
use serde_json::{Map, Value};

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::decode::Fields;
use crate::server::query::Params;
use crate::server::{Compat, Shared, definition};
use crate::store::StoreError;
use crate::types::CheckStatus;

pub(crate) fn register_service(shared: &Shared, params: &Params, body: &[u8]) -> Answer {
    let (service, checks) = definition::service(body, shared.identity.compat, &shared.limits)?;
    // Consul takes the bare flag and `true`, and nothing else.
    let replace = params.get("replace-existing-checks").is_some_and(|value| matches!(value, "" | "true"));
    shared
        .change(|store, now| store.register_service(service, checks, replace, now))
        .map_err(|error| Refusal::full(&error))?;
    Ok(answer::done())
}

pub(crate) fn deregister_service(shared: &Shared, id: &str) -> Answer {
    if id.is_empty() {
        return Err(Refusal::internal("ServiceID missing"));
    }
    let known = shared.change(|store, _| store.deregister_service(id));
    match shared.identity.compat {
        Compat::Current if !known => Err(unknown_service(id)),
        _ => Ok(answer::done()),
    }
}

pub(crate) fn services(shared: &Shared, params: &Params) -> Response {
    let store = shared.store();
    let own = store.services().filter(|service| service.definition.id != CONSUL);
    let object: Map<String, Value> =
        own.map(|service| (service.definition.id.clone(), shared.identity.agent_service(service))).collect();
    answer::json(&Value::Object(object), params.has("pretty"))
}

pub(crate) fn service(shared: &Shared, params: &Params, id: &str) -> Answer {
    let store = shared.store();
    let Some(service) = store.service(id).filter(|_| id != CONSUL) else {
        return Err(match shared.identity.compat {
            Compat::Current => unknown_service(id),
            Compat::V1_8 => Refusal::not_found(format!("unknown service ID: {id}")),
        });
    };
    let mut object = shared.identity.agent_service(service);
    let hash = content_hash(&object.to_string());
    if let Some(object) = object.as_object_mut() {
        object.insert("ContentHash".to_owned(), Value::String(hash.clone()));
    }
    let mut response = answer::json(&object, params.has("pretty"));
    if let Ok(hash) = HeaderValue::from_str(&hash) {
        response.headers_mut().insert("x-consul-contenthash", hash);
    }
    Ok(response)
}

pub(crate) fn register_check(shared: &Shared, body: &[u8]) -> Answer {
    let check = definition::check(body, shared.identity.compat)?;
    let registered = shared.change(|store, now| store.register_check(check, now));
    registered.map_err(|error| match (&error, shared.identity.compat) {
        (StoreError::UnknownService(id), compat) => {
            let text = format!("ServiceID {id:?} does not exist");
            if compat == Compat::V1_8 { Refusal::internal(text) } else { Refusal::not_found(text) }
        }
        _ => Refusal::full(&error),
    })?;
    Ok(answer::done())
}

pub(crate) fn deregister_check(shared: &Shared, id: &str) -> Answer {
    if id.is_empty() {
        return Err(Refusal::internal("CheckID missing"));
    }
    let known = shared.change(|store, _| store.deregister_check(id));
    match shared.identity.compat {
        Compat::Current if !known => Err(unknown_check(id)),
        _ => Ok(answer::done()),
    }
}

/// `check/pass`, `check/warn` and `check/fail`: the status is in the path, the note in the query.
pub(crate) fn set_check(shared: &Shared, params: &Params, id: &str, status: CheckStatus) -> Answer {
    heartbeat(shared, id, status, params.get("note").unwrap_or_default())
}

/// `check/update`: status and output are in the body.
pub(crate) fn update_check(shared: &Shared, id: &str, body: &[u8]) -> Answer {
    let mut fields = Fields::from_body(body, &[("Status", ""), ("Output", "")])?;
    let (word, output) = (fields.string("Status")?, fields.string("Output")?);
    let status = CheckStatus::parse(&word)
        .ok_or_else(|| Refusal::bad_request(format!("Invalid check status: '{word}'")))?;
    heartbeat(shared, id, status, &output)
}

pub(crate) fn checks(shared: &Shared, params: &Params) -> Response {
    let store = shared.store();
    let own = store.checks().filter(|check| check.definition.id != SERF_HEALTH);
    let object: Map<String, Value> = own
        .map(|check| {
            let service = store.service(&check.definition.service_id);
            (check.definition.id.clone(), shared.identity.check(check, service, true))
        })
        .collect();
    answer::json(&Value::Object(object), params.has("pretty"))
}

pub(crate) fn own_self(shared: &Shared, params: &Params) -> Response {
    let store = shared.store();
    let (services, checks) = (store.services().count(), store.checks().count());
    answer::json(&shared.identity.agent_self(services, checks), params.has("pretty"))
}

pub(crate) fn members(shared: &Shared, params: &Params) -> Response {
    answer::json(&Value::Array(vec![shared.identity.member()]), params.has("pretty"))
}

fn heartbeat(shared: &Shared, id: &str, status: CheckStatus, output: &str) -> Answer {
    let output: String = output.chars().take(OUTPUT_CHARS_MAX).collect();
    let beat = shared.change(|store, now| store.heartbeat(id, status, output, now));
    match (beat, shared.identity.compat) {
        (Ok(()), _) => Ok(answer::done()),
        (Err(StoreError::UnknownCheck(id)), Compat::Current) => Err(unknown_check(&id)),
        (Err(_), _) => Err(Refusal::internal(format!("CheckID {id:?} does not have associated TTL"))),
    }
}

fn unknown_service(id: &str) -> Refusal {
    Refusal::not_found(format!(
        "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
    ))
}

fn unknown_check(id: &str) -> Refusal {
    Refusal::not_found(format!(
        "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
    ))
}

/// Opaque to clients; it has to change with the content and with nothing else. FNV-1a, 64 bits.
fn content_hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The registry's own service and check: in the catalog they are listed, at the agent they are not.
pub(crate) const CONSUL: &str = "consul";
pub(crate) const SERF_HEALTH: &str = "serfHealth";

/// Consul's default of `output_max_size`.
const OUTPUT_CHARS_MAX: usize = 4096;
