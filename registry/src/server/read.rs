//! Reads of the catalog: they may block until something changes, and their lists may be filtered by the node's
//! metadata, by an expression, and ordered by distance.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rand::RngExt;
use serde_json::Value;

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::filter::{Filter, Kind};
use crate::server::query::{Params, ReadOptions};
use crate::server::{Compat, Shared, usage};
use crate::store::{NodeRecord, Store};

/// The filter and the order of a list.
#[derive(Debug)]
pub(crate) struct Selection<'a> {
    filter: Option<Filter>,
    node_meta: Vec<(&'a str, &'a str)>,
    near: Option<String>,
}

impl<'a> Selection<'a> {
    pub(crate) fn parse(call: &'a Call<'_>, fields: Kind) -> Result<Self, Refusal> {
        let filter = match call.params.get("filter") {
            None | Some("") => None,
            Some(text) => Some(Filter::parse(text, fields).map_err(|error| {
                let text = format!("Failed to create boolean expression evaluator: {error}");
                match call.shared.identity.compat {
                    Compat::Current => Refusal::bad_request(text),
                    Compat::V1_8 => Refusal::internal(text).dispatched(),
                }
            })?),
        };
        Ok(Self { filter, ..Self::of_nodes(call) })
    }

    /// The selection of a list that takes no expression.
    pub(crate) fn of_nodes(call: &'a Call<'_>) -> Self {
        let node_meta = call.params.all("node-meta").map(|pair| pair.split_once(':').unwrap_or((pair, "")));
        let near = call.params.get("near").filter(|near| !near.is_empty()).map(|near| match near {
            "_agent" => call.shared.identity.node_name.clone(),
            name => name.to_owned(),
        });
        Self { filter: None, node_meta: node_meta.collect(), near }
    }

    /// Whether the node has all the metadata that the query names.
    pub(crate) fn admits(&self, node: Option<&NodeRecord>) -> bool {
        let meta = node.and_then(|node| node.definition.meta.as_ref());
        self.node_meta
            .iter()
            .all(|(key, value)| meta.and_then(|meta| meta.get(*key)).is_some_and(|present| present == value))
    }

    /// Whether there is an expression, for which elements have to be built before they are judged.
    pub(crate) fn is_picky(&self) -> bool {
        self.filter.is_some()
    }

    pub(crate) fn matches(&self, element: &Value) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(element))
    }

    /// Filtered, and with `near` the elements of that node first: of all others the distance is unknown.
    pub(crate) fn list(&self, elements: impl Iterator<Item = (String, Value)>) -> Value {
        let mut list: Vec<(String, Value)> = elements.filter(|(_, element)| self.matches(element)).collect();
        if let Some(near) = &self.near {
            list.sort_by_key(|(node, _)| node != near);
        }
        Value::Array(list.into_iter().map(|(_, element)| element).collect())
    }
}

/// A read of the catalog: [`blocking`], plus the headers that only these have.
pub(crate) async fn read(
    call: &Call<'_>,
    options: &ReadOptions,
    index: impl Fn(&Store) -> u64,
    body: impl Fn(&Store) -> Value,
) -> Answer {
    let (index, value) = blocking(call.shared, options, index, body).await?;
    let mut response = answer::with_index(answer::json(&value, options.pretty), index);
    let headers = response.headers_mut();
    headers.insert(CONSISTENCY, HeaderValue::from_static(options.consistency));
    if call.shared.identity.compat == Compat::Current {
        headers.insert(ACL_POLICY, HeaderValue::from_static("allow"));
        headers.insert(BACKEND, HeaderValue::from_static("blocking-query"));
    }
    Ok(response)
}

/// Adds the header of lists that Consul's agents can answer from a cache; this registry has no cache.
pub(crate) fn cacheable(answer: Answer, params: &Params) -> Answer {
    let mut response = answer?;
    if params.has("cached") {
        response.headers_mut().insert(CACHE, HeaderValue::from_static("MISS"));
    }
    Ok(response)
}

/// A read outside of the catalog: as [`blocking`], with only the index in the headers.
pub(crate) async fn indexed(
    call: &Call<'_>,
    index: impl Fn(&Store) -> u64,
    view: impl Fn(&Store) -> Value,
) -> Answer {
    let options = ReadOptions::parse(&call.params, &call.shared.identity.datacenter)?;
    let (index, value) = blocking(call.shared, &options, index, view).await?;
    Ok(answer::with_index(answer::json(&value, options.pretty), index))
}

/// Answers at once if the index is above the one that the query names (or the query names none), otherwise when the index
/// rises above it or the wait is over. A query with an index of the future waits as well. The body is made only once, for the
/// answer: each change makes every waiting query compute its index, so that must be cheap.
pub(crate) async fn blocking<T>(
    shared: &Shared,
    options: &ReadOptions,
    index: impl Fn(&Store) -> u64,
    body: impl Fn(&Store) -> T,
) -> Result<(u64, T), Refusal> {
    let wanted = options.index;
    let news = |store: &Store| wanted == 0 || index(store) > wanted;
    until(shared, options.wait, news, |store| (index(store), body(store))).await
}

/// Returns the view as soon as it has news, or at the end of the wait.
pub(crate) async fn until<T>(
    shared: &Shared,
    wait: Duration,
    news: impl Fn(&Store) -> bool,
    view: impl Fn(&Store) -> T,
) -> Result<T, Refusal> {
    // Subscribed before the first look, so that no change falls between.
    let mut changes = shared.changes();
    {
        let store = shared.store();
        if news(&store) {
            return Ok(view(&store));
        }
    }
    let _slot = shared.blocked.try_acquire().map_err(|_| {
        let limit = shared.limits.blocked_queries;
        Refusal::too_many(usage::BLOCKED, format!("more than {limit} blocking queries at a time"))
    })?;
    // A sixteenth at random, as Consul adds, so that many watchers do not come back at the same moment.
    let wait = wait.mul_f64(1.0 + rand::rng().random::<f64>() / 16.0);
    let woken = async {
        // The sender lives as long as the registry.
        while changes.changed().await.is_ok() {
            if news(&shared.store()) {
                return;
            }
        }
    };
    let _either = tokio::time::timeout(wait.max(Duration::from_nanos(1)), woken).await;
    let latest = view(&shared.store());
    Ok(latest)
}

const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
const CACHE: HeaderName = HeaderName::from_static("x-cache");
