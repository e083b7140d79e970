//! Which registry a client speaks with, as far as its settings show. The state of each registry is kept in a folder of its own,
//! because facts about one registry are not valid for another.

use std::collections::BTreeSet;

use crc::{CRC_64_XZ, Crc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::{ClientConfig, ClientError};

/// The identity of a registry: the addresses of its agents and the datacenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryIdentity {
    /// As URLs in lower case.
    addresses: BTreeSet<String>,
    /// `None` means the agent's own.
    datacenter: Option<String>,
}

impl RegistryIdentity {
    /// The identity that these settings give. Fails if an address cannot be used.
    pub fn of(config: &ClientConfig) -> Result<Self, ClientError> {
        let addresses = config.base_urls()?.into_iter().map(|url| url.to_ascii_lowercase()).collect();
        Ok(Self { addresses, datacenter: config.datacenter.clone() })
    }

    /// Whether both may be the same registry, with an agent more or less: they have an agent and the datacenter in common.
    pub fn is_like(&self, other: &Self) -> bool {
        self.datacenter == other.datacenter && !self.addresses.is_disjoint(&other.addresses)
    }

    /// The name of the folder for its state: readable, within the limits of file systems, and equal only for equal identities.
    pub fn folder_name(&self) -> String {
        let part = |text: &str| utf8_percent_encode(text, IN_NAMES).to_string();
        let addresses: Vec<String> = self.addresses.iter().map(|address| part(address)).collect();
        let mut name = format!("consul+{}", addresses.join("+"));
        if let Some(datacenter) = &self.datacenter {
            name.push('@');
            name.push_str(&part(datacenter));
        }
        if name.len() > NAME_BYTES_MAX {
            let sum = Crc::<u64>::new(&CRC_64_XZ).checksum(name.as_bytes());
            name.truncate(NAME_BYTES_MAX);
            name = format!("{name}~{sum:016x}");
        }
        name
    }
}

/// File systems allow 255 bytes; the sum needs 17.
const NAME_BYTES_MAX: usize = 200;
const IN_NAMES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(addresses: &[&str], datacenter: Option<&str>) -> RegistryIdentity {
        let (first, further) = addresses.split_first().unwrap();
        let config = ClientConfig {
            further_addresses: further.iter().map(|address| (*address).to_owned()).collect(),
            datacenter: datacenter.map(str::to_owned),
            ..ClientConfig::new(*first)
        };
        RegistryIdentity::of(&config).unwrap()
    }

    #[test]
    fn the_same_agents_in_any_order_and_spelling_are_the_same_registry() {
        let one = identity(&["a:8500", "http://B:8500/"], None);
        let other = identity(&["http://b:8500", "http://a:8500"], None);
        assert_eq!((&one, one.folder_name()), (&other, other.folder_name()));
        assert_eq!(one.folder_name(), "consul+http%3A%2F%2Fa%3A8500+http%3A%2F%2Fb%3A8500");
    }

    #[test]
    fn one_agent_in_common_may_be_the_same_registry_and_another_datacenter_is_not() {
        let one = identity(&["a:8500", "b:8500"], None);
        assert!(one.is_like(&identity(&["b:8500", "c:8500"], None)));
        assert!(!one.is_like(&identity(&["c:8500"], None)));
        assert!(!one.is_like(&identity(&["a:8500", "b:8500"], Some("dc2"))));
    }

    #[test]
    fn long_lists_have_different_names_that_a_file_system_allows() {
        let many = |last: &str| {
            let all: Vec<String> = (0..20).map(|n| format!("consul-{n}.example:8500")).collect();
            let mut all: Vec<&str> = all.iter().map(String::as_str).collect();
            all.push(last);
            identity(&all, None).folder_name()
        };
        let [one, other] = ["x:8500", "y:8500"].map(many);
        assert_ne!(one, other);
        assert!(one.len() <= 255 && !one.contains('/'), "{one}");
    }
}
