//! `/v1/txn`: several operations, which are made together or not at all.

use base64::Engine;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::server::answer::{self, Answer, Refusal};
use crate::server::call::Call;
use crate::server::catalog_write::{self, CHECK_FIELDS, SERVICE_FIELDS};
use crate::server::decode::Fields;
use crate::server::shape::Identity;
use crate::server::{go, kv};
use crate::store::{KvVerb, NodeDefinition, Outcome, TableVerb, TxnError, TxnOp};

pub(crate) fn run(call: &Call<'_>) -> Answer {
    call.own_datacenter()?;
    let limit = call.shared.limits.kv_value_bytes;
    if call.body.len() > limit {
        return Err(Refusal::too_large(call.body.len(), limit));
    }
    let (operations, writes) = read(&call.body, call.shared.limits.definition_bytes).map_err(parse_error)?;
    let identity = &call.shared.identity;
    let done = call.shared.change(|store, now| store.transact(&operations, now));
    let failed = done.is_err();
    let (results, errors) = match done {
        Ok(outcomes) => (outcomes.iter().map(|outcome| result(identity, outcome)).collect(), Value::Null),
        Err(errors) => (Value::Null, errors.iter().map(failure).collect()),
    };
    let mut body = json!({"Results": results, "Errors": errors});
    if !writes && let Some(object) = body.as_object_mut() {
        object.insert("Index".to_owned(), json!(0));
        object.insert("LastContact".to_owned(), json!(0));
        object.insert("KnownLeader".to_owned(), json!(true));
        object.insert("ConsistencyLevel".to_owned(), json!(""));
    }
    let mut response = answer::json(&body, call.pretty());
    if failed {
        *response.status_mut() = StatusCode::CONFLICT;
    }
    Ok(if writes { response } else { answer::with_leader(response) })
}

/// Reads the operations, and whether any of them writes. Registrations have the same size limit as elsewhere.
fn read(body: &[u8], definition_bytes_max: usize) -> Result<(Vec<TxnOp>, bool), Refusal> {
    let value = go::parse_json(body).map_err(|text| Refusal::bad_request(format!("{DECODE}: {text}")))?;
    let list = match value {
        Value::Array(list) => list,
        Value::Null => Vec::new(),
        other => {
            let text = format!(
                "{DECODE}: json: cannot unmarshal {} into Go value of type api.TxnOps",
                go::kind(&other)
            );
            return Err(Refusal::bad_request(text));
        }
    };
    if list.len() > OPERATIONS_MAX {
        let text = format!("Transaction contains too many operations ({} > {OPERATIONS_MAX})", list.len());
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let (mut operations, mut writes) = (Vec::new(), false);
    for element in list {
        if !element.is_object() && !element.is_null() {
            let kind = go::kind(&element);
            let text = format!("{DECODE}: json: cannot unmarshal {kind} into Go value of type api.TxnOp");
            return Err(Refusal::bad_request(text));
        }
        let mut fields = Fields::element(element, OPERATION_FIELDS, "TxnOp")?;
        for kind in ["KV", "Node", "Service", "Check"] {
            let Some(inner) = fields.take(kind) else { continue };
            let bytes = if kind == "KV" { 0 } else { inner.to_string().len() };
            if bytes > definition_bytes_max {
                return Err(Refusal::too_large(bytes, definition_bytes_max));
            }
            let (operation, write) = match kind {
                "KV" => kv_operation(inner)?,
                "Node" => node_operation(inner)?,
                "Service" => service_operation(inner)?,
                _ => check_operation(inner)?,
            };
            operations.push(operation);
            writes |= write;
        }
    }
    Ok((operations, writes))
}

fn kv_operation(value: Value) -> Result<(TxnOp, bool), Refusal> {
    let mut fields = Fields::element(value, KV_FIELDS, "KVTxnOp.KV")?;
    let word = fields.string_of("Verb", "api.KVOp")?;
    let (key, session) = (fields.string("Key")?, fields.string("Session")?);
    let (flags, index) = (fields.unsigned("Flags")?, fields.unsigned("Index")?);
    let value = decode(&fields.string("Value")?)?;
    let verb = KV_VERBS.iter().find(|(known, _)| *known == word).map(|(_, verb)| *verb);
    if key.is_empty() && !matches!(verb, Some(KvVerb::DeleteTree | KvVerb::GetTree)) {
        let write = verb.is_some_and(|verb| !READS.contains(&verb));
        return Ok((TxnOp::Refused("Must provide key".to_owned()), write));
    }
    let Some(verb) = verb else {
        return Ok((TxnOp::Refused(format!("unknown KV verb {word:?}")), false));
    };
    Ok((TxnOp::Kv { verb, key, value, flags, index, session }, !READS.contains(&verb)))
}

fn node_operation(value: Value) -> Result<(TxnOp, bool), Refusal> {
    let mut fields = Fields::element(value, &[("Verb", ""), ("Node", "")], "NodeTxnOp.Node")?;
    let word = fields.string("Verb")?;
    let mut node =
        Fields::element(fields.take("Node").unwrap_or(Value::Null), NODE_FIELDS, "Node.Node.Node")?;
    let index = node.unsigned("ModifyIndex")?;
    let definition = NodeDefinition {
        id: node.string("ID")?,
        name: node.string("Node")?,
        address: node.string("Address")?,
        tagged_addresses: node
            .is_present("TaggedAddresses")
            .then(|| node.string_map("TaggedAddresses"))
            .transpose()?,
        meta: node.is_present("Meta").then(|| node.string_map("Meta")).transpose()?,
    };
    Ok(table(&word, "Node", |verb| TxnOp::Node { verb, node: definition, index }))
}

fn service_operation(value: Value) -> Result<(TxnOp, bool), Refusal> {
    let mut fields =
        Fields::element(value, &[("Verb", ""), ("Node", ""), ("Service", "")], "ServiceTxnOp.Service")?;
    let (word, node) = (fields.string("Verb")?, fields.string("Node")?);
    let known = [SERVICE_FIELDS, &[("ContentHash", ""), ("Namespace", "")]].concat();
    let mut inner = Fields::element(
        fields.take("Service").unwrap_or(Value::Null),
        &known,
        "AgentService.Service.Service",
    )?;
    let index = inner.unsigned("ModifyIndex")?;
    let service = catalog_write::read_service(inner)?;
    if service.name.is_empty() && !service.id.is_empty() && word != "get" {
        return Ok((TxnOp::Refused("Must provide service name with ID".to_owned()), true));
    }
    Ok(table(&word, "Service", |verb| TxnOp::Service { verb, node, service, index }))
}

fn check_operation(value: Value) -> Result<(TxnOp, bool), Refusal> {
    let mut fields = Fields::element(value, &[("Verb", ""), ("Check", "")], "CheckTxnOp.Check")?;
    let word = fields.string("Verb")?;
    let known = [CHECK_FIELDS, &[("Namespace", "")]].concat();
    let mut inner =
        Fields::element(fields.take("Check").unwrap_or(Value::Null), &known, "HealthCheck.Check.Check")?;
    let index = inner.unsigned("ModifyIndex")?;
    let (node, check) = catalog_write::read_check(inner)?;
    Ok(table(&word, "Check", |verb| TxnOp::Check { verb, node, check, index }))
}

fn table(word: &str, what: &str, operation: impl FnOnce(TableVerb) -> TxnOp) -> (TxnOp, bool) {
    match TABLE_VERBS.iter().find(|(known, _)| *known == word) {
        Some((_, verb)) => (operation(*verb), *verb != TableVerb::Get),
        None => (TxnOp::Refused(format!("unknown {what} verb {word:?}")), true),
    }
}

fn decode(text: &str) -> Result<Bytes, Refusal> {
    base64::engine::general_purpose::STANDARD.decode(text).map(Bytes::from).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
        };
        Refusal::bad_request(format!("{DECODE}: illegal base64 data at input byte {at}"))
    })
}

