//! One registered instance as the gateway sees it, made from Consul's node, service and checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Check, ServiceEntry};

/// Health of an instance: the worst of all its checks and its node's, maintenance above everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

/// One instance of a service. Its identity is (node, id): Consul's service ids are unique per node only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    pub node: String,
    pub id: String,
    /// An IP address without brackets, or a host name that still has to be resolved.
    pub address: String,
    pub port: u16,
    /// Share of requests, relative to the other instances; the one that Consul gives for the present status.
    pub weight: u32,
    pub status: Status,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
}

impl Instance {
    /// True if requests may go there: passing, or warning with a weight above 0.
    pub fn is_routable(&self) -> bool {
        match self.status {
            Status::Passing => true,
            Status::Warning => self.weight > 0,
            Status::Critical | Status::Maintenance => false,
        }
    }

    /// Reads one entry, or says why it is no instance that requests could go to.
    pub(crate) fn from_entry(entry: ServiceEntry) -> Result<Self, String> {
        let ServiceEntry { node, service, checks } = entry;
        let name = format!("instance `{}` on node `{}`", service.id, node.node);
        if service.id.is_empty() {
            return Err(format!("{name}: it has no id"));
        }
        if SIDE_KINDS.contains(&service.kind.as_str()) {
            return Err(format!("{name}: it is a {}", service.kind));
        }
        // An empty service address means: the node's.
        let address = if service.address.is_empty() { node.address } else { service.address };
        if address.is_empty() {
            return Err(format!("{name}: neither it nor its node has an address"));
        }
        let port = u16::try_from(service.port).ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("{name}: port {} is not within 1 to 65535", service.port))?;
        let status = aggregate(&checks);
        let weights = service.weights.unwrap_or_default();
        let weight = match status {
            Status::Warning => weights.warning.clamp(0, WEIGHT_MAX),
            _ => weights.passing.clamp(1, WEIGHT_MAX),
        };
        Ok(Self {
            node: node.node,
            id: service.id,
            address,
            port,
            weight: u32::try_from(weight).unwrap_or(1),
            status,
            tags: service.tags,
            meta: service.meta,
        })
    }
}

/// Node checks count as well: an instance on a node that Consul lost is not healthy.
fn aggregate(checks: &[Check]) -> Status {
    let mut worst = Status::Passing;
    for check in checks {
        if check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:") {
            return Status::Maintenance;
        }
        worst = match (check.status.as_str(), worst) {
            ("warning", Status::Passing) => Status::Warning,
            ("passing" | "warning", worst) => worst,
            // A word that we do not know is no permission to send requests.
            _ => Status::Critical,
        };
    }
    worst
}

/// Kinds of services that stand beside or in front of instances and are none themselves.
const SIDE_KINDS: [&str; 5] =
    ["connect-proxy", "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway"];

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
    fn an_empty_service_address_falls_back_to_the_node() {
        let json =
            r#"{"Node":{"Node":"n1","Address":"10.0.0.9"},"Service":{"ID":"a","Port":80,"Address":""}}"#;
        assert_eq!(Instance::from_entry(entry(json)).unwrap().address, "10.0.0.9");
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
