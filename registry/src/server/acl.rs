//! Access control with one token. A client with the token may do everything. A client without it has the rights of Consul's anonymous token when
//! the default is to deny: reads of the catalog get empty lists (Consul does not refuse them, because an empty list reveals
//! nothing), other requests get 403. An unknown token gets 403 `ACL not found` everywhere.
//!
//! Without a token in the options there are no ACLs: every client may do everything, and `/v1/acl/…` is 401.

use std::fmt;

use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use serde_json::json;

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::call::Call;
use crate::server::{Compat, Shared, definition};

/// The token that may do everything. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterToken(String);

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token has 1 to {TOKEN_BYTES_MAX} letters, digits or signs, and no blanks: a UUID, as a rule")]
pub struct NoToken;

impl MasterToken {
    /// Reads a token, without the blanks and line feeds around it.
    pub fn new(text: &str) -> Result<Self, NoToken> {
        let text = text.trim();
        let legal =
            (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if legal { Ok(Self(text.to_owned())) } else { Err(NoToken) }
    }

    /// Compares in constant time, so that the time does not reveal how much of a token is right.
    fn is(&self, other: &str) -> bool {
        let differing = self.0.bytes().zip(other.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
        self.0.len() == other.len() && differing == 0
    }
}

impl fmt::Debug for MasterToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How the answer to an admitted request is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    /// Status and headers, with this body.
    Empty(&'static str),
    /// As if the object did not exist: 404, with the headers.
    Hidden,
    /// This refusal, unless the request itself is wrong.
    Denied(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Master,
    Anonymous,
    Unknown,
}

impl View {
    /// A refusal does not wait for an index.
    pub(crate) fn blocks(&self) -> bool {
        !matches!(self, Self::Denied(_))
    }

    pub(crate) fn restrict(self, response: Response) -> Answer {
        if self == Self::Whole || !response.status().is_success() && !matches!(self, Self::Denied(_)) {
            return Ok(response);
        }
        let (mut head, _) = response.into_parts();
        match self {
            Self::Whole => Ok(Response::from_parts(head, Full::default())),
            Self::Empty(body) => Ok(Response::from_parts(head, Full::from(body))),
            Self::Hidden => {
                head.status = StatusCode::NOT_FOUND;
                head.headers.remove(header::CONTENT_TYPE);
                Ok(Response::from_parts(head, Full::default()))
            }
            Self::Denied(refusal) => Err(refusal),
        }
    }
}

/// Decides about a request. `Err`: a write that is refused before it is made.
pub(crate) fn admit(call: &Call<'_>) -> Result<View, Refusal> {
    match caller(call) {
        Caller::Master => Ok(View::Whole),
        _ if OPEN.iter().any(|path| call.path.starts_with(path)) => Ok(View::Whole),
        // The agent's calls check the token first; the catalog's calls check the request first.
        Caller::Unknown if call.path.starts_with("/v1/agent/") && call.method == Method::GET => {
            Err(unknown())
        }
        Caller::Unknown if call.method == Method::GET => {
            let of_catalog = DISPATCHED.iter().any(|path| call.path.starts_with(path));
            Ok(View::Denied(if of_catalog { unknown().dispatched() } else { unknown() }))
        }
        // Consul's one exception.
        Caller::Unknown if call.path.starts_with("/v1/event/fire/") => {
            Err(Refusal::internal("ACL not found"))
        }
        Caller::Unknown => refuse_write(call).map_or_else(
            |refusal| Err(if refusal.status == StatusCode::BAD_REQUEST { refusal } else { unknown() }),
            |()| Err(unknown()),
        ),
        Caller::Anonymous if call.method == Method::GET => anonymous_view(call),
        Caller::Anonymous => refuse_write(call).map(|()| View::Whole),
    }
}

/// `/v1/acl/…`: what clients read about their own token. Tokens and policies cannot be created.
pub(crate) fn endpoint(call: &Call<'_>) -> Answer {
    let shared = call.shared;
    if shared.master.is_none() {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "ACL support disabled"));
    }
    let pretty = call.params.has("pretty");
    let caller = caller(call);
    let index = shared.store().index();
    let policy = json!({"ID": MANAGEMENT_ID, "Name": "global-management"});
    let token = json!({
        "AccessorID": shared.identity.node_id,
        "Description": "Master Token",
        "Policies": [policy],
        "Local": false,
        "CreateTime": EPOCH,
        "Hash": "",
        "CreateIndex": 1,
        "ModifyIndex": 1,
    });
    let value = match (call.path.strip_prefix("/v1/acl/").unwrap_or_default(), caller) {
        ("bootstrap", _) => {
            return Err(forbidden("Permission denied: ACL bootstrap no longer allowed (reset index: 1)"));
        }
        ("replication", _) => {
            let replication = json!({
                "Enabled": false, "Running": false, "SourceDatacenter": "", "ReplicationType": "",
                "ReplicatedIndex": 0, "ReplicatedRoleIndex": 0, "ReplicatedTokenIndex": 0,
                "LastSuccess": EPOCH, "LastError": EPOCH,
            });
            return Ok(answer::json(&replication, pretty));
        }
        (_, Caller::Unknown) | ("token/self", Caller::Anonymous) => return Err(unknown().dispatched()),
        (_, Caller::Anonymous) => return Err(denied(shared, "acl", "read", "", false).dispatched()),
        ("token/self", Caller::Master) => {
            let mut own = token;
            if let Some(master) = &shared.master {
                own["SecretID"] = json!(master.0);
            }
            own
        }
        ("tokens", Caller::Master) => json!([token]),
        ("policies", Caller::Master) => json!([{
            "ID": MANAGEMENT_ID, "Name": "global-management",
            "Description": "Builtin Policy that grants unlimited access",
            "Datacenters": null, "Hash": "", "CreateIndex": 1, "ModifyIndex": 1,
        }]),
        (_, Caller::Master) => {
            return Err(Refusal::internal(
                "the embedded registry has one token and no policies; use a Consul agent for more",
            ));
        }
    };
    Ok(answer::with_index(answer::json(&value, pretty), index))
}

/// Sets the header about the default policy, in releases that have it.
pub(crate) fn mark_default(shared: &Shared, response: &mut Response) {
    if shared.master.is_some()
        && let Some(policy) = response.headers_mut().get_mut("x-consul-default-acl-policy")
    {
        *policy = HeaderValue::from_static("deny");
    }
}

/// The token of a request: `?token=`, then `X-Consul-Token`, then `Authorization: Bearer`. An empty token
/// counts as absent.
fn caller(call: &Call<'_>) -> Caller {
    let shared = call.shared;
    let Some(master) = &shared.master else { return Caller::Master };
    let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = header("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let given = [call.params.get("token"), header("x-consul-token"), bearer];
    match given.into_iter().flatten().find(|token| !token.is_empty()) {
        None | Some("anonymous") => Caller::Anonymous,
        Some(token) if master.is(token) => Caller::Master,
        Some(_) => Caller::Unknown,
    }
}

/// `Err` if the request is refused before it is read.
fn anonymous_view(call: &Call<'_>) -> Result<View, Refusal> {
    let shared = call.shared;
    let node = shared.identity.node_name.as_str();
    let denied = |resource: &str, on: &str| denied(shared, resource, "read", on, false);
    let found = EMPTY.iter().find(|(path, _)| call.path.starts_with(path));
    if let Some((_, body)) = found {
        return Ok(View::Empty(body));
    }
    match call.path {
        path if path.starts_with("/v1/kv/") => Ok(if call.params.has("keys") && call.argument.is_empty() {
            View::Empty("[]")
        } else if call.params.has("keys") || call.params.has("recurse") {
            View::Hidden
        } else {
            View::Denied(denied("key", call.argument))
        }),
        path if path.starts_with("/v1/agent/service/") || path.starts_with("/v1/agent/health/") => {
            let id = call.argument.rsplit('/').next().unwrap_or_default();
            let name = shared.store().service(id).map(|service| service.definition.name.clone());
            Ok(View::Denied(denied("service", name.as_deref().unwrap_or(id))))
        }
        path if path.starts_with("/v1/operator/") => Err(denied("operator", "")),
        _ => Err(denied("agent", node)),
    }
}

/// Always `Err`. The order matters: a mistake in a request is reported before the missing right.
fn refuse_write(call: &Call<'_>) -> Result<(), Refusal> {
    let shared = call.shared;
    let node = shared.identity.node_name.clone();
    let compat = shared.identity.compat;
    let rest = |prefix: &str| call.path.strip_prefix(prefix);
    if call.path == "/v1/agent/service/register" {
        let (service, _) = definition::service(&call.body, compat, &shared.limits)?;
        return Err(denied(shared, "service", "write", &service.name, true));
    }
    if call.path == "/v1/agent/check/register" {
        let check = definition::check(&call.body, compat)?;
        return Err(denied_check(shared, &check.service_id));
    }
    for prefix in ["/v1/agent/service/deregister/", "/v1/agent/service/maintenance/"] {
        if let Some(id) = rest(prefix) {
            let name = shared.store().service(id).map(|service| service.definition.name.clone());
            return Err(match name {
                Some(name) => denied(shared, "service", "write", &name, true),
                None => Refusal::internal(format!("Unknown service {{{id:?} {{}}}}")),
            });
        }
    }
    for verb in ["deregister", "pass", "warn", "fail", "update"] {
        if let Some(id) = rest(&format!("/v1/agent/check/{verb}/")) {
            let found = shared.store().own_checks().find(|check| check.definition.id == id).cloned();
            return Err(match found {
                Some(check) => denied_check(shared, &check.definition.service_id),
                None => Refusal::internal(format!("Unknown check {id:?}")),
            });
        }
    }
    let (resource, on) = match call.path {
        path if path.starts_with("/v1/kv/") => ("key", call.argument),
        path if path.starts_with("/v1/event/") => ("event", call.argument),
        path if path.starts_with("/v1/session/") => ("session", node.as_str()),
        path if path.starts_with("/v1/catalog/") => ("node", ""),
        path if path.starts_with("/v1/agent/maintenance") => ("node", node.as_str()),
        path if path.starts_with("/v1/txn") => ("key", ""),
        _ => ("agent", node.as_str()),
    };
    Err(denied(shared, resource, "write", on, false))
}

fn denied_check(shared: &Shared, service_id: &str) -> Refusal {
    let name = shared.store().service(service_id).map(|service| service.definition.name.clone());
    match name {
        Some(name) => denied(shared, "service", "write", &name, true),
        None => denied(shared, "node", "write", &shared.identity.node_name, true),
    }
}

/// `named` if 1.8 names the missing right as well, which it does only for services and checks of the agent.
fn denied(shared: &Shared, resource: &str, access: &str, on: &str, named: bool) -> Refusal {
    let on_name = if on.is_empty() { String::new() } else { format!(" on {on:?}") };
    forbidden(&match shared.identity.compat {
        Compat::V1_8 if named => format!("Permission denied: Missing {resource}:{access} on {on}"),
        Compat::V1_8 => "Permission denied".to_owned(),
        Compat::Current => format!(
            "Permission denied: anonymous token lacks permission '{resource}:{access}'{on_name}. The anonymous \
             token is used implicitly when a request does not specify a token."
        ),
    })
}

fn unknown() -> Refusal {
    forbidden("ACL not found")
}

fn forbidden(text: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, text)
}

/// Paths that every client may read, whatever its token.
const OPEN: &[&str] =
    &["/v1/acl/", "/v1/status/", "/v1/catalog/datacenters", "/v1/coordinate/datacenters", "/v1/connect/ca/"];

/// Paths whose refusals carry an index without a meaning.
const DISPATCHED: &[&str] = &[
    "/v1/catalog/",
    "/v1/health/",
    "/v1/session/",
    "/v1/coordinate/",
    "/v1/query",
    "/v1/internal/",
    "/v1/connect/intentions",
];

/// Paths with an empty answer, and its form. The first match wins.
const EMPTY: &[(&str, &str)] = &[
    ("/v1/agent/services", "{}"),
    ("/v1/agent/checks", "{}"),
    ("/v1/agent/members", "[]"),
    ("/v1/catalog/services", "{}"),
    ("/v1/catalog/node/", "null"),
    ("/v1/catalog/node-services/", r#"{"Node":null,"Services":null}"#),
    ("/v1/catalog/", "[]"),
    ("/v1/health/", "[]"),
    ("/v1/session/", "[]"),
    ("/v1/event/list", "[]"),
    ("/v1/coordinate/", "[]"),
    ("/v1/query", "[]"),
    ("/v1/internal/ui/", "[]"),
    ("/v1/config", "[]"),
    ("/v1/connect/intentions", "[]"),
];

/// The id that Consul's policy for everything has.
const MANAGEMENT_ID: &str = "00000000-0000-0000-0000-000000000001";
/// Go's zero time.
const EPOCH: &str = "0001-01-01T00:00:00Z";
/// Headers have limits, too.
const TOKEN_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_whole_and_never_printed() {
        let token = MasterToken::new(" secret\n").unwrap();
        for (other, same) in
            [("secret", true), ("secre", false), ("secret1", false), ("Secret", false), ("", false)]
        {
            assert_eq!(token.is(other), same, "{other}");
        }
        assert_eq!(format!("{token:?}"), "[redacted]");
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_no_token() {
        for text in ["", " \n", "a b", "ä", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert_eq!(MasterToken::new(text), Err(NoToken), "{text}");
        }
        assert!(MasterToken::new(&"x".repeat(TOKEN_BYTES_MAX)).is_ok());
    }
}
