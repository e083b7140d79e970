//! `/v1/agent/…`: what services call to register themselves and their checks.

use std::collections::BTreeMap;

use http::HeaderValue;
use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::decode::Fields;
use crate::server::filter::{Filter, fields};
use crate::server::query::ReadOptions;
use crate::server::read::until;
use crate::server::{Compat, definition};
use crate::store::{Store, StoreError};
use crate::types::CheckStatus;

pub(crate) fn register_service(call: &Call<'_>) -> Answer {
    let shared = call.shared;
    let (service, checks) = definition::service(&call.body, shared.identity.compat, &shared.limits)?;
    // Consul accepts only the bare flag and `true`.
    let replace =
        call.params.get("replace-existing-checks").is_some_and(|value| matches!(value, "" | "true"));
    shared
        .change(|store, now| store.register_service(service, checks, replace, now))
        .map_err(|error| Refusal::store(&error))?;
    Ok(answer::done())
}

pub(crate) fn deregister_service(call: &Call<'_>) -> Answer {
    let id = call.argument;
    if id.is_empty() {
        return Err(Refusal::internal("ServiceID missing"));
    }
    let known = call.shared.change(|store, now| store.deregister_service(id, now));
    if !known && call.is_current() { Err(unknown_service(id)) } else { Ok(answer::done()) }
}

pub(crate) fn services(call: &Call<'_>) -> Answer {
    let filter = filter(call, fields::SERVICE, true)?;
    let store = call.shared.store();
    let own = store.own_services().filter(|service| service.definition.id != CONSUL);
    let object: BTreeMap<String, Value> = own
        .map(|service| (service.definition.id.clone(), call.shared.identity.agent_service(service)))
        .filter(|(_, service)| filter.as_ref().is_none_or(|filter| filter.matches(service)))
        .collect();
    Ok(answer::json(&json!(object), call.pretty()))
}

/// One service. With `?hash=` it waits until the content has another hash.
pub(crate) async fn service(call: &Call<'_>) -> Answer {
    let id = call.argument;
    let options = ReadOptions::parse(&call.params, &call.shared.identity.datacenter)?;
    let known = call.params.get("hash").unwrap_or_default();
    let view = |store: &Store| {
        let service = store.service(id).filter(|_| id != CONSUL)?;
        let object = call.shared.identity.agent_service(service);
        let hash = content_hash(&object.to_string());
        Some((object, hash))
    };
    let news = |store: &Store| known.is_empty() || view(store).is_none_or(|(_, hash)| hash != known);
    let Some((mut object, hash)) = until(call.shared, options.wait, news, view).await? else {
        return Err(match call.shared.identity.compat {
            Compat::Current => unknown_service(id),
            Compat::V1_8 => Refusal::not_found(format!("unknown service ID: {id}")),
        });
    };
    if let Some(object) = object.as_object_mut() {
        object.insert("ContentHash".to_owned(), Value::String(hash.clone()));
    }
    let mut response = answer::json(&object, call.pretty());
    if let Ok(hash) = HeaderValue::from_str(&hash) {
        response.headers_mut().insert("x-consul-contenthash", hash);
    }
    Ok(response)
}

pub(crate) fn register_check(call: &Call<'_>) -> Answer {
    let compat = call.shared.identity.compat;
    let check = definition::check(&call.body, compat)?;
    let registered = call.shared.change(|store, now| store.register_check(check, now));
    registered.map_err(|error| match (&error, compat) {
        (StoreError::UnknownService(id), compat) => {
            let text = format!("ServiceID {id:?} does not exist");
            if compat == Compat::V1_8 { Refusal::internal(text) } else { Refusal::not_found(text) }
        }
        _ => Refusal::store(&error),
    })?;
    Ok(answer::done())
}

pub(crate) fn deregister_check(call: &Call<'_>) -> Answer {
    let id = call.argument;
    if id.is_empty() {
        return Err(Refusal::internal("CheckID missing"));
    }
    let known = call.shared.change(|store, now| store.deregister_check(id, now));
    if !known && call.is_current() { Err(unknown_check(id)) } else { Ok(answer::done()) }
}

/// `check/pass`, `check/warn` and `check/fail`: the status is in the path, the note in the query.
pub(crate) fn set_check(call: &Call<'_>, status: CheckStatus) -> Answer {
    heartbeat(call, status, call.params.get("note").unwrap_or_default())
}

/// `check/update`: status and output are in the body.
pub(crate) fn update_check(call: &Call<'_>) -> Answer {
    let mut fields = Fields::of_type(&call.body, &[("Status", ""), ("Output", "")], "checkUpdate")?;
    let (word, output) = (fields.string("Status")?, fields.string("Output")?);
    let status = CheckStatus::parse(&word)
        .ok_or_else(|| Refusal::bad_request(format!("Invalid check status: '{word}'")))?;
    heartbeat(call, status, &output)
}

pub(crate) fn checks(call: &Call<'_>) -> Answer {
    let filter = filter(call, fields::CHECK, false)?;
    let store = call.shared.store();
    let own = store.own_checks().filter(|check| check.definition.id != SERF_HEALTH);
    let object: BTreeMap<String, Value> = own
        .map(|check| {
            let element = call.shared.identity.agent_check(check, store.owner(check));
            (check.definition.id.clone(), element)
        })
        .filter(|(_, check)| filter.as_ref().is_none_or(|filter| filter.matches(check)))
        .collect();
    Ok(answer::json(&json!(object), call.pretty()))
}

/// `always_named`: for checks, 1.8.7 does not name the expression when a field in it is wrong.
fn filter(call: &Call<'_>, kind: fields::Kind, always_named: bool) -> Result<Option<Filter>, Refusal> {
    let Some(text) = call.params.get("filter").filter(|text| !text.is_empty()) else { return Ok(None) };
    Filter::parse(text, kind).map(Some).map_err(|error| {
        let named = always_named || call.is_current() || error.starts_with("1:");
        let text =
            if named { format!("Failed to create boolean expression evaluator: {error}") } else { error };
        call.mistake(text)
    })
}

fn heartbeat(call: &Call<'_>, status: CheckStatus, output: &str) -> Answer {
    let id = call.argument;
    let output: String = output.chars().take(OUTPUT_CHARS_MAX).collect();
    let beat = call.shared.change(|store, now| store.heartbeat(id, status, output, now));
    match (beat, call.shared.identity.compat) {
        (Ok(()), _) => Ok(answer::done()),
        (Err(StoreError::UnknownCheck(id)), Compat::Current) => Err(unknown_check(&id)),
        (Err(_), _) => Err(Refusal::internal(format!("CheckID {id:?} does not have associated TTL"))),
    }
}

pub(crate) fn unknown_service(id: &str) -> Refusal {
    Refusal::not_found(format!(
        "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
    ))
}

fn unknown_check(id: &str) -> Refusal {
    Refusal::not_found(format!(
        "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
    ))
}

/// A hash that changes exactly when the content does; clients do not interpret it. FNV-1a, 64 bits.
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
