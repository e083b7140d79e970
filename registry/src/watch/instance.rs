//! One registered instance as the gateway sees it: made from Consul's node, service and checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Check, Node, Service, ServiceEntry, shown};

/// The health of an instance: the worst status of its checks and its node's checks; maintenance takes precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All checks pass.
    Passing,
    /// A check warns, and none fails.
    Warning,
    /// A check fails.
    Critical,
    /// A person put the instance or its node into maintenance.
    Maintenance,
}

/// Another address of an instance, for networks that cannot use the ordinary one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaggedAddress {
    /// An IP address without brackets, or a host name.
    pub address: String,
    /// The port.
    pub port: u16,
}

/// One instance of a service.
///
/// Its identity is (datacenter, node, id), because Consul's service ids are unique only per node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// The datacenter; empty if the registry names none, and in files of older versions.
    #[serde(default)]
    pub datacenter: String,
    /// The name of the node on which the instance runs.
    pub node: String,
    /// The id, which is unique on the node.
    pub id: String,
    /// An IP address without brackets, or a host name that still has to be resolved.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Further addresses by name: `lan`, `wan`, `lan_ipv4`, … See [`Instance::reached_by`].
    #[serde(default)]
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// The share of requests, relative to the other instances: Consul's weight for the present status.
    pub weight: u32,
    /// The health of the instance.
    pub status: Status,
    /// The tags.
    pub tags: Vec<String>,
    /// The metadata.
    pub meta: BTreeMap<String, String>,
}

impl Instance {
    /// `true` if the instance may get requests: it passes, or warns with a weight above 0.
    pub fn is_routable(&self) -> bool {
        match self.status {
            Status::Passing => true,
            Status::Warning => self.weight > 0,
            Status::Critical | Status::Maintenance => false,
        }
    }

    /// The identity of the instance: datacenter, node, id.
    pub fn identity(&self) -> (&str, &str, &str) {
        (&self.datacenter, &self.node, &self.id)
    }

    /// Whether the instance has this tag. ASCII case is ignored, as Consul's own look-ups do.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
    }

    /// The address and port with this name among the tagged addresses; the ordinary ones if there is none.
    pub fn reached_by(&self, tagged: Option<&str>) -> (&str, u16) {
        match tagged.and_then(|name| self.tagged_addresses.get(name)) {
            Some(other) => (&other.address, other.port),
            None => (&self.address, self.port),
        }
    }

    /// As [`Instance::read`], of an entry that is not needed afterwards.
    pub(crate) fn from_entry(entry: ServiceEntry) -> Result<Self, String> {
        let ServiceEntry { node, service, checks } = entry;
        let name = format!("instance `{}` on node `{}`", shown(&service.id), shown(&node.node));
        for (what, text, bytes_max) in [
            ("id", &service.id, NAME_BYTES_MAX),
            ("node's name", &node.node, NAME_BYTES_MAX),
            ("address", &service.address, ADDRESS_BYTES_MAX),
            ("node's address", &node.address, ADDRESS_BYTES_MAX),
        ] {
            if text.len() > bytes_max {
                return Err(format!("{name}: its {what} has more than {bytes_max} bytes"));
            }
        }
        if service.id.is_empty() {
            return Err(format!("{name}: it has no id"));
        }
        if is_side_kind(&service.kind) {
            return Err(format!("{name}: it is of the kind `{}`", shown(&service.kind)));
        }
        if !service.socket_path.is_empty() {
            return Err(format!("{name}: it listens on the Unix socket `{}`", shown(&service.socket_path)));
        }
        let port = port(service.port)
            .ok_or_else(|| format!("{name}: port {} is not within 1 to 65535", service.port))?;
        let tagged_addresses = tagged_addresses(&node, &service, port);
        // An empty service address means the node's.
        let address = if service.address.is_empty() { node.address } else { service.address };
        if address.is_empty() {
            return Err(format!("{name}: neither it nor its node has an address"));
        }
        let status = aggregate(&checks);
        let weights = service.weights.unwrap_or_default();
        let weight = match status {
            Status::Warning => weights.warning.clamp(0, WEIGHT_MAX),
            _ => weights.passing.clamp(1, WEIGHT_MAX),
        };
        Ok(Self {
            datacenter: node.datacenter,
            node: node.node,
            id: service.id,
            address,
            port,
            tagged_addresses,
            weight: u32::try_from(weight).unwrap_or(1),
            status,
            tags: service.tags,
            meta: service.meta,
        })
    }
}

