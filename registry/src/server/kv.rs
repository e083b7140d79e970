//! `/v1/kv/…`: keys and values, with check-and-set and blocking reads. Locks need sessions, which are not served.

use base64::Engine;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::catalog::blocking;
use crate::server::query::{Params, ReadOptions};
use crate::server::{Compat, Shared};
use crate::store::{Cas, KvEntry, Store};

pub(crate) async fn get(shared: &Shared, params: &Params, key: &str) -> Answer {
    let options = ReadOptions::parse(params, &shared.identity.datacenter)?;
    if params.has("keys") {
        return keys(shared, params, &options, key).await;
    }
    if params.has("recurse") {
        let view = |store: &Store| {
            let list: Vec<Value> = store.kv.with_prefix(key).map(|(key, entry)| pair(key, entry)).collect();
            (store.kv.prefix_index(key), list)
        };
        let (index, list) = blocking(shared, &options, view).await?;
        return Ok(listed(&options, index, list));
    }
    if key.is_empty() {
        return Err(Refusal::bad_request("Missing key name"));
    }
    let view = |store: &Store| (store.kv.key_index(key), store.kv.get(key).cloned());
    let (index, entry) = blocking(shared, &options, view).await?;
    let Some(entry) = entry else { return Ok(missing(index)) };
    if !params.has("raw") {
        let body = Value::Array(vec![pair(key, &entry)]);
        return Ok(answer::with_index(answer::json(&body, options.pretty), index));
    }
    let mut response = Response::new(Full::new(entry.value));
    let headers = response.headers_mut();
    // A value is whatever somebody stored: no browser may take it for a page.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    Ok(answer::with_index(response, index))
}

pub(crate) fn put(shared: &Shared, params: &Params, key: &str, body: Bytes) -> Answer {
    if key.is_empty() {
        return Err(Refusal::bad_request("Missing key name"));
    }
    refuse_locks(params)?;
    if body.len() > shared.limits.kv_value_bytes {
        return Err(Refusal::too_large(body.len(), shared.limits.kv_value_bytes));
    }
    let (flags, cas) = (number(shared, params, "flags")?.unwrap_or(0), condition(shared, params)?);
    let done = shared
        .change(|store, _| store.kv_put(key, body, flags, cas))
        .map_err(|error| Refusal::full(&error))?;
    Ok(answer::json(&json!(done), params.has("pretty")))
}

pub(crate) fn delete(shared: &Shared, params: &Params, key: &str) -> Answer {
    let recurse = params.has("recurse");
    if key.is_empty() && !recurse {
        return Err(Refusal::bad_request("Missing key name"));
    }
    if recurse && let Some(cas) = params.get("cas") {
        return Err(Refusal::bad_request(format!("Conflicting flags: cas={cas}&recurse=")));
    }
    let cas = condition(shared, params)?;
    let done = shared.change(|store, _| store.kv_delete(key, recurse, cas));
    Ok(answer::json(&json!(done), params.has("pretty")))
}

/// `?keys`: names only, cut after the first separator that follows the prefix.
async fn keys(shared: &Shared, params: &Params, options: &ReadOptions, prefix: &str) -> Answer {
    // The misspelling is part of Consul's API.
    let separator = params.get("separator").or_else(|| params.get("seperator")).unwrap_or_default();
    let view = |store: &Store| {
        let mut names: Vec<String> = Vec::new();
        for (key, _) in store.kv.with_prefix(prefix) {
            let tail = &key[prefix.len()..];
            let cut = if separator.is_empty() { None } else { tail.find(separator) };
            let name = cut.map_or(key.as_str(), |at| &key[..prefix.len() + at + separator.len()]);
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        (store.kv.prefix_index(prefix), names)
    };
    let (index, names) = blocking(shared, options, view).await?;
    if names.is_empty() && prefix.is_empty() {
        // The one list that Consul answers empty.
        return Ok(answer::with_index(answer::json(&json!([]), options.pretty), index));
    }
    Ok(listed(options, index, names.into_iter().map(Value::String).collect()))
}

fn listed(options: &ReadOptions, index: u64, list: Vec<Value>) -> Response {
    if list.is_empty() {
        return missing(index);
    }
    answer::with_index(answer::json(&Value::Array(list), options.pretty), index)
}

/// 404 with an index, so that a client can wait for the key.
fn missing(index: u64) -> Response {
    answer::with_index(answer::text(StatusCode::NOT_FOUND, String::new()), index)
}

fn pair(key: &str, entry: &KvEntry) -> Value {
    // Consul has no empty value: it answers null.
    let encoded = base64::engine::general_purpose::STANDARD.encode(&entry.value);
    let value = (!encoded.is_empty()).then_some(encoded);
    json!({
        "LockIndex": 0,
        "Key": key,
        "Flags": entry.flags,
        "Value": value,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    })
}

fn condition(shared: &Shared, params: &Params) -> Result<Cas, Refusal> {
    Ok(match number(shared, params, "cas")? {
        None => Cas::Always,
        Some(0) => Cas::Absent,
        Some(index) => Cas::At(index),
    })
}

fn number(shared: &Shared, params: &Params, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = params.get(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let text = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        match shared.identity.compat {
            Compat::Current => Refusal::bad_request(text),
            Compat::V1_8 => Refusal::internal(text),
        }
    })
}

fn refuse_locks(params: &Params) -> Result<(), Refusal> {
    if params.has("acquire") || params.has("release") {
        return Err(Refusal::internal(
            "the embedded registry has no sessions, so keys cannot be locked; use a Consul agent for it",
        ));
    }
    Ok(())
}
