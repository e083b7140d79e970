//! The JSON of Consul's API, read tolerantly: a list may be `null`, a field may be absent, a port may be any number.
//! Lists are parsed element by element, so that one instance that cannot be read does not hide the others.
//!
//! The file stands below all rooms, because `client` and `watch` read what `server` and `store` write.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The status of a check in Consul's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// The check passes.
    Passing,
    /// The check warns; the instance still gets requests, by its weight for warnings.
    Warning,
    /// The check fails; the instance gets no requests.
    Critical,
}

impl CheckStatus {
    /// Consul's word for the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Reads Consul's word; `None` if it is another word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One instance in the answer of `/v1/health/service/:name`: its node, its service and their checks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceEntry {
    /// The node on which the instance runs.
    #[serde(deserialize_with = "null_is_default")]
    pub node: Node,
    /// The registered service.
    #[serde(deserialize_with = "null_is_default")]
    pub service: Service,
    /// The checks of the service and of the node.
    #[serde(deserialize_with = "null_is_default")]
    pub checks: Vec<Check>,
}

/// A node of Consul's catalog.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// The name of the node.
    #[serde(deserialize_with = "null_is_default")]
    pub node: String,
    /// The address of the node.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// The datacenter of the node.
    #[serde(deserialize_with = "null_is_default")]
    pub datacenter: String,
    /// Further addresses by name: `lan`, `wan`, `lan_ipv4`, `wan_ipv4`, …
    #[serde(deserialize_with = "null_is_default")]
    pub tagged_addresses: BTreeMap<String, String>,
}

/// A registered service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    /// Empty for an ordinary service; otherwise the kind of a proxy or gateway of the mesh.
    #[serde(deserialize_with = "null_is_default")]
    pub kind: String,
    /// The id, which is unique on its node.
    #[serde(rename = "ID", deserialize_with = "null_is_default")]
    pub id: String,
    /// The name of the service.
    #[serde(deserialize_with = "null_is_default")]
    pub service: String,
    /// The tags of this instance.
    #[serde(deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// The address; empty means the address of the node.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// Further addresses by name. Since 1.8 Consul adds `lan_ipv4` and `wan_ipv4` (or `…_ipv6`) to a service with an IP address.
    #[serde(deserialize_with = "null_is_default")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// The path of a Unix socket instead of address and port (since 1.10).
    #[serde(deserialize_with = "null_is_default")]
    pub socket_path: String,
    /// Metadata of this instance.
    #[serde(deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
    /// The port. Consul accepts and stores any integer, also −1 and 99999.
    #[serde(deserialize_with = "null_is_default")]
    pub port: i64,
    /// The weights; absent for services that were registered through the catalog, or by releases before 1.2.3.
    pub weights: Option<Weights>,
}

/// One of a service's tagged addresses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceAddress {
    /// The address.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// The port, which may be any integer; 0 means the port of the service.
    #[serde(deserialize_with = "null_is_default")]
    pub port: i64,
}

/// The shares of requests that an instance gets, relative to the other instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    /// The share while all checks pass.
    #[serde(deserialize_with = "null_is_one")]
    pub passing: i64,
    /// The share while a check warns.
    #[serde(deserialize_with = "null_is_one")]
    pub warning: i64,
}

/// 1 and 1, as Consul does.
impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// A health check of a node or of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    /// The id of the check.
    #[serde(rename = "CheckID", deserialize_with = "null_is_default")]
    pub check_id: String,
    /// The name of the check.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Consul's word for the status; see [`CheckStatus::parse`].
    #[serde(deserialize_with = "null_is_default")]
    pub status: String,
    /// What the check reported last, for people.
    #[serde(deserialize_with = "null_is_default")]
    pub output: String,
    /// The id of the checked service; empty for a check of the node.
    #[serde(rename = "ServiceID", deserialize_with = "null_is_default")]
    pub service_id: String,
}

/// One service in the answer of `/v1/agent/services`.
pub type AgentService = Service;

/// The part of `/v1/agent/self` by which agents differ.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentSelf {
    /// The settings of the agent.
    #[serde(deserialize_with = "null_is_default")]
    pub config: AgentConfig,
}

