//! The fields that an expression may name, for each kind of list.

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    Boolean,
    List(&'static Kind),
    /// A map with any keys.
    Map(&'static Kind),
    Fields(&'static [(&'static str, Kind)]),
}

impl Kind {
    /// The type at the end of a selector; the error is the selector up to the name that is not there.
    pub(super) fn follow(self, selector: &[String]) -> Result<Self, String> {
        let mut kind = self;
        for (at, name) in selector.iter().enumerate() {
            let inner = match kind {
                // A selector passes through a list to its elements.
                Self::List(element) => *element,
                kind => kind,
            };
            let found = match inner {
                Self::Map(value) => Some(*value),
                Self::Fields(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, kind)| *kind),
                _ => None,
            };
            kind = found.ok_or_else(|| selector[..=at].join("."))?;
        }
        Ok(kind)
    }
}

const TEXT: &Kind = &Kind::Text;
const TEXTS: Kind = Kind::List(TEXT);
const TEXT_MAP: Kind = Kind::Map(TEXT);

const WEIGHTS: Kind = Kind::Fields(&[("Passing", Kind::Integer), ("Warning", Kind::Integer)]);
const ADDRESS: Kind = Kind::Fields(&[("Address", Kind::Text), ("Port", Kind::Integer)]);
const ADDRESSES: Kind = Kind::Map(&ADDRESS);
const CONNECT: Kind = Kind::Fields(&[("Native", Kind::Boolean)]);
const MESH_GATEWAY: Kind = Kind::Fields(&[("Mode", Kind::Text)]);
const EXPOSE_PATH: Kind = Kind::Fields(&[
    ("ListenerPort", Kind::Integer),
    ("Path", Kind::Text),
    ("LocalPathPort", Kind::Integer),
    ("Protocol", Kind::Text),
    ("ParsedFromCheck", Kind::Boolean),
]);
const EXPOSE: Kind = Kind::Fields(&[("Checks", Kind::Boolean), ("Paths", Kind::List(&EXPOSE_PATH))]);
const UPSTREAM: Kind = Kind::Fields(&[
    ("DestinationType", Kind::Text),
    ("DestinationNamespace", Kind::Text),
    ("DestinationName", Kind::Text),
    ("Datacenter", Kind::Text),
    ("LocalBindAddress", Kind::Text),
    ("LocalBindPort", Kind::Integer),
    ("MeshGateway", MESH_GATEWAY),
]);
const PROXY: Kind = Kind::Fields(&[
    ("DestinationServiceName", Kind::Text),
    ("DestinationServiceID", Kind::Text),
    ("LocalServiceAddress", Kind::Text),
    ("LocalServicePort", Kind::Integer),
    ("Upstreams", Kind::List(&UPSTREAM)),
    ("MeshGateway", MESH_GATEWAY),
    ("Expose", EXPOSE),
]);

/// `catalog/nodes`.
pub(crate) const NODE: Kind = Kind::Fields(&[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("TaggedAddresses", TEXT_MAP),
    ("Meta", TEXT_MAP),
]);

/// `agent/services` and the services of a node.
pub(crate) const SERVICE: Kind = Kind::Fields(&[
    ("Kind", Kind::Text),
    ("ID", Kind::Text),
    ("Service", Kind::Text),
    ("Tags", TEXTS),
    ("Address", Kind::Text),
    ("TaggedAddresses", ADDRESSES),
    ("Meta", TEXT_MAP),
    ("Port", Kind::Integer),
    ("Weights", WEIGHTS),
    ("EnableTagOverride", Kind::Boolean),
    ("Proxy", PROXY),
    ("Connect", CONNECT),
]);

/// Every list of checks.
pub(crate) const CHECK: Kind = Kind::Fields(&[
    ("Node", Kind::Text),
    ("CheckID", Kind::Text),
    ("Name", Kind::Text),
    ("Status", Kind::Text),
    ("Notes", Kind::Text),
    ("Output", Kind::Text),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceTags", TEXTS),
    ("Type", Kind::Text),
]);

/// `health/service`.
pub(crate) const HEALTH_SERVICE: Kind =
    Kind::Fields(&[("Node", NODE), ("Service", SERVICE), ("Checks", Kind::List(&CHECK))]);

/// `catalog/service`.
pub(crate) const CATALOG_SERVICE: Kind = Kind::Fields(&[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("TaggedAddresses", TEXT_MAP),
    ("NodeMeta", TEXT_MAP),
    ("ServiceKind", Kind::Text),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceTags", TEXTS),
    ("ServiceAddress", Kind::Text),
    ("ServiceTaggedAddresses", ADDRESSES),
    ("ServiceWeights", WEIGHTS),
    ("ServiceMeta", TEXT_MAP),
    ("ServicePort", Kind::Integer),
    ("ServiceEnableTagOverride", Kind::Boolean),
    ("ServiceProxy", PROXY),
    ("ServiceConnect", CONNECT),
]);
