//! What the instances of a service mean for its declarations: a route is of no use to clients while no instance of its service can
//! serve, so it gives way to the same route of a service that has one; and what stands beside instances declares nothing.

use std::collections::BTreeMap;

/// How a service stands, by its instances in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// The registry has not answered.
    #[default]
    Unknown,
    /// An instance can serve.
    Serves,
    /// None can be.
    Idle,
    /// All of its instances are of a kind that stands beside or in front of others. Consul copies the tags of a service to its
    /// proxy.
    Side,
}

/// By service of the registry; a missing one is unknown.
pub type Standings = BTreeMap<String, Standing>;

/// In which order declarations get what they ask for, the first in front. A route that is there stays there, unless its
/// service is known to have no instance for it and another's has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    Incumbent,
    Serving,
    IdleIncumbent,
    New,
}

impl Claim {
    pub fn of(standing: Standing, is_incumbent: bool) -> Self {
        match (standing, is_incumbent) {
            (Standing::Idle | Standing::Side, true) => Self::IdleIncumbent,
            (_, true) => Self::Incumbent,
            (Standing::Serves, false) => Self::Serving,
            (_, false) => Self::New,
        }
    }
}
