//! What a watch logs: each message once, and not at every query.

use tracing::{debug, info, warn};

use crate::client::ClientError;
use crate::watch::gate::Held;
use crate::watch::instance::Key;

/// What was logged last.
#[derive(Default)]
pub(super) struct Logged {
    skipped: Vec<String>,
    error: Option<String>,
    held: Option<Held>,
    rights: Option<String>,
}

impl Logged {
    pub(super) fn answered(&mut self, service: &str) {
        if self.error.take().is_some() {
            info!(service, "the registry answers again");
        }
    }

    /// Logs an error and returns its sentence. `known` if instances are in use, or it is known that the service has none.
    pub(super) fn error(&mut self, service: &str, error: &ClientError, known: bool) -> String {
        let text = match error {
            // A token that does not exist needs to be replaced; a policy would not help.
            ClientError::Denied { detail, .. } if detail.contains(TOKEN_UNKNOWN) => format!(
                "Consul does not know the ACL token ({detail}): it was deleted, has expired, or is another \
                 cluster's; a new token is needed, with {}",
                needed(service)
            ),
            ClientError::Denied { detail, .. } => {
                format!("Consul refuses the ACL token ({detail}); it needs {}", needed(service))
            }
            error => error.to_string(),
        };
        if self.error.as_deref() != Some(text.as_str()) {
            let rest =
                if known { "the last known instances stay in use" } else { "none of its instances is known" };
            warn!(service, "{text}; {rest}");
            self.error = Some(text.clone());
        }
        text
    }

    pub(super) fn skipped(&mut self, service: &str, skipped: Vec<String>) {
        if self.skipped != skipped {
            for reason in skipped.iter().take(SKIPPED_LOGGED_MAX) {
                warn!(service, "left out: {reason}");
            }
            self.skipped = skipped;
        }
    }

    pub(super) fn held(&mut self, service: &str, held: Option<Held>) {
        if std::mem::replace(&mut self.held, held) == held {
            return;
        }
        match held {
            // These are logged with the right that is missing.
            None | Some(Held::Hidden | Held::SameIndex | Held::FilteredByAcls) => {}
            Some(Held::Unconfirmed) => debug!(service, "no instances; waiting for a read that confirms it"),
            Some(Held::Unusable) => {
                warn!(service, "no usable instance in the answer; the last known instances stay in use");
            }
        }
    }

    pub(super) fn has_logged(&self, missing: Option<&str>) -> bool {
        self.rights.as_deref() == missing
    }

    /// Logs the rights that the token lacks, or that it lacks none. `known` if instances are in use.
    pub(super) fn rights(&mut self, service: &str, missing: Option<&str>, known: bool) {
        match missing {
            Some(missing) if known => warn!(service, "{missing}; the last known instances stay in use"),
            Some(missing) => warn!(service, "{missing}"),
            None => info!(service, "the ACL token shows the service again"),
        }
        self.rights = missing.map(str::to_owned);
    }
}

/// The sentence about an empty answer that Consul marks as filtered.
pub(super) fn filtered(service: &str) -> String {
    format!("Consul leaves out instances that the ACL token may not see; it needs {}", needed(service))
}

/// The sentence about an empty answer at an index that did not change.
pub(super) fn lost_right(service: &str) -> String {
    format!(
        "no instances without a change in the catalog: the ACL token lost a right; it needs {}",
        needed(service)
    )
}

/// Logs instances that are held up from now on.
pub(super) fn held_up<'a>(service: &str, instances: impl Iterator<Item = &'a Key>) {
    for (node, id) in instances {
        warn!(service, node, id, "the instance goes down again and again; it is held up for a while");
    }
}

/// Logs how many instances are kept from now on.
pub(super) fn kept(service: &str, instances: usize) {
    if instances > 0 {
        warn!(
            service,
            instances,
            "these instances are gone at once, and the registry may be wrong; they stay in use for a while"
        );
    }
}

/// The policy with which a token may see this service.
fn needed(service: &str) -> String {
    format!("`service \"{service}\" {{ policy = \"read\" }}` and `node_prefix \"\" {{ policy = \"read\" }}`")
}

/// Consul's answer to a token that it does not know.
const TOKEN_UNKNOWN: &str = "ACL not found";
/// Limits the lines of one answer with many broken instances.
const SKIPPED_LOGGED_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_token_needs_a_new_one_and_a_denied_token_needs_a_policy() {
        let logged = |detail: &str| {
            let (call, detail) = ("GET /v1/health/service/web".to_owned(), detail.to_owned());
            Logged::default().error("web", &ClientError::Denied { call, detail }, false)
        };
        let unknown = logged("ACL not found");
        assert!(unknown.contains("a new token is needed, with `service \"web\""), "{unknown}");
        let denied = logged("Permission denied");
        assert!(
            denied.contains(
                "refuses the ACL token (Permission denied); it needs `service \"web\" { policy = \"read\" }`"
            ),
            "{denied}"
        );
    }
}
