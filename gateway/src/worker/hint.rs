//! What a worker reports to the control plane of its own accord.

use std::sync::Arc;

/// A hint. It may be lost when the control plane is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// An endpoint was ejected or came back, or a breaker opened or closed: for the list of events.
    Health { kind: &'static str, text: String },
}

/// Takes the hints of workers. It does not wait.
pub type Hints = Arc<dyn Fn(Hint) + Send + Sync>;
