//! Maintenance mode: a critical check on a service or on the node, so that clients do not use it.

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::{agent, filter};
use crate::store::{CheckDefinition, CheckKind};
use crate::types::CheckStatus;

pub(crate) fn service(call: &Call<'_>) -> Answer {
    let id = call.required("Missing service ID")?;
    let enable = enable(call)?;
    if call.shared.store().service(id).is_none() {
        return Err(if call.is_current() {
            agent::unknown_service(id)
        } else {
            Refusal::not_found(format!("No service registered with ID {id:?}"))
        });
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
        notes: reason,
        service_id: service_id.to_owned(),
        initial_status: Some(CheckStatus::Critical),
        ..CheckDefinition::new(id, name, CheckKind::Maintenance)
    };
    let registered = call.shared.change(|store, now| store.register_check(check, now));
    registered.map(|()| answer::done()).map_err(|error| Refusal::store(&error))
}

pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";
