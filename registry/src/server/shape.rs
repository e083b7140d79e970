//! Consul's JSON objects, with the order of keys and the choice between `null`, `{}` and absence that its own
//! answers have: some clients depend on them.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::server::Compat;
use crate::store::{CheckKind, CheckRecord, ServiceRecord, TaggedAddress};

/// Who answers: the node, its datacenter, and the release that is imitated.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) node_id: String,
    pub(crate) node_name: String,
    pub(crate) datacenter: String,
    pub(crate) address: IpAddr,
    pub(crate) compat: Compat,
}

impl Identity {
    pub(crate) fn version(&self) -> &'static str {
        match self.compat {
            Compat::Current => "1.22.0",
            Compat::V1_8 => "1.8.7",
        }
    }

    /// `host:port` of the server that would be the leader.
    pub(crate) fn leader(&self) -> String {
        std::net::SocketAddr::new(self.address, SERVER_PORT).to_string()
    }

    fn tagged_addresses(&self) -> Value {
        let address = self.address.to_string();
        match self.address {
            IpAddr::V4(_) => {
                json!({"lan": address, "lan_ipv4": address, "wan": address, "wan_ipv4": address})
            }
            IpAddr::V6(_) => {
                json!({"lan": address, "lan_ipv6": address, "wan": address, "wan_ipv6": address})
            }
        }
    }

    fn node_meta(&self) -> Value {
        match self.compat {
            Compat::Current => json!({"consul-network-segment": "", "consul-version": self.version()}),
            Compat::V1_8 => json!({"consul-network-segment": ""}),
        }
    }

    pub(crate) fn node(&self, index: u64) -> Value {
        json!({
            "ID": self.node_id,
            "Node": self.node_name,
            "Address": self.address.to_string(),
            "Datacenter": self.datacenter,
            "TaggedAddresses": self.tagged_addresses(),
            "Meta": self.node_meta(),
            "CreateIndex": index,
            "ModifyIndex": index,
        })
    }

    /// One element of `health/service/:name`.
    pub(crate) fn health_entry(&self, node: &Value, service: &ServiceRecord, checks: &[Value]) -> Value {
        json!({"Node": node, "Service": self.health_service(service), "Checks": checks})
    }

    fn health_service(&self, service: &ServiceRecord) -> Value {
        let definition = &service.definition;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        if !definition.kind.is_empty() {
            put("Kind", json!(definition.kind));
        }
        put("ID", json!(definition.id));
        put("Service", json!(definition.name));
        put("Tags", json!(definition.tags));
        put("Address", json!(definition.address));
        if !definition.tagged_addresses.is_empty() {
            put("TaggedAddresses", tagged(service));
        }
        // Here an empty map is null; in the catalog and at the agent it is {}.
        put("Meta", if definition.meta.is_empty() { Value::Null } else { json!(definition.meta) });
        put("Port", json!(definition.port));
        put("Weights", weights(service));
        put("EnableTagOverride", json!(definition.enable_tag_override));
        put("Proxy", self.proxy());
        put("Connect", json!({}));
        if self.compat == Compat::Current {
            put("PeerName", json!(""));
        }
        put("CreateIndex", json!(service.create_index));
        put("ModifyIndex", json!(service.modify_index));
        Value::Object(object)
    }

    /// One element of `catalog/service/:name`.
    pub(crate) fn catalog_service(&self, service: &ServiceRecord) -> Value {
        let definition = &service.definition;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("ID", json!(self.node_id));
        put("Node", json!(self.node_name));
        put("Address", json!(self.address.to_string()));
        put("Datacenter", json!(self.datacenter));
        put("TaggedAddresses", self.tagged_addresses());
        put("NodeMeta", self.node_meta());
        put("ServiceKind", json!(definition.kind));
        put("ServiceID", json!(definition.id));
        put("ServiceName", json!(definition.name));
        put("ServiceTags", json!(definition.tags));
        put("ServiceAddress", json!(definition.address));
        if !definition.tagged_addresses.is_empty() {
            put("ServiceTaggedAddresses", tagged(service));
        }
        put("ServiceWeights", weights(service));
        put("ServiceMeta", json!(definition.meta));
        put("ServicePort", json!(definition.port));
        if self.compat == Compat::Current {
            put("ServiceSocketPath", json!(""));
        }
        put("ServiceEnableTagOverride", json!(definition.enable_tag_override));
        put("ServiceProxy", self.proxy());
        put("ServiceConnect", json!({}));
        put("CreateIndex", json!(service.create_index));
        put("ModifyIndex", json!(service.modify_index));
        Value::Object(object)
    }

    /// One value of `agent/services`.
    pub(crate) fn agent_service(&self, service: &ServiceRecord) -> Value {
        let definition = &service.definition;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        if !definition.kind.is_empty() {
            put("Kind", json!(definition.kind));
        }
        put("ID", json!(definition.id));
        put("Service", json!(definition.name));
        put("Tags", json!(definition.tags));
        put("Meta", json!(definition.meta));
        put("Port", json!(definition.port));
        put("Address", json!(definition.address));
        if self.compat == Compat::Current {
            put("SocketPath", json!(""));
        }
        if !definition.tagged_addresses.is_empty() {
            put("TaggedAddresses", tagged(service));
        }
        put("Weights", weights(service));
        put("EnableTagOverride", json!(definition.enable_tag_override));
        if self.compat == Compat::Current {
            put("Datacenter", json!(self.datacenter));
        }
        Value::Object(object)
    }

    /// A check. `service`: the one it belongs to, if any. At the agent, indexes are 0.
    pub(crate) fn check(&self, check: &CheckRecord, service: Option<&ServiceRecord>, agent: bool) -> Value {
        let definition = &check.definition;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("Node", json!(self.node_name));
        put("CheckID", json!(definition.id));
        put("Name", json!(definition.name));
        put("Status", json!(check.status.as_str()));
        put("Notes", json!(definition.notes));
        put("Output", json!(check.output));
        put("ServiceID", json!(definition.service_id));
        put("ServiceName", json!(service.map_or("", |service| service.definition.name.as_str())));
        put("ServiceTags", service.map_or_else(|| json!([]), |service| json!(service.definition.tags)));
        put("Type", json!(definition.kind.as_str()));
        if self.compat == Compat::Current {
            let (interval, timeout) = match &definition.kind {
                CheckKind::Http(probe) => (seconds(probe.interval), seconds(probe.timeout)),
                CheckKind::Node | CheckKind::Ttl(_) => (String::new(), String::new()),
            };
            put("Interval", json!(interval));
            put("Timeout", json!(timeout));
            put("ExposedPort", json!(0));
        }
        put("Definition", json!({}));
        put("CreateIndex", json!(if agent { 0 } else { check.create_index }));
        put("ModifyIndex", json!(if agent { 0 } else { check.modify_index }));
        Value::Object(object)
    }

    /// `agent/self`, with what tools read from it: the names, the version, and objects where they expect some.
    pub(crate) fn agent_self(&self, services: usize, checks: usize) -> Value {
        json!({
            "Config": {
                "Datacenter": self.datacenter,
                "NodeName": self.node_name,
                "NodeID": self.node_id,
                "Revision": "embedded",
                "Server": true,
                "Version": self.version(),
            },
            "DebugConfig": {"ACLsEnabled": false, "Datacenter": self.datacenter, "NodeName": self.node_name},
            "Coord": {
                "Vec": [0, 0, 0, 0, 0, 0, 0, 0],
                "Error": 1.5,
                "Adjustment": 0,
                "Height": 0.00001,
            },
            "Member": self.member(),
            "Stats": {
                "agent": {
                    "check_monitors": "0",
                    "check_ttls": "0",
                    "checks": checks.to_string(),
                    "services": services.to_string(),
                },
                "build": {"prerelease": "", "revision": "embedded", "version": self.version()},
                "consul": {"bootstrap": "true", "leader": "true", "leader_addr": self.leader(), "server": "true"},
            },
            "Meta": self.node_meta(),
        })
    }

    /// One element of `agent/members`: the only one.
    pub(crate) fn member(&self) -> Value {
        json!({
            "Name": self.node_name,
            "Addr": self.address.to_string(),
            "Port": SERF_PORT,
            "Tags": {
                "acls": "0",
                "bootstrap": "1",
                "build": format!("{}:embedded", self.version()),
                "dc": self.datacenter,
                "id": self.node_id,
                "port": SERVER_PORT.to_string(),
                "role": "consul",
                "segment": "",
                "vsn": "2",
            },
            "Status": 1,
            "ProtocolMin": 1,
            "ProtocolMax": 5,
            "ProtocolCur": 2,
            "DelegateMin": 2,
            "DelegateMax": 5,
            "DelegateCur": 4,
        })
    }

    fn proxy(&self) -> Value {
        match self.compat {
            Compat::Current => json!({"Mode": "", "MeshGateway": {}, "Expose": {}}),
            Compat::V1_8 => json!({"MeshGateway": {}, "Expose": {}}),
        }
    }
}

fn tagged(service: &ServiceRecord) -> Value {
    let element = |(name, TaggedAddress { address, port }): (&String, &TaggedAddress)| {
        (name.clone(), json!({"Address": address, "Port": port}))
    };
    Value::Object(service.definition.tagged_addresses.iter().map(element).collect())
}

fn weights(service: &ServiceRecord) -> Value {
    json!({"Passing": service.definition.weight_passing, "Warning": service.definition.weight_warning})
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

/// The ports that a Consul server has; nothing listens there, but clients expect an address.
pub(crate) const SERVER_PORT: u16 = 8300;
const SERF_PORT: u16 = 8301;
