//! Maintenance mode: a critical check on a service or on the node, so that nobody is sent there.

use crate::server::answer::{self, Answer, Refusal};
use crate::server::dispatch::Call;
use crate::server::filter;
use crate::store::{CheckDefinition, CheckKind};
use crate::types::CheckStatus;

pub(crate) fn service(call: &Call<'_>) -> Answer {
    let id = call.required("Missing service ID")?;
    let enable = enable(call)?;
    let missing = || {
        if call.is_current() {
            format!("Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name.")
        } else {
            format!("No service registered with ID {id:?}")
        }
    };
    if call.shared.store().service(id).is_none() {
        return Err(Refusal::not_found(missing()));
    }
    set(call, &format!("_service_maintenance:{id}"), "Service Maintenance Mode", id, enable)
}

pub(crate) fn node(call: &Call<'_>) -> Answer {
    let enable = enable(call)?;
    set(call, NODE_MAINTENANCE, "Node Maintenance Mode", "", enable)
}

fn enable(call: &Call<'_>) -> Result<bool, Refusal> {
    match call.params.get("enable") {
        None | Some("") => Err(Refusal::bad_request("Missing value for enable")),
        Some(word) => filter::boolean(word)
            .ok_or_else(|| Refusal::bad_request(format!("Invalid value for enable: {word:?}"))),
    }
}

fn set(call: &Call<'_>, id: &str, name: &str, service_id: &str, enable: bool) -> Answer {
    if !enable {
        call.shared.change(|store, now| store.deregister_check(id, now));
        return Ok(answer::done());
    }
    // It keeps the reason that it began with.
    if call.shared.store().own_check(id).is_some() {
        return Ok(answer::done());
    }
    let what = if service_id.is_empty() { "node" } else { "service" };
    let reason = match call.params.get("reason") {
        None | Some("") => format!(
            "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
        ),
        Some(reason) => reason.to_owned(),
    };
    let check = CheckDefinition {
        id: id.to_owned(),
        name: name.to_owned(),
        notes: reason,
        service_id: service_id.to_owned(),
        kind: CheckKind::Maintenance,
        initial_status: Some(CheckStatus::Critical),
        initial_output: String::new(),
        deregister_after: None,
    };
    let registered = call.shared.change(|store, now| store.register_check(check, now));
    registered.map(|()| answer::done()).map_err(|error| Refusal::store(&error))
}

pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";
