//! `/v1/kv/…`: keys and values, with check-and-set, locks and blocking reads.

use base64::Engine;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::call::Call;
use crate::server::query::ReadOptions;
use crate::server::read::blocking;
use crate::server::session;
use crate::store::{Cas, KvEntry, Store};

pub(crate) async fn answer(call: &Call<'_>) -> Answer {
    if call.is_current() && leads_elsewhere(call.argument) {
        return Err(Refusal::internal(
            "invalid key name: it has the segment \"..\", or blanks at its beginning or end",
        ));
    }
    match call.method {
        Method::PUT => put(call),
        Method::DELETE => delete(call),
        _ => get(call).await,
    }
}

/// Whether a key leads out of its path, also when it is encoded twice; refused since 1.22 (CVE-2025-11392).
fn leads_elsewhere(key: &str) -> bool {
    let decoded = percent_decode_str(key).decode_utf8_lossy();
    key.trim() != key || decoded.split('/').any(|segment| segment == "..")
}

async fn get(call: &Call<'_>) -> Answer {
    let (shared, key) = (call.shared, call.argument);
    let options = ReadOptions::parse(&call.params, &shared.identity.datacenter)
        .map_err(|refusal| Refusal { dispatched: false, ..refusal })?;
    if call.params.has("keys") {
        return keys(call, &options).await;
    }
    if call.params.has("recurse") {
        let view = |store: &Store| -> Vec<Value> {
            store.kv.with_prefix(key).map(|(key, entry)| pair(key, entry, true)).collect()
        };
        let (index, list) = blocking(shared, &options, |store| store.kv.prefix_index(key), view).await?;
        return Ok(listed(&options, index, list));
    }
    call.required(MISSING)?;
    let view = |store: &Store| store.kv.get(key).cloned();
    let (index, entry) = blocking(shared, &options, |store| store.kv.key_index(key), view).await?;
    let Some(entry) = entry else { return Ok(missing(index)) };
    if !call.params.has("raw") {
        let body = Value::Array(vec![pair(key, &entry, true)]);
        return Ok(answer::with_index(answer::json(&body, options.pretty), index));
    }
    let mut response = Response::new(Full::new(entry.value));
    let headers = response.headers_mut();
    // A value may be anything that a client stored, so a browser must not take it for a page.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    Ok(answer::with_index(response, index))
}

fn put(call: &Call<'_>) -> Answer {
    let key = call.required(MISSING)?;
    call.own_datacenter()?;
    let params = &call.params;
    if ["cas", "acquire", "release"].iter().filter(|name| params.has(name)).count() > 1 {
        return Err(Refusal::bad_request(format!("Conflicting flags: {}", params.encoded())));
    }
    let limit = call.shared.limits.kv_value_bytes;
    if call.body.len() > limit {
        return Err(Refusal::too_large(call.body.len(), limit));
    }
    let (flags, cas) = (number(call, "flags")?.unwrap_or(0), condition(call)?);
    let holder = params.get("acquire").or_else(|| params.get("release"));
    if holder == Some("") {
        return Err(Refusal::internal("missing session"));
    }
    if let Some(session) = params.get("acquire") {
        session::known_form(session)?;
    }
    let value = call.body.clone();
    let done = call.shared.change(|store, now| match (params.get("acquire"), params.get("release")) {
        (Some(session), _) => store.kv_lock(key, value, flags, session, now),
        (None, Some(session)) => store.kv_unlock(key, value, flags, session),
        (None, None) => store.kv_put(key, value, flags, cas),
    });
    let done = done.map_err(|error| Refusal::store(&error))?;
    Ok(answer::json(&json!(done), call.pretty()))
}

fn delete(call: &Call<'_>) -> Answer {
    let key = call.argument;
    call.own_datacenter()?;
    let recurse = call.params.has("recurse");
    if !recurse {
        call.required(MISSING)?;
    }
    if recurse && call.params.has("cas") {
        return Err(Refusal::bad_request(format!("Conflicting flags: {}", call.params.encoded())));
    }
    let cas = condition(call)?;
    let done = call.shared.change(|store, _| store.kv_delete(key, recurse, cas));
    Ok(answer::json(&json!(done), call.pretty()))
}

/// `?keys`: names only, cut after the first separator that follows the prefix.
async fn keys(call: &Call<'_>, options: &ReadOptions) -> Answer {
    let prefix = call.argument;
    // The misspelling is part of Consul's API.
    let separator = call.params.get("separator").or_else(|| call.params.get("seperator")).unwrap_or_default();
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
        names
    };
    let (index, names) = blocking(call.shared, options, |store| store.kv.prefix_index(prefix), view).await?;
    if names.is_empty() && prefix.is_empty() {
        // Consul answers this list alone without elements instead of 404.
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

/// One key as Consul lists it. It has no empty value: it answers null.
pub(crate) fn pair(key: &str, entry: &KvEntry, with_value: bool) -> Value {
    let encoded = base64::engine::general_purpose::STANDARD.encode(&entry.value);
    let value = if with_value && !encoded.is_empty() { Value::String(encoded) } else { Value::Null };
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("LockIndex", json!(entry.lock_index));
    put("Key", json!(key));
    put("Flags", json!(entry.flags));
    put("Value", value);
    if let Some(session) = &entry.session {
        put("Session", json!(session));
    }
    put("CreateIndex", json!(entry.create_index));
    put("ModifyIndex", json!(entry.modify_index));
    Value::Object(object)
}

fn condition(call: &Call<'_>) -> Result<Cas, Refusal> {
    Ok(match number(call, "cas")? {
        None => Cas::Always,
        Some(0) => Cas::Absent,
        Some(index) => Cas::At(index),
    })
}

fn number(call: &Call<'_>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = call.params.get(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let what = if digits { "value out of range" } else { "invalid syntax" };
        call.mistake(format!("strconv.ParseUint: parsing {text:?}: {what}"))
    })
}

const MISSING: &str = "Missing key name";
