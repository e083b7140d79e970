//! Endpoints of parts that the embedded registry does not have, but that tools call in passing: an empty answer in Consul's
//! form, and a refusal for calls that would only pretend to work.

use http::StatusCode;
use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::call::Call;
use crate::server::catalog::options;
use crate::server::read::{indexed, read};
use crate::store::Store;

/// The refusal, in words for a user of the `consul` command, which prints them.
pub(crate) fn not_served(call: &Call<'_>) -> Answer {
    let missing =
        PARTS.iter().find(|(path, _)| call.path.starts_with(path)).map_or("such thing", |part| part.1);
    Err(Refusal::internal(format!("the embedded registry has no {missing}; use a Consul agent for that")))
}

pub(crate) fn no_connect(_: &Call<'_>) -> Answer {
    Err(Refusal::internal("Connect must be enabled in order to use this endpoint"))
}

/// A list that is always empty, with the headers of a read.
pub(crate) async fn nothing(call: &Call<'_>) -> Answer {
    indexed(call, |_| 1, |_| json!([])).await
}

pub(crate) async fn config(call: &Call<'_>) -> Answer {
    let (kind, name) = call.argument.split_once('/').unwrap_or((call.argument, ""));
    if !kind.is_empty() && !CONFIG_KINDS.contains(&kind) {
        return Err(Refusal::internal(format!("invalid config entry kind: {kind}")));
    }
    if call.method == http::Method::DELETE {
        return not_served(call);
    }
    if name.is_empty() {
        return nothing(call).await;
    }
    let text = format!("Config entry not found for {kind:?} / {name:?}");
    Ok(answer::with_index(answer::text(StatusCode::NOT_FOUND, text), 1))
}

pub(crate) async fn intentions(call: &Call<'_>) -> Answer {
    if call.method == http::Method::GET { nothing(call).await } else { not_served(call) }
}

pub(crate) fn intentions_match(call: &Call<'_>) -> Answer {
    let Some(name) = call.params.get("name").filter(|name| !name.is_empty()) else {
        return Err(Refusal::internal("required query parameter 'name' not set"));
    };
    let mut object = serde_json::Map::new();
    object.insert(name.to_owned(), Value::Null);
    Ok(answer::json(&Value::Object(object), call.pretty()))
}

/// Every connection is allowed, because there are no intentions.
pub(crate) fn intentions_check(call: &Call<'_>) -> Response {
    answer::json(&json!({"Allowed": true}), call.pretty())
}

pub(crate) async fn queries(call: &Call<'_>) -> Answer {
    if call.method != http::Method::GET {
        return not_served(call);
    }
    let options = options(call)?;
    read(call, &options, |_| 1, |_| json!([])).await
}

pub(crate) fn query(call: &Call<'_>) -> Answer {
    let name = call.argument;
    let runs = name.ends_with("/execute") || name.ends_with("/explain");
    if runs || name.len() == UUID_CHARS {
        return Err(Refusal::not_found("Query not found"));
    }
    let text = "failed prepared query lookup: index error: UUID must be 36 characters";
    Err(match call.method {
        http::Method::GET => Refusal::internal(text).dispatched(),
        _ => Refusal::internal(format!("Prepared Query lookup failed: {text}")),
    })
}

/// Every node is at the origin: there is one machine.
pub(crate) async fn coordinate_nodes(call: &Call<'_>) -> Answer {
    indexed(call, Store::nodes_index, |_| json!([coordinate(call)])).await
}

pub(crate) async fn coordinate_node(call: &Call<'_>) -> Answer {
    match call.argument {
        name if name == call.shared.identity.node_name => coordinate_nodes(call).await,
        _ => Err(Refusal::not_found("")),
    }
}

pub(crate) fn coordinate_datacenters(call: &Call<'_>) -> Response {
    let body = json!([{
        "Datacenter": call.shared.identity.datacenter,
        "AreaID": "wan",
        "Coordinates": [coordinate(call)],
    }]);
    answer::json(&body, call.pretty())
}

