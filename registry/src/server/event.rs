//! `/v1/event/…`: user events, for all clients that listen.

use base64::Engine;
use http::HeaderValue;
use regex::Regex;
use serde_json::{Value, json};

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::filter;
use crate::server::query::ReadOptions;
use crate::server::read::until;
use crate::store::{Event, Store};

pub(crate) fn fire(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    let name = call.required("Missing name")?;
    if call.body.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::bad_request(format!("the payload is larger than {PAYLOAD_BYTES_MAX} bytes")));
    }
    let param = |name: &str| call.params.get(name).unwrap_or_default().to_owned();
    let event = Event {
        id: uuid::Uuid::new_v4(),
        name: name.to_owned(),
        payload: call.body.to_vec(),
        node_filter: param("node"),
        service_filter: param("service"),
        tag_filter: param("tag"),
        time: 0,
    };
    let compiled = (
        compile("node", &event.node_filter)?,
        compile("service", &event.service_filter)?,
        compile("tag", &event.tag_filter)?,
    );
    if compiled.1.is_none() && compiled.2.is_some() {
        return Err(Refusal::internal("Cannot provide tag filter without service filter"));
    }
    let answer = shape(&event);
    let node = call.shared.identity.node_name.clone();
    call.shared.change(|store, _| {
        let keep = event.name != REMOTE_EXECUTION && concerns(store, &node, &compiled);
        store.events.fire(event, keep);
    });
    Ok(answer::json(&answer, call.pretty()))
}

pub(crate) async fn list(call: &Call<'_>) -> Answer {
    let options = ReadOptions::parse(&call.params, &call.shared.identity.datacenter)?;
    let name = call.params.get("name").unwrap_or_default();
    let index = |store: &Store| store.events.list(name).last().map_or(1, Event::index);
    // The index is made from an id, so any other index is news, also a smaller one.
    let news = |store: &Store| options.index == 0 || index(store) != options.index;
    let view = |store: &Store| (index(store), store.events.list(name).map(shape).collect());
    let (index, events): (u64, Value) = until(call.shared, options.wait, news, view).await?;
    let mut response = answer::json(&events, options.pretty);
    response.headers_mut().insert(answer::INDEX, HeaderValue::from(index));
    Ok(response)
}

type Filters = (Option<Regex>, Option<Regex>, Option<Regex>);

/// Whether the filters select the registry's own node: only then its agent would have kept the event.
fn concerns(store: &Store, own: &str, (node, service, tag): &Filters) -> bool {
    if node.as_ref().is_some_and(|node| !node.is_match(own)) {
        return false;
    }
    let Some(service) = service else { return true };
    store.own_services().any(|own| {
        let tagged = |tag: &Regex| own.definition.tags.iter().any(|own| tag.is_match(own));
        service.is_match(&own.definition.name) && tag.as_ref().is_none_or(tagged)
    })
}

fn compile(what: &str, pattern: &str) -> Result<Option<Regex>, Refusal> {
    if pattern.is_empty() {
        return Ok(None);
    }
    Regex::new(pattern)
        .map(Some)
        .map_err(|_| Refusal::internal(format!("Invalid {what} filter: {}", filter::regex_error(pattern))))
}

fn shape(event: &Event) -> Value {
    let payload = base64::engine::general_purpose::STANDARD.encode(&event.payload);
    json!({
        "ID": event.id.to_string(),
        "Name": event.name,
        "Payload": if payload.is_empty() { Value::Null } else { Value::String(payload) },
        "NodeFilter": event.node_filter,
        "ServiceFilter": event.service_filter,
        "TagFilter": event.tag_filter,
        "Version": 1,
        "LTime": event.time,
    })
}

/// What `consul exec` fires; agents act on it, or do not, and never list it.
const REMOTE_EXECUTION: &str = "_rexec";
/// Consul gossips events and keeps them below this.
const PAYLOAD_BYTES_MAX: usize = 512;
