//! `/v1/catalog/…`, `/v1/health/…` and `/v1/status/…`: what gateways and tools read, with blocking queries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rand::RngExt;
use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::query::{Params, ReadOptions, refuse_filters};
use crate::server::{Compat, Shared};
use crate::store::{ServiceRecord, Store};
use crate::types::CheckStatus;

pub(crate) async fn services(shared: &Shared, params: &Params) -> Answer {
    // 1.8 ignores ?filter here, and so do we; ?node-meta it does not ignore.
    let options = ReadOptions::parse(params, &shared.identity.datacenter)?;
    if params.has("node-meta") {
        refuse_filters(params)?;
    }
    read(shared, &options, |store| {
        let mut tags: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for service in store.services() {
            let all = tags.entry(&service.definition.name).or_default();
            all.extend(service.definition.tags.iter().map(String::as_str));
        }
        (store.services_index(), json!(tags))
    })
    .await
}

pub(crate) async fn service(shared: &Shared, params: &Params, name: &str) -> Answer {
    let options = named(shared, params, name)?;
    read(shared, &options, |store| {
        let instances = store.instances(name).filter(|service| has_tags(service, params));
        let list: Vec<Value> = instances.map(|service| shared.identity.catalog_service(service)).collect();
        (store.service_index(name), Value::Array(list))
    })
    .await
}

pub(crate) async fn nodes(shared: &Shared, params: &Params) -> Answer {
    let options = ReadOptions::parse(params, &shared.identity.datacenter)?;
    refuse_filters(params)?;
    read(shared, &options, |_| {
        (Store::NODES_INDEX, Value::Array(vec![shared.identity.node(Store::NODES_INDEX)]))
    })
    .await
}

pub(crate) fn datacenters(shared: &Shared, params: &Params) -> Response {
    answer::json(&json!([shared.identity.datacenter]), params.has("pretty"))
}

pub(crate) async fn health_service(shared: &Shared, params: &Params, name: &str) -> Answer {
    let options = named(shared, params, name)?;
    let passing = match params.get("passing") {
        Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(_) => return Err(Refusal::bad_request("Invalid value for ?passing")),
    };
    read(shared, &options, |store| {
        let node = shared.identity.node(Store::NODES_INDEX);
        let mut list = Vec::new();
        for service in store.instances(name).filter(|service| has_tags(service, params)) {
            let id = &service.definition.id;
            if passing && store.checks_of(id).any(|check| check.status != CheckStatus::Passing) {
                continue;
            }
            let checks = store.checks_of(id).map(|check| {
                let owner = (!check.definition.service_id.is_empty()).then_some(service);
                shared.identity.check(check, owner, false)
            });
            list.push(shared.identity.health_entry(&node, service, &checks.collect::<Vec<_>>()));
        }
        (store.service_index(name), Value::Array(list))
    })
    .await
}

pub(crate) async fn health_checks(shared: &Shared, params: &Params, name: &str) -> Answer {
    let options = named(shared, params, name)?;
    read(shared, &options, |store| {
        let ids: BTreeSet<&str> =
            store.instances(name).map(|service| service.definition.id.as_str()).collect();
        let list = checks(shared, store, |service_id, _| ids.contains(service_id));
        (store.service_index(name), list)
    })
    .await
}

pub(crate) async fn health_node(shared: &Shared, params: &Params, node: &str) -> Answer {
    let options = ReadOptions::parse(params, &shared.identity.datacenter)?;
    if node.is_empty() {
        return Err(Refusal::bad_request("Missing node name"));
    }
    refuse_filters(params)?;
    read(shared, &options, |store| {
        let own = node == shared.identity.node_name;
        (store.checks_index(), checks(shared, store, |_, _| own))
    })
    .await
}

pub(crate) async fn health_state(shared: &Shared, params: &Params, state: &str) -> Answer {
    let options = ReadOptions::parse(params, &shared.identity.datacenter)?;
    if state.is_empty() {
        return Err(Refusal::bad_request("Missing check state"));
    }
    refuse_filters(params)?;
    read(shared, &options, |store| {
        let list = checks(shared, store, |_, status| state == "any" || state == status.as_str());
        (store.checks_index(), list)
    })
    .await
}

pub(crate) fn leader(shared: &Shared, params: &Params) -> Response {
    answer::json(&json!(shared.identity.leader()), params.has("pretty"))
}

pub(crate) fn peers(shared: &Shared, params: &Params) -> Response {
    answer::json(&json!([shared.identity.leader()]), params.has("pretty"))
}

/// A read of the catalog: [`blocking`], plus the headers that only these have.
async fn read(shared: &Shared, options: &ReadOptions, view: impl Fn(&Store) -> (u64, Value)) -> Answer {
    let (index, value) = blocking(shared, options, view).await?;
    let mut response = answer::with_index(answer::json(&value, options.pretty), index);
    let headers = response.headers_mut();
    headers.insert(CONSISTENCY, HeaderValue::from_static(options.consistency));
    if shared.identity.compat == Compat::Current {
        headers.insert(ACL_POLICY, HeaderValue::from_static("allow"));
        headers.insert(BACKEND, HeaderValue::from_static("blocking-query"));
    }
    Ok(response)
}

/// Answers at once if the view's index is above the one that the query names (or it names none), else when it
/// gets there, else when the wait is over. An index of the future waits as long: it is not ours to judge.
pub(crate) async fn blocking<T>(
    shared: &Shared,
    options: &ReadOptions,
    view: impl Fn(&Store) -> (u64, T),
) -> Result<(u64, T), Refusal> {
    // Subscribed before the first look, so that no change falls between.
    let mut changes = shared.changes();
    let first = view(&shared.store());
    if options.index == 0 || first.0 > options.index {
        return Ok(first);
    }
    let _slot = shared.blocked.try_acquire().map_err(|_| {
        Refusal::too_many(format!("more than {} blocking queries at a time", shared.limits.blocked_queries))
    })?;
    // A sixteenth at random, as Consul adds, so that many watchers do not come back at the same moment.
    let wait = options.wait.mul_f64(1.0 + rand::rng().random::<f64>() / 16.0);
    let woken = async {
        // The sender lives as long as the registry.
        while changes.changed().await.is_ok() {
            if view(&shared.store()).0 > options.index {
                return;
            }
        }
    };
    let _either = tokio::time::timeout(wait.max(Duration::from_nanos(1)), woken).await;
    let latest = view(&shared.store());
    Ok(latest)
}

fn named(shared: &Shared, params: &Params, name: &str) -> Result<ReadOptions, Refusal> {
    let options = ReadOptions::parse(params, &shared.identity.datacenter)?;
    if name.is_empty() {
        return Err(Refusal::bad_request("Missing service name"));
    }
    refuse_filters(params)?;
    Ok(options)
}

/// Several `tag` parameters must all match, without regard to case.
fn has_tags(service: &ServiceRecord, params: &Params) -> bool {
    params
        .all("tag")
        .filter(|tag| !tag.is_empty())
        .all(|tag| service.definition.tags.iter().any(|own| own.to_lowercase() == tag.to_lowercase()))
}

fn checks(shared: &Shared, store: &Store, wanted: impl Fn(&str, CheckStatus) -> bool) -> Value {
    let list = store.checks().filter(|check| wanted(&check.definition.service_id, check.status));
    let list =
        list.map(|check| shared.identity.check(check, store.service(&check.definition.service_id), false));
    Value::Array(list.collect())
}

const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
