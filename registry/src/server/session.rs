//! `/v1/session/…`: the owners of locks on keys.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::decode::Fields;
use crate::server::read::indexed;
use crate::server::{agent, catalog, go};
use crate::store::{Behavior, NewSession, Session, Sessions};

pub(crate) fn create(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    let wanted = wanted(&call.body)?;
    let answer = json!({"ID": wanted.id});
    let created = call.shared.change(|store, now| store.create_session(wanted, now));
    created.map_err(|error| Refusal::store(&error))?;
    Ok(answer::json(&answer, call.pretty()))
}

pub(crate) fn destroy(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    let id = known_form(call.required("Missing session")?)?;
    call.shared.change(|store, now| store.destroy_session(id, now));
    Ok(answer::json(&json!(true), call.pretty()))
}

pub(crate) fn renew(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    let id = known_form(call.required("Missing session")?)?;
    let renewed = call.shared.change(|store, now| store.renew_session(id, now).map(shape));
    let session = renewed.ok_or_else(|| Refusal::not_found(format!("Session id '{id}' not found")))?;
    Ok(answer::json(&json!([session]), call.pretty()))
}

pub(crate) async fn info(call: &Call<'_>) -> Answer {
    catalog::options(call)?;
    let id = call.required("Missing session")?;
    known_form(id).map_err(Refusal::dispatched)?;
    read(call, |sessions| sessions.get(id).map(shape).into_iter().collect()).await
}

pub(crate) async fn node(call: &Call<'_>) -> Answer {
    let node = call.required("Missing node name")?.to_lowercase();
    let at = |session: &&Session| session.wanted.node.to_lowercase() == node;
    read(call, |sessions| sessions.list().filter(at).map(shape).collect()).await
}

pub(crate) async fn list(call: &Call<'_>) -> Answer {
    read(call, |sessions| sessions.list().map(shape).collect()).await
}

async fn read(call: &Call<'_>, view: impl Fn(&Sessions) -> Vec<Value>) -> Answer {
    indexed(call, |store| store.sessions.index(), |store| Value::Array(view(&store.sessions))).await
}

/// Consul looks ids up in an index of UUIDs, and reports an id that is not a UUID.
pub(crate) fn known_form(id: &str) -> Result<&str, Refusal> {
    if id.len() != UUID_CHARS {
        return Err(Refusal::internal("failed session lookup: index error: UUID must be 36 characters"));
    }
    Ok(id)
}

fn wanted(body: &[u8]) -> Result<NewSession, Refusal> {
    let mut fields = if body.is_empty() { Fields::default() } else { Fields::lenient(body, FIELDS)? };
    let (name, node) = (fields.string("Name")?, fields.string("Node")?);
    let has_checks = fields.is_present("NodeChecks") || fields.is_present("Checks");
    let mut node_checks = fields.strings("NodeChecks")?;
    node_checks.extend(fields.strings("Checks")?);
    if !has_checks {
        node_checks.push(agent::SERF_HEALTH.to_owned());
    }
    let mut service_checks = Vec::new();
    for check in fields.list("ServiceChecks")? {
        service_checks.push(
            Fields::from_value(check, &[("ID", ""), ("Namespace", "")], Some("ServiceChecks"))?
                .string("ID")?,
        );
    }
    let behavior = match fields.string("Behavior")?.as_str() {
        "" | "release" => Behavior::Release,
        "delete" => Behavior::Delete,
        other => return Err(Refusal::internal(format!("Invalid Behavior setting '{other}'"))),
    };
    let ttl = fields.string("TTL")?;
    let lock_delay = match fields.take("LockDelay") {
        None => LOCK_DELAY,
        Some(Value::Number(number)) => match number.as_u64().unwrap_or(0) {
            // So small a number of nanoseconds is meant as seconds.
            small if small < SECONDS_BELOW => Duration::from_secs(small),
            nanoseconds => Duration::from_nanos(nanoseconds),
        },
        Some(Value::String(text)) => {
            let nanoseconds = go::parse_duration(&text)
                .map_err(|error| Refusal::bad_request(format!("Request decode failed: {error}")))?;
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
        }
        Some(_) => Duration::ZERO,
    };
    let ttl = (ttl.clone(), parse_ttl(&ttl)?);
    let id = uuid::Uuid::new_v4().to_string();
    Ok(NewSession { id, name, node, lock_delay, behavior, ttl, node_checks, service_checks })
}

fn parse_ttl(text: &str) -> Result<Option<Duration>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let nanoseconds = go::parse_duration(text)
        .map_err(|error| Refusal::internal(format!("Session TTL '{text}' invalid: {error}")))?;
    let ttl = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    match ttl {
        Duration::ZERO => Ok(None),
        ttl if (TTL_MIN..=TTL_MAX).contains(&ttl) => Ok(Some(ttl)),
        _ => Err(Refusal::internal(format!(
            "Invalid Session TTL '{nanoseconds}', must be between [10s=24h0m0s]"
        ))),
    }
}

fn shape(session: &Session) -> Value {
    let wanted = &session.wanted;
    let service_checks: Vec<Value> =
        wanted.service_checks.iter().map(|id| json!({"ID": id, "Namespace": ""})).collect();
    json!({
        "ID": wanted.id,
        "Name": wanted.name,
        "Node": wanted.node,
        "LockDelay": u64::try_from(wanted.lock_delay.as_nanos()).unwrap_or(u64::MAX),
        "Behavior": wanted.behavior.as_str(),
        "TTL": wanted.ttl.0,
        "NodeChecks": wanted.node_checks,
        "ServiceChecks": if service_checks.is_empty() { Value::Null } else { json!(service_checks) },
        "CreateIndex": session.index,
        "ModifyIndex": session.index,
    })
}

const FIELDS: &[(&str, &str)] = &[
    ("Name", ""),
    ("Node", ""),
    ("Checks", ""),
    ("NodeChecks", ""),
    ("ServiceChecks", ""),
    ("Behavior", ""),
    ("TTL", ""),
    ("LockDelay", ""),
];
/// Consul's defaults and limits of sessions.
const LOCK_DELAY: Duration = Duration::from_secs(15);
const SECONDS_BELOW: u64 = 1000;
const TTL_MIN: Duration = Duration::from_secs(10);
const TTL_MAX: Duration = Duration::from_hours(24);
const UUID_CHARS: usize = 36;
