//! Which addresses may use a route.
//!
//! The address is the client's: the peer's, or what a trusted proxy (`listen.trusted_proxies`) says. A peer that is not
//! trusted may still be a proxy that somebody forgot to name; then every address which it claims in `X-Forwarded-For` must be
//! allowed as well, so that a list of internal networks does not let in everyone behind an internal load balancer.
//! Who makes up such a field can only shut himself out. Fabio does the same with every peer.

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

/// Do all rules let all of these addresses through?
///
/// # Errors
/// One of them does not.
pub fn check(rules: &[ClientRule], addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), ClientDenied> {
    let mut addresses = addresses.into_iter().map(|address| address.to_canonical());
    if addresses.all(|address| rules.iter().all(|rule| rule.permits(address))) {
        Ok(())
    } else {
        Err(ClientDenied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &[&str], deny: &[&str]) -> ClientRule {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        ClientRule { allow: networks(allow), deny: networks(deny) }
    }

    fn permits(rules: &[ClientRule], addresses: &[&str]) -> bool {
        check(rules, addresses.iter().map(|text| text.parse::<IpAddr>().unwrap())).is_ok()
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
}
