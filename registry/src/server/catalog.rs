//! `/v1/catalog/…`: reads of the registrations, with blocking queries.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Response};
use crate::server::call::Call;
use crate::server::filter::fields;
use crate::server::query::ReadOptions;
use crate::server::read::{Selection, cacheable, read};
use crate::store::{NodeRecord, ServiceRecord, Store};

pub(crate) fn datacenters(call: &Call<'_>) -> Response {
    answer::json(&json!([call.shared.identity.datacenter]), call.pretty())
}

pub(crate) async fn nodes(call: &Call<'_>) -> Answer {
    let options = options(call)?;
    let selection = Selection::parse(call, fields::NODE)?;
    read(call, &options, Store::nodes_index, |store| {
        let nodes = store.nodes().filter(|node| selection.admits(Some(node)));
        let list = nodes.map(|node| (node.definition.name.clone(), call.shared.identity.node(node)));
        selection.list(list)
    })
    .await
}

pub(crate) async fn services(call: &Call<'_>) -> Answer {
    let options = options(call)?;
    // 1.8 ignores ?filter here; since 1.14 it is about the instances.
    let selection = if call.is_current() {
        Selection::parse(call, fields::CATALOG_SERVICE)?
    } else {
        Selection::of_nodes(call)
    };
    let index = |store: &Store| store.services_index().max(store.nodes_index());
    let answer = read(call, &options, index, |store| {
        let mut tags: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for service in store.services() {
            let Some(node) = store.node(&service.node).filter(|node| selection.admits(Some(node))) else {
                continue;
            };
            if selection.is_picky()
                && !selection.matches(&call.shared.identity.catalog_service(node, service))
            {
                continue;
            }
            let all = tags.entry(&service.definition.name).or_default();
            all.extend(service.definition.tags.iter().map(String::as_str));
        }
        json!(tags)
    })
    .await;
    cacheable(answer, &call.params)
}

pub(crate) async fn service(call: &Call<'_>) -> Answer {
    let options = options(call)?;
    let name = call.required("Missing service name")?;
    let selection = Selection::parse(call, fields::CATALOG_SERVICE)?;
    let index = |store: &Store| store.service_index(name);
    let answer = read(call, &options, index, |store| {
        instances(call, &selection, store, name, |node, service| {
            Some(call.shared.identity.catalog_service(node, service))
        })
    })
    .await;
    cacheable(answer, &call.params)
}

/// Services of the mesh; the registry has none.
pub(crate) async fn connect(call: &Call<'_>) -> Answer {
    let options = options(call)?;
    let name = call.required("Missing service name")?;
    read(call, &options, |store| store.service_index(name), |_| json!([])).await
}

pub(crate) async fn gateway(call: &Call<'_>) -> Answer {
    let options = options(call)?;
    call.required("Missing gateway name")?;
    read(call, &options, |_| 1, |_| Value::Null).await
}

pub(crate) async fn node(call: &Call<'_>) -> Answer {
    at_node(call, |call, selection, node, services| {
        let Some(node) = node else { return Value::Null };
        let services: BTreeMap<String, Value> = services
            .map(|(service, element)| (service.definition.id.clone(), element))
            .filter(|(_, element)| selection.matches(element))
            .collect();
        json!({"Node": call.shared.identity.node(node), "Services": services})
    })
    .await
}

pub(crate) async fn node_services(call: &Call<'_>) -> Answer {
    at_node(call, |call, selection, node, services| {
        let Some(node) = node else { return json!({"Node": null, "Services": null}) };
        let services = services.map(|(service, element)| (service.node.clone(), element));
        json!({"Node": call.shared.identity.node(node), "Services": selection.list(services)})
    })
    .await
}

/// Answers with a node, if it exists, and its services; `shape` builds the answer.
async fn at_node(
    call: &Call<'_>,
    shape: impl Fn(
        &Call<'_>,
        &Selection<'_>,
        Option<&NodeRecord>,
        &mut dyn Iterator<Item = (&ServiceRecord, Value)>,
    ) -> Value,
) -> Answer {
    let options = options(call)?;
    let name = call.required("Missing node name")?;
    let selection = Selection::parse(call, fields::SERVICE)?;
    let index = |store: &Store| tables_index(store, name);
    read(call, &options, index, |store| {
        let identity = &call.shared.identity;
        let mut services = store.services_at(name).map(|service| (service, identity.health_service(service)));
        shape(call, &selection, store.node(name), &mut services)
    })
    .await
}

pub(crate) fn options(call: &Call<'_>) -> Result<ReadOptions, answer::Refusal> {
    ReadOptions::parse(&call.params, &call.shared.identity.datacenter)
}

/// The list of a service's instances that the request selects; `element` may leave some out.
pub(crate) fn instances(
    call: &Call<'_>,
    selection: &Selection<'_>,
    store: &Store,
    name: &str,
    element: impl Fn(&NodeRecord, &ServiceRecord) -> Option<Value>,
) -> Value {
    let instances = store.instances(name).filter(|service| has_tags(call, service));
    selection.list(instances.filter_map(|service| {
        let node = store.node(&service.node).filter(|node| selection.admits(Some(node)))?;
        Some((service.node.clone(), element(node, service)?))
    }))
}

/// Several `tag` parameters must all match, without regard to case.
fn has_tags(call: &Call<'_>, service: &ServiceRecord) -> bool {
    let wanted = call.params.all("tag").filter(|tag| !tag.is_empty());
    let own = &service.definition.tags;
    wanted.map(str::to_lowercase).all(|tag| own.iter().any(|own| own.to_lowercase() == tag))
}

/// Coarse, as in Consul 1.8: a node's answer moves with any change of any node or service. A node that is not
/// there has no index.
fn tables_index(store: &Store, node: &str) -> u64 {
    match store.node(node) {
        None => 1,
        Some(_) => store.tables_index(),
    }
}