/// The tagged addresses of a service. A service without an address of its own is at its node's address, so the node's tagged
/// addresses count as well. Consul does the same: an address of the service is never replaced by one of its node.
fn tagged_addresses(node: &Node, service: &Service, port_own: u16) -> BTreeMap<String, TaggedAddress> {
    let of_node = node.tagged_addresses.iter().filter(|_| service.address.is_empty());
    let of_node = of_node.map(|(name, address)| (name, address, None));
    let own = service.tagged_addresses.iter().map(|(name, at)| (name, &at.address, port(at.port)));
    // The later one of a name stays.
    of_node
        .chain(own)
        .filter(|(_, address, _)| !address.is_empty())
        .map(|(name, address, port)| {
            let at = TaggedAddress { address: address.clone(), port: port.unwrap_or(port_own) };
            (name.clone(), at)
        })
        .collect()
}

/// A port that can be connected to.
fn port(port: i64) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// For tools that show every entry, whether it can be used or not.
impl Instance {
    /// Makes an instance of one entry of Consul's answer. The error is a sentence that explains why the entry cannot get
    /// requests.
    pub fn read(entry: &ServiceEntry) -> Result<Self, String> {
        Self::from_entry(entry.clone())
    }

    /// The status of an entry, whether the entry can be used or not.
    pub fn status_of(entry: &ServiceEntry) -> Status {
        aggregate(&entry.checks)
    }
}

/// Node and id, which identify an instance within a watch: a watch follows one service in one datacenter.
pub(crate) type Key = (String, String);

pub(crate) fn key(instance: &Instance) -> Key {
    (instance.node.clone(), instance.id.clone())
}

pub(crate) fn by_key(instances: &[Instance]) -> BTreeMap<Key, &Instance> {
    instances.iter().map(|instance| (key(instance), instance)).collect()
}

/// Whether a service of this kind stands beside or in front of instances, and is not an instance itself.
pub(crate) fn is_side_kind(kind: &str) -> bool {
    SIDE_KINDS.contains(&kind)
}

/// Checks of the node count as well: an instance on a node that Consul lost is not healthy.
fn aggregate(checks: &[Check]) -> Status {
    let mut worst = Status::Passing;
    for check in checks {
        if check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:") {
            return Status::Maintenance;
        }
        worst = match (check.status.as_str(), worst) {
            ("warning", Status::Passing) => Status::Warning,
            ("passing" | "warning", worst) => worst,
            // An unknown word does not permit requests.
            _ => Status::Critical,
        };
    }
    worst
}

/// Kinds of services that stand beside or in front of instances and are not instances themselves.
const SIDE_KINDS: [&str; 5] =
    ["connect-proxy", "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway"];