/// Bodies of transactions are refused in other words than those of registrations.
fn parse_error(mut refusal: Refusal) -> Refusal {
    refusal.text = refusal.text.replace("Request decode failed", DECODE);
    refusal
}

fn failure(error: &TxnError) -> Value {
    json!({"OpIndex": error.operation, "What": error.what})
}

fn result(identity: &Identity, outcome: &Outcome) -> Value {
    let (name, mut object) = match outcome {
        Outcome::Kv { key, entry, with_value } => ("KV", kv::pair(key, entry, *with_value)),
        Outcome::Node(node) => ("Node", identity.node(node)),
        Outcome::Service(service) => ("Service", identity.health_service(service)),
        Outcome::Check(check) => ("Check", identity.check(check, None)),
    };
    // Here empty lists of tags are null.
    for tags in ["Tags", "ServiceTags"] {
        if object.get(tags) == Some(&json!([])) {
            object[tags] = Value::Null;
        }
    }
    Value::Object(Map::from_iter([(name.to_owned(), object)]))
}

const DECODE: &str = "Failed to parse body";
/// Consul's limit.
const OPERATIONS_MAX: usize = 64;
const READS: &[KvVerb] =
    &[KvVerb::Get, KvVerb::GetTree, KvVerb::CheckSession, KvVerb::CheckIndex, KvVerb::CheckNotExists];
const KV_VERBS: &[(&str, KvVerb)] = &[
    ("set", KvVerb::Set),
    ("cas", KvVerb::Cas),
    ("lock", KvVerb::Lock),
    ("unlock", KvVerb::Unlock),
    ("get", KvVerb::Get),
    ("get-tree", KvVerb::GetTree),
    ("check-session", KvVerb::CheckSession),
    ("check-index", KvVerb::CheckIndex),
    ("check-not-exists", KvVerb::CheckNotExists),
    ("delete", KvVerb::Delete),
    ("delete-cas", KvVerb::DeleteCas),
    ("delete-tree", KvVerb::DeleteTree),
];
const TABLE_VERBS: &[(&str, TableVerb)] = &[
    ("get", TableVerb::Get),
    ("set", TableVerb::Set),
    ("cas", TableVerb::Cas),
    ("delete", TableVerb::Delete),
    ("delete-cas", TableVerb::DeleteCas),
];
const OPERATION_FIELDS: &[(&str, &str)] = &[("KV", ""), ("Node", ""), ("Service", ""), ("Check", "")];
const KV_FIELDS: &[(&str, &str)] = &[
    ("Verb", ""),
    ("Key", ""),
    ("Value", ""),
    ("Flags", ""),
    ("Index", ""),
    ("Session", ""),
    ("Namespace", ""),
];
const NODE_FIELDS: &[(&str, &str)] = &[
    ("ID", ""),
    ("Node", ""),
    ("Address", ""),
    ("Datacenter", ""),
    ("TaggedAddresses", ""),
    ("Meta", ""),
    ("CreateIndex", ""),
    ("ModifyIndex", ""),
];
