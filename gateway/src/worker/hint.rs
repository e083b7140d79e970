//! Hints: what a worker reports to the control plane without a request for it.

use std::sync::Arc;

/// A hint. It may be lost when the control plane is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// An endpoint was ejected or came back, or a breaker opened or closed. The admin listener lists these as
    /// events.
    Health { kind: &'static str, text: String },
}

/// Takes the hints of workers. A call does not wait.
pub type Hints = Arc<dyn Fn(Hint) + Send + Sync>;