fn coordinate(call: &Call<'_>) -> Value {
    let origin = json!({"Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.00001});
    json!({"Node": call.shared.identity.node_name, "Segment": "", "Coord": origin})
}

pub(crate) fn raft_configuration(call: &Call<'_>) -> Response {
    let identity = &call.shared.identity;
    let server = json!({
        "ID": identity.node_id,
        "Node": identity.node_name,
        "Address": identity.leader(),
        "Leader": true,
        "ProtocolVersion": "3",
        "Voter": true,
    });
    answer::json(&json!({"Servers": [server], "Index": 0}), call.pretty())
}

pub(crate) fn raft_peer(call: &Call<'_>) -> Answer {
    let identity = &call.shared.identity;
    if call.params.has("id") && call.params.has("address") {
        return Err(Refusal::bad_request("Bad request: Must specify only one of ?id or ?address"));
    }
    let (own_id, own_address) = (identity.node_id.as_str(), identity.leader());
    for (name, own) in [("id", own_id), ("address", own_address.as_str())] {
        let Some(peer) = call.params.get(name) else { continue };
        if peer == own {
            return not_served(call);
        }
        return Err(Refusal::internal(format!("{name} {peer:?} was not found in the Raft configuration")));
    }
    Err(Refusal::bad_request(
        "Bad request: Must specify either ?id with the server's ID or ?address with IP:port of peer to remove",
    ))
}

pub(crate) fn autopilot_configuration(call: &Call<'_>) -> Answer {
    if call.method != http::Method::GET {
        return not_served(call);
    }
    let body = json!({
        "CleanupDeadServers": true,
        "LastContactThreshold": "200ms",
        "MaxTrailingLogs": 250,
        "MinQuorum": 0,
        "ServerStabilizationTime": "10s",
        "RedundancyZoneTag": "",
        "DisableUpgradeMigration": false,
        "UpgradeVersionTag": "",
        "CreateIndex": 4,
        "ModifyIndex": 4,
    });
    Ok(answer::json(&body, call.pretty()))
}

pub(crate) fn autopilot_health(call: &Call<'_>) -> Response {
    let identity = &call.shared.identity;
    let server = json!({
        "ID": identity.node_id,
        "Name": identity.node_name,
        "Address": identity.leader(),
        "SerfStatus": "alive",
        "Version": identity.version(),
        "Leader": true,
        "LastContact": "0s",
        "LastTerm": 2,
        "LastIndex": call.shared.store().index(),
        "Healthy": true,
        "Voter": true,
        "StableSince": call.shared.started,
    });
    let body = json!({"Healthy": true, "FailureTolerance": 0, "Servers": [server]});
    answer::json(&body, call.pretty())
}

pub(crate) fn keyring(call: &Call<'_>) -> Answer {
    let identity = &call.shared.identity;
    let (node, datacenter) = (&identity.node_name, &identity.datacenter);
    let empty = "Keyring is empty (encryption not enabled)";
    Err(Refusal::internal(format!(
        "4 errors occurred:\n\t* WAN error: 1/1 nodes reported failure\n\t* {node}.{datacenter}: {empty}\n\t* \
         {datacenter} (LAN) error: 1/1 nodes reported failure\n\t* {node}: {empty}\n\n"
    )))
}

pub(crate) fn snapshot(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    Err(Refusal::internal("snapshots are not supported by the embedded registry; copy its data directory"))
}

/// Refused paths by their beginnings, and the name of the missing part.
const PARTS: &[(&str, &str)] = &[
    ("/v1/config", "configuration entries"),
    ("/v1/connect/intentions", "intentions"),
    ("/v1/coordinate/", "network coordinates to update"),
    ("/v1/discovery-chain/", "service mesh"),
    ("/v1/operator/autopilot/", "autopilot to configure"),
    ("/v1/operator/raft/", "server but itself"),
    ("/v1/query", "prepared queries"),
];
const CONFIG_KINDS: &[&str] = &[
    "service-defaults",
    "proxy-defaults",
    "service-router",
    "service-splitter",
    "service-resolver",
    "ingress-gateway",
    "terminating-gateway",
];
const UUID_CHARS: usize = 36;
