//! The standing of a service that declares routes, by its instances. A route is useless to clients while no instance of its
//! service can serve, so it gives way to the same route of a service that has one. Proxies beside other instances cannot declare
//! routes.

use std::collections::BTreeMap;

/// The standing of a service, by its instances in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// The registry has not responded.
    #[default]
    Unknown,
    /// An instance can serve.
    Serves,
    /// The registry has responded, and no instance can serve.
    Idle,
    /// All instances are proxies beside other instances, or gateways. Consul copies the tags of a service to its proxy.
    Side,
}

/// Standings by service of the registry; a missing one is unknown.
pub type Standings = BTreeMap<String, Standing>;

/// The order in which declarations get their route: earlier variants first. A route in the table stays there, unless its
/// service is known to have no instance that can serve and another service has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    Incumbent,
    Serving,
    IdleIncumbent,
    New,
}

impl Claim {
    /// The claim of a service with this standing. `is_incumbent`: its route is in the table already.
    pub fn of(standing: Standing, is_incumbent: bool) -> Self {
        match (standing, is_incumbent) {
            (Standing::Idle | Standing::Side, true) => Self::IdleIncumbent,
            (_, true) => Self::Incumbent,
            (Standing::Serves, false) => Self::Serving,
            (_, false) => Self::New,
        }
    }
}
