//! `/v1/health/…`: the same registrations together with their checks.

use serde_json::{Value, json};

use crate::server::answer::{Answer, Refusal};
use crate::server::call::Call;
use crate::server::catalog::{instances, options};
use crate::server::filter::{self, fields};
use crate::server::read::{Selection, cacheable, read};
use crate::store::{CheckRecord, Store};
use crate::types::CheckStatus;

pub(crate) async fn service(call: &Call<'_>) -> Answer {
    let options = options(call)?;
    let name = call.required("Missing service name")?;
    let selection = Selection::parse(call, fields::HEALTH_SERVICE)?;
    let passing = match call.params.get("passing") {
        None => false,
        Some("") => true,
        Some(word) => {
            filter::boolean(word).ok_or_else(|| Refusal::bad_request("Invalid value for ?passing"))?
        }
    };
    let identity = &call.shared.identity;
    let index = |store: &Store| store.service_index(name);
    let answer = read(call, &options, index, |store| {
        instances(call, &selection, store, name, |node, service| {
            let checks = || store.checks_of(service);
            if passing && checks().any(|check| check.status != CheckStatus::Passing) {
                return None;
            }
            let checks: Vec<Value> =
                checks().map(|check| identity.check(check, store.owner(check))).collect();
            Some(json!({
                "Node": identity.node(node),
                "Service": identity.health_service(service),
                "Checks": checks,
            }))
        })
    })
    .await;
    cacheable(answer, &call.params)
}

/// Gateways of the mesh; the registry has none.
pub(crate) async fn ingress(call: &Call<'_>) -> Answer {
    let options = options(call)?;
    call.required("Missing service name")?;
    read(call, &options, |_| 1, |_| json!([])).await
}

pub(crate) async fn checks(call: &Call<'_>) -> Answer {
    let name = call.required("Missing service name")?;
    let lower = name.to_lowercase();
    let of_service = |store: &Store, check: &CheckRecord| {
        store.owner(check).is_some_and(|service| service.definition.name.to_lowercase() == lower)
    };
    list(call, |store| store.service_index(name), of_service).await
}

pub(crate) async fn node(call: &Call<'_>) -> Answer {
    let name = call.required("Missing node name")?.to_lowercase();
    list(call, Store::checks_index, |_, check| check.node.to_lowercase() == name).await
}

pub(crate) async fn state(call: &Call<'_>) -> Answer {
    let state = call.required("Missing check state")?;
    list(call, Store::checks_index, |_, check| state == "any" || state == check.status.as_str()).await
}

async fn list(
    call: &Call<'_>,
    index: impl Fn(&Store) -> u64,
    wanted: impl Fn(&Store, &CheckRecord) -> bool,
) -> Answer {
    let options = options(call)?;
    let selection = Selection::parse(call, fields::CHECK)?;
    let identity = &call.shared.identity;
    read(call, &options, index, |store| {
        let checks = store.checks().filter(|check| wanted(store, check));
        let checks = checks.filter(|check| selection.admits(store.node(&check.node)));
        let checks = checks.map(|check| (check.node.clone(), identity.check(check, store.owner(check))));
        selection.list(checks)
    })
    .await
}
