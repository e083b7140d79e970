//! `/v1/catalog/register` and `deregister`: registrations by programs that manage nodes without an agent.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::decode::{Fields, Known};
use crate::server::{definition, go};
use crate::store::{CheckDefinition, CheckKind, NodeDefinition, Registration, ServiceDefinition};
use crate::types::CheckStatus;

pub(crate) fn register(call: &Call<'_>) -> Answer {
    let mut fields = Fields::of_type(&call.body, REGISTER_FIELDS, "RegisterRequest")?;
    let datacenter = fields.string("Datacenter")?;
    let node = NodeDefinition {
        id: fields.string("ID")?,
        name: fields.string("Node")?,
        address: fields.string("Address")?,
        tagged_addresses: optional_map(&mut fields, "TaggedAddresses")?,
        meta: optional_map(&mut fields, "NodeMeta")?,
    };
    let skip_node_update = fields.boolean("SkipNodeUpdate")?;
    let service = fields.nested("Service", SERVICE_FIELDS, "NodeService.Service", "structs.NodeService")?;
    let service = service.map(read_service).transpose()?;
    let mut checks = Vec::new();
    if let Some(check) = fields.nested("Check", CHECK_FIELDS, "HealthCheck.Check", "structs.HealthCheck")? {
        checks.push(read_check(check)?);
    }
    match fields.take("Checks") {
        None => {}
        Some(Value::Array(list)) => {
            for check in list {
                checks.push(read_check(Fields::element(check, CHECK_FIELDS, "HealthCheck.Checks")?)?);
            }
        }
        Some(other) => return Err(fields.mismatch(&other, "Checks", "structs.HealthChecks")),
    }
    call.path_to(&datacenter)?;
    let registration = Registration { node, skip_node_update, service, checks };
    refuse(&registration).map_err(|text| call.mistake(text))?;
    let registered = call.shared.change(|store, now| store.catalog_register(registration, now));
    registered.map_err(|error| Refusal::store(&error))?;
    Ok(answer::json(&json!(true), call.pretty()))
}

pub(crate) fn deregister(call: &Call<'_>) -> Answer {
    let mut fields = Fields::from_body(&call.body, DEREGISTER_FIELDS)?;
    let (node, datacenter) = (fields.string("Node")?, fields.string("Datacenter")?);
    let (service, check) = (fields.string("ServiceID")?, fields.string("CheckID")?);
    call.path_to(&datacenter)?;
    if node.is_empty() {
        return Err(call.mistake("Must provide node"));
    }
    // An absent entry is deregistered already.
    call.shared.change(|store, now| {
        if !service.is_empty() {
            store.remove_service(&node, &service, now)
        } else if !check.is_empty() {
            store.remove_check(&node, &check, now)
        } else {
            store.remove_node(&node, now)
        }
    });
    Ok(answer::json(&json!(true), call.pretty()))
}

fn refuse(registration: &Registration) -> Result<(), String> {
    let Registration { node, skip_node_update, service, .. } = registration;
    if node.name.is_empty() {
        return Err("Must provide node".to_owned());
    }
    if node.address.is_empty() && !skip_node_update {
        return Err("Must provide address if SkipNodeUpdate is not set".to_owned());
    }
    if !node.id.is_empty() && uuid::Uuid::parse_str(&node.id).is_err() {
        let what = if node.id.len() == UUID_CHARS { "invalid UUID" } else { "uuid string is wrong length" };
        return Err(format!("Bad node ID: {what}"));
    }
    let Some(service) = service else { return Ok(()) };
    if service.name.is_empty() {
        return Err(if service.id.is_empty() {
            "failed inserting service: failed inserting service: object missing primary index".to_owned()
        } else {
            "Must provide service name with ID".to_owned()
        });
    }
    if definition::is_wildcard(&service.address) {
        return Err("Invalid service address".to_owned());
    }
    Ok(())
}

/// Reads a service as the catalog does: without values derived from the address, and without judging the weights.
pub(crate) fn read_service(mut fields: Fields) -> Result<ServiceDefinition, Refusal> {
    let mut service = definition::read_service(&mut fields, "Service")?;
    if let Some(weights) = fields.take("Weights") {
        let (passing, warning) = definition::read_weights(weights, "Service.Weights")?;
        // Invalid weights count as absent.
        if definition::are_weights(passing, warning).is_ok() {
            (service.weight_passing, service.weight_warning) = (passing, warning);
        }
    }
    if service.id.is_empty() {
        service.id.clone_from(&service.name);
    }
    Ok(service)
}

