//! What Consul sends, read tolerantly: a list may be `null`, a field may be absent, a port may be any number.
//! Lists are parsed element by element, so that one instance that makes no sense never hides the others.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Status that a caller can give to a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Passing,
    Warning,
    Critical,
}

impl CheckStatus {
    /// Consul's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Reads Consul's word.
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

/// Which server may answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Consistency {
    /// Any server, even without a leader. What a gateway wants: a lost leader does not stop discovery.
    #[default]
    Stale,
    /// The leader, by its lease. Fails while there is no leader.
    Leader,
    /// The leader after it has asked a quorum. One more round trip for each answer.
    Consistent,
}

/// Options of a read.
#[derive(Debug, Clone, Default)]
pub struct QueryOptions {
    /// Blocks until the answer's index is above this one; `None` or 0 answers at once.
    pub index: Option<u64>,
    /// How long a blocking query may block. Consul adds up to a sixteenth of it.
    pub wait: Option<Duration>,
    pub consistency: Consistency,
    /// Only instances whose checks all pass, their node's included.
    pub passing: bool,
    /// Only instances that have all of these tags; Consul does not distinguish case here.
    pub tags: Vec<String>,
    /// Overrides the client's datacenter.
    pub datacenter: Option<String>,
    /// Consul Enterprise; the open-source edition answers 400 to any namespace, even `default`.
    pub namespace: Option<String>,
    /// Admin partition, Consul Enterprise; the open-source edition ignores it.
    pub partition: Option<String>,
}

/// One element of `/v1/health/service/:name`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceEntry {
    #[serde(deserialize_with = "null_is_default")]
    pub node: Node,
    #[serde(deserialize_with = "null_is_default")]
    pub service: Service,
    #[serde(deserialize_with = "null_is_default")]
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    #[serde(deserialize_with = "null_is_default")]
    pub node: String,
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    #[serde(deserialize_with = "null_is_default")]
    pub datacenter: String,
    /// By name: `lan`, `wan`, `lan_ipv4`, `wan_ipv4`, …
    #[serde(deserialize_with = "null_is_default")]
    pub tagged_addresses: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    #[serde(deserialize_with = "null_is_default")]
    pub kind: String,
    #[serde(rename = "ID", deserialize_with = "null_is_default")]
    pub id: String,
    #[serde(deserialize_with = "null_is_default")]
    pub service: String,
    #[serde(deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// By name. Since 1.8 Consul adds `lan_ipv4` and `wan_ipv4` (or `…_ipv6`) to a service with an IP address.
    #[serde(deserialize_with = "null_is_default")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Path of a Unix socket in place of address and port (since 1.10).
    #[serde(deserialize_with = "null_is_default")]
    pub socket_path: String,
    #[serde(deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
    /// Consul accepts and stores any integer here, −1 and 99999 too.
    #[serde(deserialize_with = "null_is_default")]
    pub port: i64,
    /// Absent for services that were registered through the catalog, or by releases before 1.2.3.
    pub weights: Option<Weights>,
}

/// One of a service's tagged addresses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceAddress {
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// Any integer, as the service's own; 0 where only the address differs.
    #[serde(deserialize_with = "null_is_default")]
    pub port: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    #[serde(deserialize_with = "null_is_one")]
    pub passing: i64,
    #[serde(deserialize_with = "null_is_one")]
    pub warning: i64,
}

/// Consul's own default.
impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    #[serde(rename = "CheckID", deserialize_with = "null_is_default")]
    pub check_id: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub status: String,
    #[serde(deserialize_with = "null_is_default")]
    pub output: String,
    #[serde(rename = "ServiceID", deserialize_with = "null_is_default")]
    pub service_id: String,
}

/// One value of `/v1/agent/services`.
pub type AgentService = Service;

/// The part of `/v1/agent/self` that tells agents apart.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentSelf {
    #[serde(deserialize_with = "null_is_default")]
    pub config: AgentConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub datacenter: String,
    #[serde(deserialize_with = "null_is_default")]
    pub node_name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub version: String,
}

/// One element of `/v1/kv/:key`; only what a reader of one key needs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KvPair {
    pub key: String,
    /// Base64; `null` for an empty value.
    pub value: Option<String>,
    pub flags: u64,
    pub modify_index: u64,
}

/// Reads a JSON list element by element. The outer error means that the body is no list at all (`null` too:
/// Consul never answers it here); the second list says which elements made no sense.
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

/// Text of somebody else for a message: on one line, and not endless. Whoever may register a service could write lines
/// of our log otherwise.
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

/// A weight that is not given is Consul's default.
fn null_is_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(1))
}

/// One sentence.
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
    fn a_body_that_is_no_list_is_an_error_and_not_an_empty_list() {
        for body in [&b"null"[..], b"", b"{}", b"<html>", br#"[{"Node""#] {
            assert!(parse_entries(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        assert!(parse_entries(b"[]").unwrap().0.is_empty());
    }

    #[test]
    fn text_of_others_stays_on_one_line_and_is_cut() {
        assert_eq!(shown("a\nERROR b\u{1b}[2J ü"), "a\\nERROR b\\u{1b}[2J ü");
        assert_eq!(shown(&"x".repeat(SHOWN_CHARS_MAX)).len(), SHOWN_CHARS_MAX);
        assert_eq!(shown(&"ü".repeat(1 << 20)).chars().count(), SHOWN_CHARS_MAX + 1);
        let body = format!(r#"[{{"Service":{{"Port":"{}\\n"}}}}]"#, "x".repeat(1 << 20));
        let (_, skipped) = parse_entries(body.as_bytes()).unwrap();
        assert!(skipped[0].chars().count() < 400 && !skipped[0].contains('\n'), "{}", skipped[0].len());
    }
}
