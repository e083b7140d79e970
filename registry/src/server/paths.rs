//! The table of the served paths.

use crate::server::answer::{Answer, Response};
use crate::server::call::{Call, Pending};
use crate::server::{
    acl, agent, agent_health, catalog, catalog_write, event, health, kv, maintenance, metrics, operator, own,
    session, txn, ui,
};
use crate::types::CheckStatus::{Critical, Passing, Warning};

/// How a path is answered: at once, or when something has changed.
pub(crate) enum Handler {
    /// A handler that cannot refuse.
    Always(fn(&Call<'_>) -> Response),
    Now(fn(&Call<'_>) -> Answer),
    Later(for<'a> fn(&'a Call<'a>) -> Pending<'a>),
}

/// A path, its methods as the header `Allow` lists them, and its handler.
type Path = (&'static str, &'static str, Handler);

/// The handler of a path, its methods, and the rest of the path.
pub(crate) fn find(path: &str) -> Option<(&'static Handler, &'static str, &str)> {
    PATHS.iter().find_map(|(known, allow, handler)| {
        let rest = path.strip_prefix(known)?;
        (rest.is_empty() || known.ends_with('/')).then_some((handler, *allow, rest))
    })
}

/// Whether the path is served only with a slash at its end.
pub(crate) fn lacks_slash(path: &str) -> bool {
    let is = |known: &str| known.strip_suffix('/').is_some_and(|known| known == path);
    PATHS.iter().any(|(known, ..)| is(known)) && !PATHS.iter().any(|(known, ..)| *known == path)
}

const GET: &str = "OPTIONS,GET";
const PUT: &str = "OPTIONS,PUT";
const POST: &str = "OPTIONS,POST";
const DELETE: &str = "OPTIONS,DELETE";
const GET_PUT: &str = "OPTIONS,GET,PUT";
const GET_POST: &str = "OPTIONS,GET,POST";
const GET_DELETE: &str = "OPTIONS,GET,DELETE";
const GET_PUT_DELETE: &str = "OPTIONS,GET,PUT,DELETE";
/// The one list that lacks its first word in Consul too.
const QUERY: &str = "GET,PUT,DELETE";
const GET_POST_PUT_DELETE: &str = "OPTIONS,GET,POST,PUT,DELETE";

/// A path that ends in `/` takes whatever follows as its argument, slashes included; any other is exact. The
/// first match wins, so longer paths stand above their beginnings.
static PATHS: &[Path] = &[
    ("/v1/agent/service/register", PUT, Handler::Now(agent::register_service)),
    ("/v1/agent/service/deregister/", PUT, Handler::Now(agent::deregister_service)),
    ("/v1/agent/service/maintenance/", PUT, Handler::Now(maintenance::service)),
    ("/v1/agent/services", GET, Handler::Now(agent::services)),
    ("/v1/agent/service/", GET, Handler::Later(|call| Box::pin(agent::service(call)))),
    ("/v1/agent/health/service/id/", GET, Handler::Now(agent_health::by_id)),
    ("/v1/agent/health/service/name/", GET, Handler::Now(agent_health::by_name)),
    ("/v1/agent/check/register", PUT, Handler::Now(agent::register_check)),
    ("/v1/agent/check/deregister/", PUT, Handler::Now(agent::deregister_check)),
    ("/v1/agent/check/pass/", PUT, Handler::Now(|call| agent::set_check(call, Passing))),
    ("/v1/agent/check/warn/", PUT, Handler::Now(|call| agent::set_check(call, Warning))),
    ("/v1/agent/check/fail/", PUT, Handler::Now(|call| agent::set_check(call, Critical))),
    ("/v1/agent/check/update/", PUT, Handler::Now(agent::update_check)),
    ("/v1/agent/checks", GET, Handler::Now(agent::checks)),
    ("/v1/agent/maintenance", PUT, Handler::Now(maintenance::node)),
    ("/v1/agent/self", GET, Handler::Always(own::own_self)),
    ("/v1/agent/members", GET, Handler::Now(own::members)),
    ("/v1/agent/metrics", GET, Handler::Always(metrics::metrics)),
    ("/v1/agent/host", GET, Handler::Now(own::host)),
    ("/v1/agent/monitor", GET, Handler::Now(own::monitor)),
    ("/v1/agent/reload", PUT, Handler::Always(own::reload)),
    ("/v1/agent/leave", PUT, Handler::Now(own::leave)),
    ("/v1/agent/join/", PUT, Handler::Now(own::join)),
    ("/v1/agent/force-leave/", PUT, Handler::Now(own::force_leave)),
    ("/v1/agent/token/", PUT, Handler::Now(acl::endpoint)),
    ("/v1/agent/connect/authorize", POST, Handler::Now(operator::no_connect)),
    ("/v1/agent/connect/ca/roots", GET, Handler::Now(operator::no_connect)),
    ("/v1/agent/connect/ca/leaf/", GET, Handler::Now(operator::no_connect)),
    ("/v1/catalog/register", PUT, Handler::Now(catalog_write::register)),
    ("/v1/catalog/deregister", PUT, Handler::Now(catalog_write::deregister)),
    ("/v1/catalog/datacenters", GET, Handler::Always(catalog::datacenters)),
    ("/v1/catalog/nodes", GET, Handler::Later(|call| Box::pin(catalog::nodes(call)))),
    ("/v1/catalog/services", GET, Handler::Later(|call| Box::pin(catalog::services(call)))),
    ("/v1/catalog/service/", GET, Handler::Later(|call| Box::pin(catalog::service(call)))),
    ("/v1/catalog/connect/", GET, Handler::Later(|call| Box::pin(catalog::connect(call)))),
    ("/v1/catalog/gateway-services/", GET, Handler::Later(|call| Box::pin(catalog::gateway(call)))),
    ("/v1/catalog/node/", GET, Handler::Later(|call| Box::pin(catalog::node(call)))),
    ("/v1/catalog/node-services/", GET, Handler::Later(|call| Box::pin(catalog::node_services(call)))),
    ("/v1/health/node/", GET, Handler::Later(|call| Box::pin(health::node(call)))),
    ("/v1/health/checks/", GET, Handler::Later(|call| Box::pin(health::checks(call)))),
    ("/v1/health/state/", GET, Handler::Later(|call| Box::pin(health::state(call)))),
    ("/v1/health/service/", GET, Handler::Later(|call| Box::pin(health::service(call)))),
    ("/v1/health/connect/", GET, Handler::Later(|call| Box::pin(catalog::connect(call)))),
    ("/v1/health/ingress/", GET, Handler::Later(|call| Box::pin(health::ingress(call)))),
    ("/v1/kv/", GET_PUT_DELETE, Handler::Later(|call| Box::pin(kv::answer(call)))),
    ("/v1/txn", PUT, Handler::Now(txn::run)),
    ("/v1/session/create", PUT, Handler::Now(session::create)),
    ("/v1/session/destroy/", PUT, Handler::Now(session::destroy)),
    ("/v1/session/renew/", PUT, Handler::Now(session::renew)),
    ("/v1/session/info/", GET, Handler::Later(|call| Box::pin(session::info(call)))),
    ("/v1/session/node/", GET, Handler::Later(|call| Box::pin(session::node(call)))),
    ("/v1/session/list", GET, Handler::Later(|call| Box::pin(session::list(call)))),
    ("/v1/event/fire/", PUT, Handler::Now(event::fire)),
    ("/v1/event/list", GET, Handler::Later(|call| Box::pin(event::list(call)))),
    ("/v1/status/leader", GET, Handler::Now(own::leader)),
    ("/v1/status/peers", GET, Handler::Now(own::peers)),
    ("/v1/coordinate/datacenters", GET, Handler::Always(operator::coordinate_datacenters)),
    ("/v1/coordinate/nodes", GET, Handler::Later(|call| Box::pin(operator::coordinate_nodes(call)))),
    ("/v1/coordinate/update", PUT, Handler::Now(operator::not_served)),
    ("/v1/coordinate/node/", GET, Handler::Later(|call| Box::pin(operator::coordinate_node(call)))),
    ("/v1/internal/ui/nodes", GET, Handler::Later(|call| Box::pin(ui::nodes(call)))),
    ("/v1/internal/ui/node/", GET, Handler::Later(|call| Box::pin(ui::node(call)))),
    ("/v1/internal/ui/services", GET, Handler::Later(|call| Box::pin(ui::services(call)))),
    ("/v1/operator/raft/configuration", GET, Handler::Always(operator::raft_configuration)),
    ("/v1/operator/raft/peer", DELETE, Handler::Now(operator::raft_peer)),
    ("/v1/operator/autopilot/configuration", GET_PUT, Handler::Now(operator::autopilot_configuration)),
    ("/v1/operator/autopilot/health", GET, Handler::Always(operator::autopilot_health)),
    ("/v1/operator/keyring", GET_POST_PUT_DELETE, Handler::Now(operator::keyring)),
    ("/v1/config", PUT, Handler::Now(operator::not_served)),
    ("/v1/config/", GET_DELETE, Handler::Later(|call| Box::pin(operator::config(call)))),
    ("/v1/connect/ca/roots", GET, Handler::Now(operator::no_connect)),
    ("/v1/connect/ca/configuration", GET_PUT, Handler::Now(operator::no_connect)),
    ("/v1/connect/intentions/match", GET, Handler::Now(operator::intentions_match)),
    ("/v1/connect/intentions/check", GET, Handler::Always(operator::intentions_check)),
    ("/v1/connect/intentions", GET_POST, Handler::Later(|call| Box::pin(operator::intentions(call)))),
    ("/v1/connect/intentions/", GET_PUT_DELETE, Handler::Now(operator::not_served)),
    ("/v1/discovery-chain/", GET_POST, Handler::Now(operator::not_served)),
    ("/v1/query", GET_POST, Handler::Later(|call| Box::pin(operator::queries(call)))),
    ("/v1/query/", QUERY, Handler::Now(operator::query)),
    ("/v1/snapshot", GET_PUT, Handler::Now(operator::snapshot)),
    ("/v1/acl/bootstrap", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/login", POST, Handler::Now(acl::endpoint)),
    ("/v1/acl/logout", POST, Handler::Now(acl::endpoint)),
    ("/v1/acl/replication", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/create", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/update", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/destroy/", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/clone/", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/info/", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/list", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/rules/translate", POST, Handler::Now(acl::endpoint)),
    ("/v1/acl/tokens", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/token/self", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/token", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/token/", GET_PUT_DELETE, Handler::Now(acl::endpoint)),
    ("/v1/acl/policies", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/policy", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/policy/", GET_PUT_DELETE, Handler::Now(acl::endpoint)),
    ("/v1/acl/roles", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/role", PUT, Handler::Now(acl::endpoint)),
    ("/v1/acl/role/", GET_PUT_DELETE, Handler::Now(acl::endpoint)),
    ("/v1/acl/auth-methods", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/auth-method/", GET_PUT_DELETE, Handler::Now(acl::endpoint)),
    ("/v1/acl/binding-rules", GET, Handler::Now(acl::endpoint)),
    ("/v1/acl/binding-rule/", GET_PUT_DELETE, Handler::Now(acl::endpoint)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_found_by_itself_and_not_by_a_shorter_one() {
        for (known, allow, handler) in PATHS {
            let path = if known.ends_with('/') { format!("{known}a/b") } else { (*known).to_owned() };
            let argument = if known.ends_with('/') { "a/b" } else { "" };
            let (found, methods, rest) = find(&path).unwrap();
            assert!(std::ptr::eq(found, handler), "{path}");
            assert_eq!((methods, rest), (*allow, argument), "{path}");
        }
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        for path in ["/", "/v1", "/v1/", "/v1/kv", "/v1/session", "/v1/agent/services/x", "/v2/kv/a"] {
            assert!(find(path).is_none(), "{path}");
        }
        assert!(lacks_slash("/v1/kv") && !lacks_slash("/v1/query") && !lacks_slash("/v1/agent"));
    }
}
