//! What a watch says in the log: each thing once, and not at every query.

use tracing::{debug, info, warn};

use crate::error::ClientError;
use crate::gate::Held;
use crate::settle::Key;

/// What was said last.
#[derive(Default)]
pub(super) struct Said {
    skipped: Vec<String>,
    error: Option<String>,
    held: Option<Held>,
}

impl Said {
    pub(super) fn answered(&mut self, service: &str) {
        if self.error.take().is_some() {
            info!(service, "the registry answers again");
        }
    }

    /// The sentence about the error.
    pub(super) fn error(&mut self, service: &str, error: &ClientError) -> String {
        let text = match error {
            ClientError::Denied { detail, .. } => {
                format!("Consul refuses the ACL token ({detail}); it needs {}", needed(service))
            }
            error => error.to_string(),
        };
        if self.error.as_deref() != Some(text.as_str()) {
            warn!(service, "{text}; the last known instances stay in use");
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
            None => {}
            Some(Held::Unconfirmed) => debug!(service, "no instances; waiting for a read that confirms it"),
            Some(Held::SameIndex | Held::FilteredByAcls) => warn!(
                service,
                "no instances without a change in the catalog: the ACL token lost a right; it needs {}; the last known \
                 instances stay in use",
                needed(service)
            ),
            Some(Held::Unusable) => {
                warn!(service, "no usable instance in the answer; the last known instances stay in use");
            }
        }
    }
}

/// Instances that are held up from now on.
pub(super) fn held_up<'a>(service: &str, instances: impl Iterator<Item = &'a Key>) {
    for (node, id) in instances {
        warn!(service, node, id, "the instance goes down again and again; it is held up for a while");
    }
}

/// How many are kept from now on.
pub(super) fn kept(service: &str, instances: usize) {
    if instances > 0 {
        warn!(
            service,
            instances,
            "most instances are gone at once, and the registry may be wrong; they stay in use for up to 30 s"
        );
    }
}

/// What a token must allow for this service to be seen, in the words that a policy is written in.
fn needed(service: &str) -> String {
    format!("`service \"{service}\" {{ policy = \"read\" }}` and `node_prefix \"\" {{ policy = \"read\" }}`")
}

/// A thousand broken instances are not a thousand lines.
const SKIPPED_LOGGED_MAX: usize = 10;