/// A check and the node that it names.
pub(crate) fn read_check(mut fields: Fields) -> Result<(String, CheckDefinition), Refusal> {
    let node = fields.string("Node")?;
    let name = fields.string("Name")?;
    let mut id = fields.string("CheckID")?;
    if id.is_empty() {
        id.clone_from(&name);
    }
    let word = fields.string("Status")?;
    let status = CheckStatus::parse(&word);
    if status.is_none() && !word.is_empty() {
        return Err(Refusal::bad_request(format!(
            "the embedded registry takes a check that is passing, warning or critical, not {word:?}"
        )));
    }
    let (kind, definition) = read_definition(fields.take("Definition"))?;
    let check = CheckDefinition {
        notes: fields.string("Notes")?,
        service_id: fields.string("ServiceID")?,
        initial_status: Some(status.unwrap_or(CheckStatus::Critical)),
        initial_output: fields.string("Output")?,
        ..CheckDefinition::new(id, name, CheckKind::External { kind: kind.into(), definition })
    };
    Ok((node, check))
}

/// How another program makes the check: the fields that are set, in Consul's order. Unknown fields are dropped.
fn read_definition(value: Option<Value>) -> Result<(&'static str, Map<String, Value>), Refusal> {
    let known: Vec<(&str, &str)> = DEFINITION_FIELDS.iter().map(|name| (*name, "")).collect();
    let mut fields = Fields::known_of(value.unwrap_or(Value::Null), &known)?;
    let mut definition = Map::new();
    for name in DEFINITION_FIELDS {
        if DURATIONS.contains(name) {
            let nanoseconds = fields.duration(name)?;
            if nanoseconds != 0 {
                definition.insert((*name).to_owned(), Value::String(go::write_duration(nanoseconds)));
            }
        } else if fields.is_set(name)
            && let Some(value) = fields.take(name)
        {
            definition.insert((*name).to_owned(), value);
        }
    }
    let has = |name: &str| definition.contains_key(name);
    let kind = if has("TTL") {
        "ttl"
    } else if !has("Interval") {
        ""
    } else if has("HTTP") {
        "http"
    } else if has("TCP") {
        "tcp"
    } else {
        ""
    };
    Ok((kind, definition))
}

fn optional_map(fields: &mut Fields, name: &str) -> Result<Option<BTreeMap<String, String>>, Refusal> {
    let present = fields.is_present(name);
    let map = fields.string_map(name)?;
    Ok(present.then_some(map))
}

const REGISTER_FIELDS: &Known = &[
    ("Datacenter", ""),
    ("ID", ""),
    ("Node", ""),
    ("Address", ""),
    ("TaggedAddresses", ""),
    ("NodeMeta", ""),
    ("Service", ""),
    ("Check", ""),
    ("Checks", ""),
    ("SkipNodeUpdate", ""),
    ("WriteRequest", ""),
    ("Token", ""),
];
const DEREGISTER_FIELDS: &Known = &[
    ("Datacenter", ""),
    ("Node", ""),
    ("ServiceID", ""),
    ("CheckID", ""),
    ("WriteRequest", ""),
    ("Token", ""),
];
pub(crate) const SERVICE_FIELDS: &Known = &[
    ("Kind", ""),
    ("ID", ""),
    ("Service", ""),
    ("Tags", ""),
    ("Address", ""),
    ("TaggedAddresses", "tagged_addresses"),
    ("Meta", ""),
    ("Port", ""),
    ("Weights", ""),
    ("EnableTagOverride", "enable_tag_override"),
    ("Proxy", ""),
    ("Connect", ""),
    ("CreateIndex", ""),
    ("ModifyIndex", ""),
];
pub(crate) const CHECK_FIELDS: &Known = &[
    ("Node", ""),
    ("CheckID", ""),
    ("Name", ""),
    ("Status", ""),
    ("Notes", ""),
    ("Output", ""),
    ("ServiceID", ""),
    ("ServiceName", ""),
    ("ServiceTags", ""),
    ("Type", ""),
    ("Definition", ""),
    ("CreateIndex", ""),
    ("ModifyIndex", ""),
];
const DEFINITION_FIELDS: &[&str] = &[
    "Interval",
    "OutputMaxSize",
    "Timeout",
    "DeregisterCriticalServiceAfter",
    "ScriptArgs",
    "DockerContainerID",
    "Shell",
    "GRPC",
    "GRPCUseTLS",
    "AliasNode",
    "AliasService",
    "TTL",
    "HTTP",
    "TLSSkipVerify",
    "Header",
    "Method",
    "Body",
    "TCP",
];
const DURATIONS: &[&str] = &["Interval", "Timeout", "DeregisterCriticalServiceAfter", "TTL"];
const UUID_CHARS: usize = 36;
