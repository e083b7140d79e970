//! `/v1/internal/ui/…`: the data of Consul's own pages, which a few tools read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::catalog;
use crate::server::filter::fields;
use crate::server::read::{Selection, blocking, indexed};
use crate::store::{NodeRecord, ServiceRecord, Store};
use crate::types::CheckStatus;

pub(crate) async fn nodes(call: &Call<'_>) -> Answer {
    catalog::options(call)?;
    let selection = Selection::parse(call, fields::NODE)?;
    let view = |store: &Store| {
        let nodes = store.nodes().map(|node| (node.definition.name.clone(), overview(call, store, node)));
        selection.list(nodes)
    };
    indexed(call, Store::tables_index, view).await
}

pub(crate) async fn node(call: &Call<'_>) -> Answer {
    let options = catalog::options(call)?;
    let name = call.required("Missing node name")?;
    let view = |store: &Store| store.node(name).map(|node| overview(call, store, node));
    let (index, node) = blocking(call.shared, &options, Store::tables_index, view).await?;
    let node = node.ok_or_else(|| Refusal::not_found(""))?;
    Ok(answer::with_index(answer::json(&node, options.pretty), index))
}

pub(crate) async fn services(call: &Call<'_>) -> Answer {
    let view = |store: &Store| {
        let mut by_name: BTreeMap<&str, Vec<&ServiceRecord>> = BTreeMap::new();
        for service in store.services() {
            by_name.entry(&service.definition.name).or_default().push(service);
        }
        let list: Vec<Value> = by_name.into_iter().map(|(name, all)| summary(store, name, &all)).collect();
        Value::Array(list)
    };
    indexed(call, Store::tables_index, view).await
}

fn overview(call: &Call<'_>, store: &Store, node: &NodeRecord) -> Value {
    let identity = &call.shared.identity;
    let name = &node.definition.name;
    let services: Vec<Value> = store
        .services_at(name)
        .map(|service| {
            let mut object = identity.health_service(service);
            if service.definition.tags.is_empty() {
                object["Tags"] = Value::Null;
            }
            object
        })
        .collect();
    let checks: Vec<Value> = store
        .checks_at(name)
        .map(|check| {
            let owner = store.owner(check);
            let mut object = identity.check(check, owner);
            if owner.is_none_or(|service| service.definition.tags.is_empty()) {
                object["ServiceTags"] = Value::Null;
            }
            object
        })
        .collect();
    json!({
        "ID": node.definition.id,
        "Node": name,
        "Address": node.definition.address,
        "TaggedAddresses": node.definition.tagged_addresses,
        "Meta": node.definition.meta,
        "Services": services,
        "Checks": checks,
    })
}

fn summary(store: &Store, name: &str, instances: &[&ServiceRecord]) -> Value {
    let nodes: BTreeSet<&str> = instances.iter().map(|service| service.node.as_str()).collect();
    let tags: BTreeSet<&String> = instances.iter().flat_map(|service| &service.definition.tags).collect();
    let count = |status: CheckStatus| {
        let checks = instances.iter().flat_map(|service| store.checks_of(service));
        checks.filter(|check| check.status == status).count()
    };
    json!({
        "Name": name,
        "Tags": if tags.is_empty() { Value::Null } else { json!(tags) },
        "Nodes": nodes,
        "InstanceCount": instances.len(),
        "ChecksPassing": count(CheckStatus::Passing),
        "ChecksWarning": count(CheckStatus::Warning),
        "ChecksCritical": count(CheckStatus::Critical),
        "ExternalSources": null,
        "GatewayConfig": {},
    })
}