/// Names are kept long after an instance is gone, for example in its history, so their length bounds memory.
const NAME_BYTES_MAX: usize = 1024;
/// A name in DNS has at most 253.
const ADDRESS_BYTES_MAX: usize = 255;
/// Consul's own limit of a weight.
const WEIGHT_MAX: i64 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> ServiceEntry {
        serde_json::from_str(json).unwrap()
    }

    fn status_of(checks: &str) -> Status {
        let json =
            format!(r#"{{"Node":{{"Address":"n"}},"Service":{{"ID":"a","Port":1}},"Checks":{checks}}}"#);
        Instance::from_entry(entry(&json)).unwrap().status
    }

    #[test]
    fn the_worst_check_decides_and_maintenance_stands_above() {
        for (checks, status) in [
            ("[]", Status::Passing),
            (r#"[{"Status":"passing"},{"Status":"warning"}]"#, Status::Warning),
            (r#"[{"Status":"critical"},{"Status":"warning"}]"#, Status::Critical),
            (r#"[{"Status":"bogus"}]"#, Status::Critical),
            (r#"[{"Status":"passing","CheckID":"_service_maintenance:a"}]"#, Status::Maintenance),
            (r#"[{"Status":"critical","CheckID":"_node_maintenance"}]"#, Status::Maintenance),
        ] {
            assert_eq!(status_of(checks), status, "{checks}");
        }
    }

    #[test]
    fn a_port_that_no_socket_has_is_named() {
        for port in ["0", "-1", "65536", "99999"] {
            let json = format!(r#"{{"Node":{{"Address":"n"}},"Service":{{"ID":"a","Port":{port}}}}}"#);
            let why = Instance::from_entry(entry(&json)).unwrap_err();
            assert!(why.contains(port), "{why}");
        }
    }

    #[test]
    fn names_that_nobody_means_are_no_instance_and_do_not_fill_the_log() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for json in [
            format!(r#"{{"Node":{{"Node":"n1","Address":"n"}},"Service":{{"ID":"{long}","Port":80}}}}"#),
            format!(r#"{{"Node":{{"Node":"{long}","Address":"n"}},"Service":{{"ID":"a","Port":80}}}}"#),
            format!(r#"{{"Node":{{"Node":"n1"}},"Service":{{"ID":"a","Address":"{long}","Port":80}}}}"#),
            format!(r#"{{"Node":{{"Node":"n1","Address":"{long}"}},"Service":{{"ID":"a","Port":80}}}}"#),
        ] {
            let why = Instance::from_entry(entry(&json)).unwrap_err();
            assert!(why.contains("has more than") && why.len() < 600, "{why}");
        }
        let forged = r#"{"Node":{"Node":"n1"},"Service":{"ID":"a\nERROR the key is 42","Port":0}}"#;
        let why = Instance::from_entry(entry(forged)).unwrap_err();
        assert!(!why.contains('\n'), "{why}");
    }

    #[test]
    fn an_empty_service_address_falls_back_to_the_node() {
        let json =
            r#"{"Node":{"Node":"n1","Address":"10.0.0.9"},"Service":{"ID":"a","Port":80,"Address":""}}"#;
        assert_eq!(Instance::from_entry(entry(json)).unwrap().address, "10.0.0.9");
    }

    #[test]
    fn a_tagged_address_is_the_services_own_or_its_nodes_where_it_has_no_address() {
        let json = r#"{"Node":{"Address":"10.0.0.9","TaggedAddresses":{"lan":"10.0.0.9","wan":"198.51.100.9"}},
            "Service":{"ID":"a","Port":80,"Address":"","TaggedAddresses":
            {"wan":{"Address":"198.51.100.1","Port":8080},"lan_ipv6":{"Address":"2001:db8::1","Port":0},"x":{}}}}"#;
        let own = Instance::from_entry(entry(&json.replace(r#""Address":"","#, r#""Address":"10.0.0.5","#)));
        let (own, of_node) = (own.unwrap(), Instance::from_entry(entry(json)).unwrap());
        for (instance, name, at) in [
            (&own, Some("wan"), ("198.51.100.1", 8080)),
            (&own, Some("lan"), ("10.0.0.5", 80)),
            (&own, Some("lan_ipv6"), ("2001:db8::1", 80)),
            (&own, Some("x"), ("10.0.0.5", 80)),
            (&own, None, ("10.0.0.5", 80)),
            (&of_node, Some("wan"), ("198.51.100.1", 8080)),
            (&of_node, Some("lan"), ("10.0.0.9", 80)),
            (&of_node, Some("unheard-of"), ("10.0.0.9", 80)),
        ] {
            assert_eq!(instance.reached_by(name), at, "{name:?}");
        }
        // Consul's JSON when only the node has a WAN address.
        let node_only = json.replace(r#""wan":{"Address":"198.51.100.1","Port":8080},"#, "");
        let node_only = Instance::from_entry(entry(&node_only)).unwrap();
        assert_eq!(node_only.reached_by(Some("wan")), ("198.51.100.9", 80));
    }

    #[test]
    fn what_is_no_instance_for_requests_says_why() {
        for (service, why) in [
            (r#""Kind":"connect-proxy","Port":1"#, "`connect-proxy`"),
            (r#""Kind":"ingress-gateway","Port":1"#, "`ingress-gateway`"),
            (r#""SocketPath":"/run/a.sock""#, "Unix socket `/run/a.sock`"),
            (r#""Port":0"#, "port 0"),
        ] {
            let json =
                format!(r#"{{"Node":{{"Node":"n1","Address":"n"}},"Service":{{"ID":"a",{service}}}}}"#);
            let error = Instance::from_entry(entry(&json)).unwrap_err();
            assert!(error.contains(why) && error.contains("`a` on node `n1`"), "{error}");
        }
    }

    #[test]
    fn weights_that_are_null_are_one_and_tags_have_no_case() {
        let json = r#"{"Node":{"Address":"n"},"Service":{"ID":"a","Port":1,"Weights":null,"Tags":["V1"]}}"#;
        let instance = Instance::from_entry(entry(json)).unwrap();
        assert_eq!((instance.weight, instance.has_tag("v1"), instance.has_tag("v")), (1, true, false));
    }

    #[test]
    fn warning_uses_the_warning_weight_and_zero_is_not_routable() {
        let json = r#"{"Node":{"Address":"n"},"Service":{"ID":"a","Port":1,"Weights":{"Passing":10,"Warning":0}},
            "Checks":[{"Status":"warning"}]}"#;
        let instance = Instance::from_entry(entry(json)).unwrap();
        assert_eq!(instance.weight, 0);
        assert!(!instance.is_routable());
        let passing = Instance::from_entry(entry(&json.replace("\"warning\"", "\"passing\""))).unwrap();
        assert_eq!((passing.weight, passing.is_routable()), (10, true));
    }
}
