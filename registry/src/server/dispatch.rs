//! From a request to its handler: one table of paths, and what Consul does with wrong paths and methods.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use percent_encoding::percent_decode_str;

use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::query::{Params, refuse_namespaces};
use crate::server::{Compat, Shared, agent, catalog, kv};
use crate::types::CheckStatus;

/// What a path leads to. What follows the path is the handler's argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    RegisterService,
    DeregisterService,
    AgentServices,
    AgentService,
    RegisterCheck,
    DeregisterCheck,
    SetCheck(CheckStatus),
    UpdateCheck,
    AgentChecks,
    AgentSelf,
    AgentMembers,
    CatalogServices,
    CatalogService,
    CatalogNodes,
    CatalogDatacenters,
    HealthService,
    HealthChecks,
    HealthNode,
    HealthState,
    Leader,
    Peers,
    Kv,
}

/// A path that ends in `/` takes whatever follows as its argument, slashes included; any other is exact. The
/// first match wins, so longer paths stand above their beginnings.
const PATHS: &[(&str, Endpoint, Allow)] = &[
    ("/v1/agent/service/register", Endpoint::RegisterService, Allow::Put),
    ("/v1/agent/service/deregister/", Endpoint::DeregisterService, Allow::Put),
    ("/v1/agent/services", Endpoint::AgentServices, Allow::Get),
    ("/v1/agent/service/", Endpoint::AgentService, Allow::Get),
    ("/v1/agent/check/register", Endpoint::RegisterCheck, Allow::Put),
    ("/v1/agent/check/deregister/", Endpoint::DeregisterCheck, Allow::Put),
    ("/v1/agent/check/pass/", Endpoint::SetCheck(CheckStatus::Passing), Allow::Put),
    ("/v1/agent/check/warn/", Endpoint::SetCheck(CheckStatus::Warning), Allow::Put),
    ("/v1/agent/check/fail/", Endpoint::SetCheck(CheckStatus::Critical), Allow::Put),
    ("/v1/agent/check/update/", Endpoint::UpdateCheck, Allow::Put),
    ("/v1/agent/checks", Endpoint::AgentChecks, Allow::Get),
    ("/v1/agent/self", Endpoint::AgentSelf, Allow::Get),
    ("/v1/agent/members", Endpoint::AgentMembers, Allow::Get),
    ("/v1/catalog/services", Endpoint::CatalogServices, Allow::Get),
    ("/v1/catalog/service/", Endpoint::CatalogService, Allow::Get),
    ("/v1/catalog/nodes", Endpoint::CatalogNodes, Allow::Get),
    ("/v1/catalog/datacenters", Endpoint::CatalogDatacenters, Allow::Get),
    ("/v1/health/service/", Endpoint::HealthService, Allow::Get),
    ("/v1/health/checks/", Endpoint::HealthChecks, Allow::Get),
    ("/v1/health/node/", Endpoint::HealthNode, Allow::Get),
    ("/v1/health/state/", Endpoint::HealthState, Allow::Get),
    ("/v1/status/leader", Endpoint::Leader, Allow::Get),
    ("/v1/status/peers", Endpoint::Peers, Allow::Get),
    ("/v1/kv/", Endpoint::Kv, Allow::GetPutDelete),
];

/// The methods of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allow {
    Get,
    Put,
    GetPutDelete,
}

impl Allow {
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Get => "OPTIONS,GET",
            Self::Put => "OPTIONS,PUT",
            Self::GetPutDelete => "OPTIONS,GET,PUT,DELETE",
        })
    }

    fn has(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET,
            Self::Put => method == Method::PUT,
            Self::GetPutDelete => [Method::GET, Method::PUT, Method::DELETE].contains(method),
        }
    }
}

/// Answers one request, whatever it is.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response, Infallible> {
    // Decoded before it is matched: some clients send `/v1/kv/a%2Fb`, others `/v1/agent/check/pass/service%3Aw`.
    let path = match percent_decode_str(request.uri().path()).decode_utf8() {
        Ok(path) if !path.chars().any(char::is_control) => path.into_owned(),
        _ => return Ok(Refusal::bad_request("").into_response()),
    };
    let Some((endpoint, allow, argument)) = find(&path) else { return Ok(no_such_path(&shared, &path)) };
    let answered = admit(&shared, endpoint, allow, argument, request).await;
    let mut response = answered.unwrap_or_else(Refusal::into_response);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Ok(response)
}

