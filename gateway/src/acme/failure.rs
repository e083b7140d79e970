//! Why an order failed, as a metric, a log line and the time of the next attempt need it.

use std::time::Duration;

use millgate_registry::HttpError;
use serde::{Deserialize, Serialize};

use super::client::ErrorStatus;
use crate::printable::printable;

/// An order that failed.
#[derive(Debug, Clone)]
pub(super) struct OrderFailure {
    pub(super) kind: FailureKind,
    /// One sentence, printable and short.
    pub(super) text: String,
    /// The authority's own word about when to come again.
    pub(super) retry_after: Option<Duration>,
    /// The authority does not know the account any more.
    pub(super) lost_account: bool,
}

/// The kinds of failures; their names are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FailureKind {
    /// There was no answer, or one that says that the authority has a failure of its own.
    Unreachable,
    /// The authority has a limit for this gateway.
    RateLimited,
    /// The authority refused: mostly because it could not verify a host.
    Refused,
    /// The answer is not what the protocol says, or the certificate is not the one that was asked for.
    Unusable,
    /// The storage failed, or its lock was lost.
    Storage,
}

impl FailureKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
            Self::Storage => "storage",
        }
    }
}

impl OrderFailure {
    pub(super) fn new(kind: FailureKind, text: &str) -> Self {
        let text = printable(text);
        let text = text.chars().take(TEXT_CHARS_MAX).collect();
        Self { kind, text, retry_after: None, lost_account: false }
    }

    pub(super) fn storage(text: &str) -> Self {
        Self::new(FailureKind::Storage, text)
    }
}

impl From<instant_acme::Error> for OrderFailure {
    fn from(error: instant_acme::Error) -> Self {
        use instant_acme::Error as E;
        let text = error.to_string();
        match error {
            E::Api(problem) => {
                let word =
                    problem.r#type.as_deref().and_then(|word| word.strip_prefix(ERRORS)).unwrap_or_default();
                let kind = match word {
                    "rateLimited" => FailureKind::RateLimited,
                    "serverInternal" => FailureKind::Unreachable,
                    _ if problem.status.is_some_and(|status| status >= 500) => FailureKind::Unreachable,
                    _ => FailureKind::Refused,
                };
                Self { lost_account: word == "accountDoesNotExist", ..Self::new(kind, &text) }
            }
            E::Timeout(next) => {
                let left = next.map(|next| next.saturating_duration_since(crate::clock::now()));
                Self { retry_after: left, ..Self::new(FailureKind::Unreachable, &text) }
            }
            E::Other(cause) if cause.is::<ErrorStatus>() => {
                let status =
                    cause.downcast_ref().map(|answered: &ErrorStatus| answered.status).unwrap_or_default();
                let kind = match status.as_u16() {
                    429 => FailureKind::RateLimited,
                    500.. => FailureKind::Unreachable,
                    _ => FailureKind::Refused,
                };
                Self::new(kind, &text)
            }
            E::Other(cause) if cause.is::<HttpError>() => {
                let is_too_large = matches!(cause.downcast_ref(), Some(HttpError::BodyTooLarge { .. }));
                Self::new(if is_too_large { FailureKind::Unusable } else { FailureKind::Unreachable }, &text)
            }
            _ => Self::new(FailureKind::Unusable, &text),
        }
    }
}

/// RFC 8555 §6.7.
const ERRORS: &str = "urn:ietf:params:acme:error:";
/// An authority's explanation with the names of some hosts.
const TEXT_CHARS_MAX: usize = 600;
