//! Nodes, services and checks as the store keeps them: the definition as registered, and its state.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::store::alias::Alias;
use crate::store::probe::{ProbeDefinition, Target};
use crate::types::CheckStatus;

/// A node as its registration describes it. `None` and an empty map are different answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct NodeDefinition {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) tagged_addresses: Option<BTreeMap<String, String>>,
    pub(crate) meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) definition: NodeDefinition,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// A service as its registration describes it, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ServiceDefinition {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) address: String,
    pub(crate) tagged_addresses: BTreeMap<String, AddressDefinition>,
    pub(crate) meta: BTreeMap<String, String>,
    /// Any integer: Consul stores −1 and 99999 too, and readers must cope with them.
    pub(crate) port: i64,
    pub(crate) weight_passing: i64,
    pub(crate) weight_warning: i64,
    pub(crate) enable_tag_override: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressDefinition {
    pub(crate) address: String,
    pub(crate) port: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    /// The name of the node at which it is registered.
    pub(crate) node: String,
    pub(crate) definition: ServiceDefinition,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// A check as its registration describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckDefinition {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) notes: String,
    /// The service of the check; empty for a check of the node.
    pub(crate) service_id: String,
    pub(crate) kind: CheckKind,
    pub(crate) initial_status: Option<CheckStatus>,
    pub(crate) initial_output: String,
    pub(crate) deregister_after: Option<Duration>,
}

impl CheckDefinition {
    /// A check of the node, with defaults for all other fields.
    pub(crate) fn new(id: impl Into<String>, name: impl Into<String>, kind: CheckKind) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            notes: String::new(),
            service_id: String::new(),
            kind,
            initial_status: None,
            initial_output: String::new(),
            deregister_after: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CheckKind {
    /// The registry's own check: `serfHealth`.
    Node,
    Ttl(Duration),
    Probe(ProbeDefinition),
    Alias(Alias),
    /// Made by maintenance mode; it is always critical.
    Maintenance,
    /// Registered with the catalog: another program makes it and reports its status.
    External {
        kind: Cow<'static, str>,
        /// How the check is made, in the form of answers.
        definition: Map<String, Value>,
    },
}

impl CheckKind {
    /// Consul's word in the field `Type`.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Node => "",
            Self::Ttl(_) => "ttl",
            Self::Probe(probe) => match probe.target {
                Target::Http { .. } => "http",
                Target::Tcp { .. } => "tcp",
                Target::Grpc { .. } => "grpc",
            },
            Self::Alias(_) => "alias",
            Self::Maintenance => "maintenance",
            Self::External { kind, .. } => kind,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CheckRecord {
    /// The name of the node at which it is registered.
    pub(crate) node: String,
    pub(crate) definition: CheckDefinition,
    pub(crate) status: CheckStatus,
    pub(crate) output: String,
    /// When a TTL check turns critical without a heartbeat; `None` once it did.
    #[serde(skip)]
    pub(crate) expires_at: Option<Instant>,
    /// The time of the first critical result. A registration, also a repeated one, is not a result.
    #[serde(skip)]
    pub(crate) critical_since: Option<Instant>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}
