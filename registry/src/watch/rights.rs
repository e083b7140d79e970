//! Whether an empty answer means that the service has no instance, or that the ACL token may not see its instances.
//!
//! Consul leaves out what a token may not see, with status 200 and, up to 1.10, without a sign. So an empty answer is compared
//! with answers that need other rights: the list of services shows a service without the right to read its nodes, and a
//! further call (since 1.7) reports the rights of a token.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::client::{Client, ClientError, Consistency, QueryOptions, WRITE_DEADLINE};
use crate::watch::options::WatchTarget;

/// What other answers show about a service whose instances are missing from an answer (see [`Client::sight`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The service has no instances, as far as the token can see.
    Clear,
    /// The service has instances by now.
    Shown,
    /// The service is in the list of services, and its instances are not shown.
    NodesHidden,
    /// The token may not read the service.
    ServiceHidden,
}

impl Sight {
    /// A sentence that names the rights which the token lacks; `None` if it lacks none.
    pub fn missing_rights(self, service: &str) -> Option<String> {
        match self {
            Self::Clear | Self::Shown => None,
            Self::NodesHidden => Some(format!(
                "Consul shows service `{service}` but none of its instances: the ACL token lacks `node:read` \
                 (`node_prefix \"\" {{ policy = \"read\" }}`)"
            )),
            Self::ServiceHidden => Some(format!(
                "Consul does not show service `{service}`: the ACL token lacks `service:read` on it \
                 (`service \"{service}\" {{ policy = \"read\" }}` and `node_prefix \"\" {{ policy = \"read\" }}`)"
            )),
        }
    }
}

/// Whether a service that is not in the list is hidden. A filtered list may lack other services, so the right on this service
/// decides, if Consul reports it.
fn is_hidden(list_is_filtered: bool, may_read: Option<bool>) -> bool {
    may_read.map_or(list_is_filtered, |may_read| !may_read)
}

/// One element of the answer to `/v1/internal/acl/authorize`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Authorized {
    allow: bool,
}

impl Client {
    /// Finds out whether an empty answer about this service is true, by up to three reads from the leader.
    pub async fn sight(&self, target: &WatchTarget) -> Result<Sight, ClientError> {
        let options = QueryOptions {
            consistency: Consistency::Leader,
            datacenter: target.datacenter.clone(),
            namespace: target.namespace.clone(),
            partition: target.partition.clone(),
            ..QueryOptions::default()
        };
        let catalog = self.catalog_read(&options).await?;
        // Consul compares names without case.
        if catalog.services.keys().any(|name| name.eq_ignore_ascii_case(&target.service)) {
            // Read after the list, so that an instance that came in between does not raise suspicion. Unhealthy instances are
            // included, because the target may leave them out.
            let answer = self.health_service(&target.service, &options).await?;
            let is_empty = answer.entries.is_empty() && answer.skipped.is_empty();
            return Ok(match (is_empty, target.only_passing) {
                (true, _) => Sight::NodesHidden,
                (false, true) => Sight::Clear,
                (false, false) => Sight::Shown,
            });
        }
        let may_read = self.may_read(&target.service, &options).await?;
        Ok(if is_hidden(catalog.filtered_by_acls, may_read) { Sight::ServiceHidden } else { Sight::Clear })
    }

    /// Whether the token may read this service; `None` if Consul does not report it, because ACLs are off or the call is missing.
    async fn may_read(&self, service: &str, options: &QueryOptions) -> Result<Option<bool>, ClientError> {
        let question = json!([{"Resource": "service", "Access": "read", "Segment": service}]);
        let datacenter = QueryOptions { datacenter: options.datacenter.clone(), ..QueryOptions::default() };
        let datacenter = QueryOptions { consistency: Consistency::Leader, ..datacenter };
        let path = format!("/v1/internal/acl/authorize{}", self.query(&datacenter));
        let answer = self.call(Method::POST, path, question.to_string().into(), WRITE_DEADLINE).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.may_pass() => return Err(error),
            Err(_) => return Ok(None),
        };
        let rights: Vec<Authorized> = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(if let [Authorized { allow }] = rights.as_slice() { Some(*allow) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_the_token_may_read_and_that_is_not_there_is_not_hidden() {
        assert!(!is_hidden(true, Some(true)), "the token is for this service alone");
        assert!(is_hidden(false, Some(false)) && is_hidden(true, Some(false)));
        assert!(is_hidden(true, None) && !is_hidden(false, None));
    }

    #[test]
    fn what_is_hidden_is_said_with_the_policy_that_shows_it() {
        let missing = |sight: Sight| sight.missing_rights("web");
        assert_eq!((missing(Sight::Clear), missing(Sight::Shown)), (None, None));
        assert!(missing(Sight::NodesHidden).unwrap().contains("lacks `node:read` (`node_prefix \"\""));
        assert!(missing(Sight::ServiceHidden).unwrap().contains("`service \"web\" { policy = \"read\" }`"));
    }
}
