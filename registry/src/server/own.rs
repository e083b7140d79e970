//! What the agent reports about itself: `/v1/agent/self`, `members` and other calls of operators, and `/v1/status/…`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::call::Call;
use crate::server::shape::{Identity, SERVER_PORT};
use crate::store::{CheckKind, Store};

/// The fields that tools read: the names, the version, and objects where they expect some.
pub(crate) fn own_self(call: &Call<'_>) -> Response {
    let identity = &call.shared.identity;
    let store = call.shared.store();
    let body = json!({
        "Config": {
            "Datacenter": identity.datacenter,
            "NodeName": identity.node_name,
            "NodeID": identity.node_id,
            "Revision": "",
            "Server": true,
            "Version": identity.version(),
        },
        "DebugConfig": {
            "ACLsEnabled": identity.acls,
            "Datacenter": identity.datacenter,
            "NodeName": identity.node_name,
            "EnableRemoteScriptChecks": false,
            "EnableLocalScriptChecks": false,
        },
        "Coord": {"Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.00001},
        "Member": member(identity),
        "Stats": stats(identity, &store),
        "Meta": identity.own_node().meta,
    });
    answer::json(&body, call.pretty())
}

pub(crate) fn members(call: &Call<'_>) -> Answer {
    match call.params.get("segment") {
        None | Some("" | "_all") => {}
        Some(_) => {
            return Err(Refusal::internal("Network segments are not supported in this version of Consul"));
        }
    }
    Ok(answer::json(&json!([member(&call.shared.identity)]), call.pretty()))
}

pub(crate) fn host(_: &Call<'_>) -> Answer {
    Err(Refusal::internal("the embedded registry does not describe its host; use a Consul agent for it"))
}

pub(crate) fn monitor(call: &Call<'_>) -> Answer {
    match call.params.get("loglevel").unwrap_or("info").to_lowercase().as_str() {
        "trace" | "debug" | "info" | "warn" | "err" | "error" => Err(Refusal::internal(
            "the embedded registry does not stream its log; it is in the log of the process",
        )),
        level => Err(Refusal::bad_request(format!("Bad request: Unknown log level: {level}"))),
    }
}

/// Does nothing, because the registry has no configuration to read again.
pub(crate) fn reload(_: &Call<'_>) -> Response {
    answer::done()
}

pub(crate) fn leave(_: &Call<'_>) -> Answer {
    let text = "Permission denied: the embedded registry ends with the process that it is in";
    Err(Refusal::new(StatusCode::FORBIDDEN, text))
}

pub(crate) fn join(call: &Call<'_>) -> Answer {
    let text = format!(
        "1 error occurred:\n\t* Failed to join {}: the embedded registry is one node\n\n",
        call.argument
    );
    Err(Refusal::internal(text))
}

/// The registry is the only member, so no other one can be removed.
pub(crate) fn force_leave(call: &Call<'_>) -> Answer {
    let name = call.argument;
    if name == call.shared.identity.node_name {
        return leave(call);
    }
    Err(Refusal::internal(format!("agent: No node found with name '{name}'")))
}

pub(crate) fn leader(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    Ok(answer::json(&json!(call.shared.identity.leader()), call.pretty()))
}

pub(crate) fn peers(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    Ok(answer::json(&json!([call.shared.identity.leader()]), call.pretty()))
}

fn stats(identity: &Identity, store: &Store) -> Value {
    let own = |count: usize| count.saturating_sub(1).to_string();
    let ttls = store.own_checks().filter(|check| matches!(check.definition.kind, CheckKind::Ttl(_))).count();
    let index = store.index().to_string();
    let serf = json!({"encrypted": "false", "failed": "0", "health_score": "0", "left": "0", "members": "1"});
    json!({
        "agent": {
            "check_monitors": "0",
            "check_ttls": ttls.to_string(),
            "checks": own(store.own_checks().count()),
            "services": own(store.own_services().count()),
        },
        "build": {"prerelease": "", "revision": "", "version": identity.version()},
        "consul": {
            "acl": if identity.acls { "enabled" } else { "disabled" },
            "bootstrap": "false",
            "known_datacenters": "1",
            "leader": "true",
            "leader_addr": identity.leader(),
            "server": "true",
        },
        "raft": {
            "applied_index": index,
            "commit_index": index,
            "last_contact": "0",
            "last_log_index": index,
            "num_peers": "0",
            "protocol_version": "3",
            "state": "Leader",
        },
        "runtime": {"arch": architecture(), "os": std::env::consts::OS},
        "serf_lan": serf,
        "serf_wan": serf,
    })
}

/// The architecture of the processor, by Go's name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// One element of `agent/members`: the only one.
fn member(identity: &Identity) -> Value {
    json!({
        "Name": identity.node_name,
        "Addr": identity.address.to_string(),
        "Port": SERF_PORT,
        "Tags": {
            "acls": if identity.acls { "1" } else { "0" },
            "build": format!("{}:", identity.version()),
            "dc": identity.datacenter,
            "ft_fs": "1",
            "id": identity.node_id,
            "port": SERVER_PORT.to_string(),
            "raft_vsn": "3",
            "role": "consul",
            "segment": "",
            "vsn": "2",
            "vsn_max": "3",
            "vsn_min": "2",
            "wan_join_port": SERF_WAN_PORT.to_string(),
        },
        "Status": 1,
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

/// Writes a time as Go prints it.
pub(crate) fn time(now: std::time::SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(now).to_string();
    format!("{} +0000 UTC", text.replace('T', " ").replace('Z', ""))
}

const SERF_PORT: u16 = 8301;
const SERF_WAN_PORT: u16 = 8302;