/// Settings of an agent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentConfig {
    /// The datacenter of the agent.
    #[serde(deserialize_with = "null_is_default")]
    pub datacenter: String,
    /// The name of the agent's node.
    #[serde(deserialize_with = "null_is_default")]
    pub node_name: String,
    /// The release of Consul.
    #[serde(deserialize_with = "null_is_default")]
    pub version: String,
}

/// One key in the answer of `/v1/kv/:key`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KvPair {
    /// The key.
    pub key: String,
    /// The value in Base64; `null` for an empty value.
    pub value: Option<String>,
    /// A number that the writer of the key chose.
    pub flags: u64,
    /// The index of the latest change of the key.
    pub modify_index: u64,
}

/// Reads a JSON list element by element. It fails if the body is not a list (`null` included, which Consul never answers
/// here); the second list has a sentence for each element that could not be read.
pub(crate) fn parse_entries(body: &[u8]) -> Result<(Vec<ServiceEntry>, Vec<String>), serde_json::Error> {
    let elements: Vec<&RawValue> = serde_json::from_slice(body)?;
    let mut entries = Vec::with_capacity(elements.len());
    let mut skipped = Vec::new();
    for (position, element) in elements.iter().enumerate() {
        match serde_json::from_str(element.get()) {
            Ok(entry) => entries.push(entry),
            Err(error) => skipped.push(format!("element {position}: {}", shown(&error.to_string()))),
        }
    }
    Ok((entries, skipped))
}

/// Foreign text for a message: on one line and cut to a maximum. Otherwise a client that may register a service could write
/// lines into the gateway's log.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == SHOWN_CHARS_MAX {
            shown.push('…');
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A weight that is absent is Consul's default.
fn null_is_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(1))
}

/// Enough for a sentence.
const SHOWN_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_element_does_not_hide_the_others() {
        let body = br#"[{"Service":{"ID":"a","Port":1}},{"Service":{"ID":"b","Port":"x"}},7,
            {"Node":{"TaggedAddresses":null},"Service":{"ID":"c","Port":-1,"Tags":null,"Meta":null,"Weights":null,
            "TaggedAddresses":null,"SocketPath":null},"Checks":null,"New":{}}]"#;
        let (entries, skipped) = parse_entries(body).unwrap();
        let ids: Vec<_> = entries.iter().map(|entry| entry.service.id.as_str()).collect();
        assert_eq!(ids, ["a", "c"]);
        assert_eq!(entries[1].service.port, -1);
        assert_eq!(skipped.len(), 2);
    }

    #[test]
    fn a_weight_that_is_absent_or_null_is_one() {
        for (json, weights) in [
            ("{}", (1, 1)),
            (r#"{"Passing":null,"Warning":null}"#, (1, 1)),
            (r#"{"Passing":5}"#, (5, 1)),
            (r#"{"Passing":5,"Warning":0}"#, (5, 0)),
        ] {
            let read: Weights = serde_json::from_str(json).unwrap();
            assert_eq!((read.passing, read.warning), weights, "{json}");
        }
    }

    #[test]
    fn a_body_that_is_not_a_list_is_an_error_and_not_an_empty_list() {
        for body in [&b"null"[..], b"", b"{}", b"<html>", br#"[{"Node""#] {
            assert!(parse_entries(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        assert!(parse_entries(b"[]").unwrap().0.is_empty());
    }

    #[test]
    fn foreign_text_stays_on_one_line_and_is_cut() {
        assert_eq!(shown("a\nERROR b\u{1b}[2J ü"), "a\\nERROR b\\u{1b}[2J ü");
        assert_eq!(shown(&"x".repeat(SHOWN_CHARS_MAX)).len(), SHOWN_CHARS_MAX);
        assert_eq!(shown(&"ü".repeat(1 << 20)).chars().count(), SHOWN_CHARS_MAX + 1);
        let body = format!(r#"[{{"Service":{{"Port":"{}\\n"}}}}]"#, "x".repeat(1 << 20));
        let (_, skipped) = parse_entries(body.as_bytes()).unwrap();
        assert!(skipped[0].chars().count() < 400 && !skipped[0].contains('\n'), "{}", skipped[0].len());
    }
}
