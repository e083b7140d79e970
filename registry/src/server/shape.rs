//! Consul's JSON objects, with the order of keys and the choice between `null`, `{}` and absence that its own
//! answers have: some clients depend on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::server::Compat;
use crate::store::{AddressDefinition, CheckKind, CheckRecord, NodeDefinition, NodeRecord, ServiceRecord};

/// The identity of the registry: its node, its datacenter, and the release that is imitated.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) node_id: String,
    pub(crate) node_name: String,
    pub(crate) datacenter: String,
    pub(crate) address: IpAddr,
    pub(crate) compat: Compat,
    pub(crate) acls: bool,
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

    /// The registry's own node.
    pub(crate) fn own_node(&self) -> NodeDefinition {
        let address = self.address.to_string();
        let family = if self.address.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
        let names = ["lan", "wan"].into_iter().chain(family);
        let mut meta = BTreeMap::from([("consul-network-segment".to_owned(), String::new())]);
        if self.compat == Compat::Current {
            meta.insert("consul-version".to_owned(), self.version().to_owned());
        }
        NodeDefinition {
            id: self.node_id.clone(),
            name: self.node_name.clone(),
            tagged_addresses: Some(names.map(|name| (name.to_owned(), address.clone())).collect()),
            address,
            meta: Some(meta),
        }
    }

    /// The metadata of the service `consul`.
    pub(crate) fn own_service_meta(&self) -> BTreeMap<String, String> {
        let facts = [
            ("non_voter", "false"),
            ("raft_version", "3"),
            ("serf_protocol_current", "2"),
            ("serf_protocol_max", "5"),
            ("serf_protocol_min", "1"),
            ("version", self.version()),
        ];
        facts.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(crate) fn node(&self, node: &NodeRecord) -> Value {
        let definition = &node.definition;
        json!({
            "ID": definition.id,
            "Node": definition.name,
            "Address": definition.address,
            "Datacenter": self.datacenter,
            "TaggedAddresses": definition.tagged_addresses,
            "Meta": definition.meta,
            "CreateIndex": node.create_index,
            "ModifyIndex": node.modify_index,
        })
    }

    /// The service of an element of `health/service/:name`.
    pub(crate) fn health_service(&self, service: &ServiceRecord) -> Value {
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
    pub(crate) fn catalog_service(&self, node: &NodeRecord, service: &ServiceRecord) -> Value {
        let definition = &service.definition;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("ID", json!(node.definition.id));
        put("Node", json!(node.definition.name));
        put("Address", json!(node.definition.address));
        put("Datacenter", json!(self.datacenter));
        put("TaggedAddresses", json!(node.definition.tagged_addresses));
        put("NodeMeta", json!(node.definition.meta));
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

    /// A check of the catalog. `service`: the one it belongs to, if any.
    pub(crate) fn check(&self, check: &CheckRecord, service: Option<&ServiceRecord>) -> Value {
        let mut object = Self::check_result(check, service);
        let definition = &check.definition;
        object.insert("Type".to_owned(), json!(definition.kind.as_str()));
        if self.compat == Compat::Current {
            let (interval, timeout) = match &definition.kind {
                CheckKind::Probe(probe) => (seconds(probe.interval), seconds(probe.timeout)),
                _ => (String::new(), String::new()),
            };
            object.insert("Interval".to_owned(), json!(interval));
            object.insert("Timeout".to_owned(), json!(timeout));
            object.insert("ExposedPort".to_owned(), json!(0));
        }
        let made = match &definition.kind {
            CheckKind::External { definition, .. } => Value::Object(definition.clone()),
            _ => json!({}),
        };
        object.insert("Definition".to_owned(), made);
        object.insert("CreateIndex".to_owned(), json!(check.create_index));
        object.insert("ModifyIndex".to_owned(), json!(check.modify_index));
        Value::Object(object)
    }

    /// A check as the agent's calls show it, without indexes.
    pub(crate) fn agent_check(&self, check: &CheckRecord, service: Option<&ServiceRecord>) -> Value {
        let mut object = self.check(check, service);
        object["CreateIndex"] = json!(0);
        object["ModifyIndex"] = json!(0);
        object
    }

    /// A check in `agent/health`, with the zero values of everything that is not known there.
    pub(crate) fn local_check(check: &CheckRecord, service: Option<&ServiceRecord>) -> Value {
        let mut object = Self::check_result(check, service);
        if object["ServiceTags"] == json!([]) {
            object["ServiceTags"] = Value::Null;
        }
        object.insert("Type".to_owned(), json!(""));
        let definition = json!({
            "Interval": "0s",
            "Timeout": "0s",
            "DeregisterCriticalServiceAfter": "0s",
            "HTTP": "",
            "Header": null,
            "Method": "",
            "Body": "",
            "TLSSkipVerify": false,
            "TCP": "",
        });
        object.insert("Definition".to_owned(), definition);
        object.insert("CreateIndex".to_owned(), json!(0));
        object.insert("ModifyIndex".to_owned(), json!(0));
        Value::Object(object)
    }

    /// The fields with which every form of a check begins.
    fn check_result(check: &CheckRecord, service: Option<&ServiceRecord>) -> Map<String, Value> {
        let definition = &check.definition;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("Node", json!(check.node));
        put("CheckID", json!(definition.id));
        put("Name", json!(definition.name));
        put("Status", json!(check.status.as_str()));
        put("Notes", json!(definition.notes));
        put("Output", json!(check.output));
        put("ServiceID", json!(definition.service_id));
        put("ServiceName", json!(service.map_or("", |service| service.definition.name.as_str())));
        put("ServiceTags", service.map_or_else(|| json!([]), |service| json!(service.definition.tags)));
        object
    }

    fn proxy(&self) -> Value {
        match self.compat {
            Compat::Current => json!({"Mode": "", "MeshGateway": {}, "Expose": {}}),
            Compat::V1_8 => json!({"MeshGateway": {}, "Expose": {}}),
        }
    }
}

fn tagged(service: &ServiceRecord) -> Value {
    let element = |(name, AddressDefinition { address, port }): (&String, &AddressDefinition)| {
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

/// The port of a Consul server. The registry does not listen there, but clients expect an address.
pub(crate) const SERVER_PORT: u16 = 8300;
