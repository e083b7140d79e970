//! Which addresses may use a route.
//!
//! The address is the client's: the peer's, or what a trusted proxy (`listen.trusted_proxies`) says. Whoever is not trusted
//! may still be a proxy that somebody forgot to name; so every address that the request claims in `X-Forwarded-For` must be
//! allowed as well, but for those of trusted proxies. Else a list of internal networks would let in everyone behind an
//! internal load balancer. Who makes up such a field can only shut himself out. Fabio does the same.

use std::net::IpAddr;

use ipnet::IpNet;

/// One list of each kind. A route has the file's rule and that of the tag which declared it, and all must let a client
/// through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ClientRule {
    /// Empty: any address.
    pub allow: Vec<IpNet>,
    /// Goes before `allow`.
    pub deny: Vec<IpNet>,
}

/// `10.0.0.0/8,192.0.2.1/32`.
pub fn networks_text(networks: &[IpNet]) -> String {
    let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// The address must not use the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientDenied;

impl ClientRule {
    /// Restricts nobody.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    fn permits(&self, client: IpAddr) -> bool {
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// Do all rules let all of these addresses through? `None` is an address that cannot be read: in no network, so it passes
/// where nothing but `deny` is asked.
///
/// # Errors
/// One of them does not, or there are more than [`ADDRESSES_MAX`].
pub fn check(
    rules: &[ClientRule],
    addresses: impl IntoIterator<Item = Option<IpAddr>>,
) -> Result<(), ClientDenied> {
    for (at, address) in addresses.into_iter().enumerate() {
        let permits = |rule: &ClientRule| match address {
            Some(address) => rule.permits(address.to_canonical()),
            None => rule.allow.is_empty(),
        };
        if at >= ADDRESSES_MAX || !rules.iter().all(permits) {
            return Err(ClientDenied);
        }
    }
    Ok(())
}

/// More proxies than any request comes by; each address is compared with each network.
pub const ADDRESSES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &[&str], deny: &[&str]) -> ClientRule {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        ClientRule { allow: networks(allow), deny: networks(deny) }
    }

    fn permits(rules: &[ClientRule], addresses: &[&str]) -> bool {
        check(rules, addresses.iter().map(|text| text.parse().ok())).is_ok()
    }

    #[test]
    fn a_list_of_allowed_networks_shuts_everyone_else_out_and_denial_goes_first() {
        let rules = [rule(&["10.0.0.0/8", "fe80::/10"], &["10.9.0.0/16"])];
        for (address, is_permitted) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("fe80::1", true),
            ("10.9.0.1", false),
            ("11.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(permits(&rules, &[address]), is_permitted, "{address}");
        }
        let deny = [rule(&[], &["192.0.2.0/24"])];
        assert!(permits(&deny, &["10.0.0.1"]) && !permits(&deny, &["192.0.2.1"]));
    }

    #[test]
    fn every_rule_and_every_address_counts() {
        let rules = [rule(&["10.0.0.0/8"], &[]), rule(&["10.1.0.0/16", "11.0.0.0/8"], &[])];
        assert!(permits(&rules, &["10.1.0.1"]));
        assert!(!permits(&rules, &["10.2.0.1"]) && !permits(&rules, &["11.0.0.1"]));
        assert!(!permits(&rules, &["10.1.0.1", "192.0.2.1"]));
        assert!(permits(&[], &["192.0.2.1"]) && rule(&[], &[]).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_in_no_network_and_there_is_an_end_to_reading() {
        let (allow, deny) = ([rule(&["10.0.0.0/8"], &[])], [rule(&[], &["10.0.0.0/8"])]);
        assert!(!permits(&allow, &["10.0.0.1", "unknown"]) && permits(&deny, &["192.0.2.1", "unknown"]));
        assert!(permits(&allow, &["10.0.0.1"; ADDRESSES_MAX]));
        assert!(!permits(&allow, &["10.0.0.1"; ADDRESSES_MAX + 1]));
    }
}
