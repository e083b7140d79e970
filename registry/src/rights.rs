//! Whether an empty answer means that there is no instance, or that the ACL token may not see what there is.
//!
//! Consul leaves out what a token may not see, with status 200 and, up to 1.10, without a word. So an empty answer is
//! checked against others that need other rights: the list of services shows a service without the right to read its
//! nodes, and Consul itself says which rights a token has, where it has that call (since 1.7).

use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::client::{Client, WRITE_DEADLINE};
use crate::error::ClientError;
use crate::types::{Consistency, QueryOptions};
use crate::watch::WatchTarget;

/// What other answers say of a service that is shown without an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Nothing speaks against it.
    Clear,
    /// There are instances by now.
    Shown,
    /// It is in the list of services, and its instances are not shown.
    NodesHidden,
    /// The token may not read the service.
    ServiceHidden,
}

impl Sight {
    /// One sentence for people, with what the token needs; `None`: it hides nothing.
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

/// Is a service hidden that is not in the list? What was left out of the list may be others, so the word about this one
/// decides, where there is one.
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
    /// Looks for what an empty answer about this service may have left out. Each read is the leader's.
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
            // Read after the list, so that an instance that came in between is no reason for suspicion. Whatever their
            // health: instances may be left out for that as well.
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

    /// May the token read this service? `None`: without ACLs, or without this call, Consul says nothing.
    async fn may_read(&self, service: &str, options: &QueryOptions) -> Result<Option<bool>, ClientError> {
        let asked = json!([{"Resource": "service", "Access": "read", "Segment": service}]);
        let datacenter = QueryOptions { datacenter: options.datacenter.clone(), ..QueryOptions::default() };
        let datacenter = QueryOptions { consistency: Consistency::Leader, ..datacenter };
        let path = format!("/v1/internal/acl/authorize{}", self.query(&datacenter));
        let answer = self.call(Method::POST, path, asked.to_string().into(), WRITE_DEADLINE).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.may_pass() => return Err(error),
            Err(_) => return Ok(None),
        };
        let said: Vec<Authorized> = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(if let [Authorized { allow }] = said.as_slice() { Some(*allow) } else { None })
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
        let said = |sight: Sight| sight.missing_rights("web");
        assert_eq!((said(Sight::Clear), said(Sight::Shown)), (None, None));
        assert!(said(Sight::NodesHidden).unwrap().contains("lacks `node:read` (`node_prefix \"\""));
        assert!(said(Sight::ServiceHidden).unwrap().contains("`service \"web\" { policy = \"read\" }`"));
    }
}