/// Checks the method and reads the body, the same way for every path.
async fn admit(
    shared: &Shared,
    endpoint: Endpoint,
    allow: Allow,
    argument: &str,
    request: Request<Incoming>,
) -> Answer {
    let method = request.method().clone();
    if method == Method::OPTIONS {
        let mut response = answer::done();
        response.headers_mut().insert(header::ALLOW, allow.header());
        return Ok(response);
    }
    if !allow.has(&method) {
        let text = format!("method {method} not allowed");
        let mut response = answer::text(StatusCode::METHOD_NOT_ALLOWED, text);
        response.headers_mut().insert(header::ALLOW, allow.header());
        return Ok(response);
    }
    let params = Params::parse(request.uri().query());
    refuse_namespaces(&params, request.headers())?;
    let body = read_body(shared, request.into_body()).await?;
    call(shared, endpoint, &method, &params, argument, body).await
}

async fn call(
    shared: &Shared,
    endpoint: Endpoint,
    method: &Method,
    params: &Params,
    argument: &str,
    body: Bytes,
) -> Answer {
    match endpoint {
        Endpoint::RegisterService => agent::register_service(shared, params, &body),
        Endpoint::DeregisterService => agent::deregister_service(shared, argument),
        Endpoint::AgentServices => Ok(agent::services(shared, params)),
        Endpoint::AgentService => agent::service(shared, params, argument),
        Endpoint::RegisterCheck => agent::register_check(shared, &body),
        Endpoint::DeregisterCheck => agent::deregister_check(shared, argument),
        Endpoint::SetCheck(status) => agent::set_check(shared, params, argument, status),
        Endpoint::UpdateCheck => agent::update_check(shared, argument, &body),
        Endpoint::AgentChecks => Ok(agent::checks(shared, params)),
        Endpoint::AgentSelf => Ok(agent::own_self(shared, params)),
        Endpoint::AgentMembers => Ok(agent::members(shared, params)),
        Endpoint::CatalogServices => catalog::services(shared, params).await,
        Endpoint::CatalogService => catalog::service(shared, params, argument).await,
        Endpoint::CatalogNodes => catalog::nodes(shared, params).await,
        Endpoint::CatalogDatacenters => Ok(catalog::datacenters(shared, params)),
        Endpoint::HealthService => catalog::health_service(shared, params, argument).await,
        Endpoint::HealthChecks => catalog::health_checks(shared, params, argument).await,
        Endpoint::HealthNode => catalog::health_node(shared, params, argument).await,
        Endpoint::HealthState => catalog::health_state(shared, params, argument).await,
        Endpoint::Leader => Ok(catalog::leader(shared, params)),
        Endpoint::Peers => Ok(catalog::peers(shared, params)),
        Endpoint::Kv if method == Method::PUT => kv::put(shared, params, argument, body),
        Endpoint::Kv if method == Method::DELETE => kv::delete(shared, params, argument),
        Endpoint::Kv => kv::get(shared, params, argument).await,
    }
}

fn find(path: &str) -> Option<(Endpoint, Allow, &str)> {
    PATHS.iter().find_map(|(known, endpoint, allow)| {
        let rest = path.strip_prefix(known)?;
        (rest.is_empty() || known.ends_with('/')).then_some((*endpoint, *allow, rest))
    })
}

fn no_such_path(shared: &Shared, path: &str) -> Response {
    if path == "/" {
        let text = "Consul Agent: the embedded registry of Millgate; its API is under /v1/\n";
        return answer::text(StatusCode::OK, text.to_owned());
    }
    let text = match shared.identity.compat {
        Compat::Current => "Invalid URL path: not a recognized HTTP API endpoint\n",
        Compat::V1_8 => "",
    };
    answer::text(StatusCode::NOT_FOUND, text.to_owned())
}

/// Bodies of reads are read as well, and ignored: some clients send one with a GET.
async fn read_body(shared: &Shared, body: Incoming) -> Result<Bytes, Refusal> {
    let limit = shared.limits.body_bytes;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(Refusal::too_large(announced, limit));
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Refusal::too_large(limit + 1, limit))
        }
        Ok(Err(error)) => Err(Refusal::bad_request(format!("the body cannot be read: {error}"))),
        Err(_) => Err(Refusal::bad_request(format!("no complete body within {BODY_TIMEOUT:?}"))),
    }
}

/// Bodies are a few kilobytes from the same machine.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_found_by_itself_and_not_by_a_shorter_one() {
        for (known, endpoint, allow) in PATHS {
            let path = if known.ends_with('/') { format!("{known}a/b") } else { (*known).to_owned() };
            let argument = if known.ends_with('/') { "a/b" } else { "" };
            assert_eq!(find(&path), Some((*endpoint, *allow, argument)), "{path}");
        }
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        for path in ["/", "/v1", "/v1/", "/v1/kv", "/v1/session/create", "/v1/agent/services/x", "/v2/kv/a"] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
