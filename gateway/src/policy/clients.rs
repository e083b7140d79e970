//! `clients`: the addresses that may use a route.
//!
//! The address is the client's: the peer's, or what a trusted proxy (`listen.trusted_proxies`) states. A peer that is not trusted may
//! still be a proxy that is missing in that list, so every address that the request claims in `X-Forwarded-For` must be allowed
//! as well, except for those of trusted proxies. Otherwise an allow-list of internal networks would admit every client behind a load
//! balancer that is not declared as trusted. A forged field can only lock its sender out. Fabio does the same.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::of_route::{BadOption, Compile, RoutePolicy, View, replace};
use crate::syntax::{
    diagnostics::{Diagnostic, Diagnostics, code},
    fields::{Fields, Known, is_word, one_or_many, values},
    tree::{Node, Value},
    units::{Invalid, network},
};

/// `clients` as written. A field that is not written is inherited; an empty list restricts nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Written {
    allow: Option<Vec<IpNet>>,
    deny: Option<Vec<IpNet>>,
    /// The rule of the tag that declared the route. It can only narrow what the file allows.
    declared: ClientRule,
}

impl Written {
    /// The rules of the file and of the tag. A client must pass all of them.
    pub(crate) fn rules(&self) -> Vec<ClientRule> {
        let of_file = ClientRule {
            allow: self.allow.clone().unwrap_or_default(),
            deny: self.deny.clone().unwrap_or_default(),
        };
        let mut rules = vec![of_file, self.declared.clone()];
        rules.retain(|rule| !rule.is_empty());
        rules
    }
}

impl RoutePolicy for ClientRule {
    type Written = Written;
    /// Any client may use the route if it is empty.
    type Compiled = Arc<[ClientRule]>;
    const KEYS: &'static [&'static str] = &["clients"];
    const MAPS: &'static [&'static Known] = &[&CLIENTS];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        let Some(node) = fields.get("clients") else { return Written::default() };
        if is_word(node, "any") {
            return Written { allow: Some(Vec::new()), deny: Some(Vec::new()), ..Written::default() };
        }
        // The short form: a network, or a list of them.
        if !matches!(node.value, Value::Map(_)) {
            return Written { allow: Some(networks(node, "clients", sink)), ..Written::default() };
        }
        let Some(fields) = Fields::of(node, &CLIENTS, sink) else { return Written::default() };
        let allow = fields.get("allow").map(|node| networks(node, "clients.allow", sink));
        let deny = fields.get("deny").map(|node| networks(node, "clients.deny", sink));
        Written { allow, deny, ..Written::default() }
    }

    fn overlay(under: &mut Written, top: &Written) {
        replace(&mut under.allow, top.allow.as_ref());
        replace(&mut under.deny, top.deny.as_ref());
    }

    fn read_option(written: &mut Written, option: &str, value: &str) -> Option<Result<(), BadOption>> {
        let list = match option {
            "allow" => &mut written.declared.allow,
            "deny" => &mut written.declared.deny,
            _ => return None,
        };
        let read = declared_networks(value).map(|networks| *list = networks);
        Some(read.map_err(|why| BadOption::of(option, why)))
    }

    fn write_options(written: &Written, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (option, networks) in [("allow", &written.declared.allow), ("deny", &written.declared.deny)] {
            if !networks.is_empty() {
                write!(to, " {option}={}", networks_text(networks))?;
            }
        }
        Ok(())
    }

    fn declare(under: &mut Written, tag: &Written) {
        under.declared.clone_from(&tag.declared);
    }

    fn compile(written: &Written, with: &mut Compile<'_, '_>) -> Arc<[ClientRule]> {
        with.shared.share(Arc::from(written.rules()))
    }

    fn show(rules: &Arc<[ClientRule]>, view: &mut View<'_>) {
        let lists = rules.iter().flat_map(|rule| [("in", &rule.allow), ("not in", &rule.deny)]);
        let lists = lists.filter(|(_, networks)| !networks.is_empty());
        view.items(
            "require",
            lists.map(|(word, networks)| format!("client {word} {}", networks_text(networks))),
        );
    }
}

/// Reads `10.0.0.0/8,192.0.2.7`, where each network may have Fabio's `ip:` in front. The result is sorted, so that the same
/// networks in another order are the same declaration.
fn declared_networks(value: &str) -> Result<Vec<IpNet>, Invalid> {
    let mut networks = Vec::new();
    for text in value.split(',') {
        let kind = text.split_at_checked(3).filter(|(kind, _)| kind.eq_ignore_ascii_case("ip:"));
        networks.push(network(kind.map_or(text, |(_, rest)| rest))?);
    }
    networks.sort();
    networks.dedup();
    Ok(networks)
}

/// Reads one network or a list of them, and reports an empty list.
fn networks(node: &Node, what: &str, sink: &mut Diagnostics) -> Vec<IpNet> {
    if one_or_many(node).is_empty() {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, node.span, format!("`{what}` is empty"))
                .label("neither everyone nor nobody")
                .help("name networks, such as `[10.0.0.0/8]`; `clients: any` lets everyone in"),
        );
    }
    let parse = |text: &str| {
        network(text).map_err(|e| match what {
            "clients" => {
                Invalid { expected: format!("`any`, a map with `allow` and `deny`, or {}", e.expected), ..e }
            }
            _ => e,
        })
    };
    values(node, what, sink, parse).into_iter().map(|at| at.value).collect()
}

/// One list of each kind. A route has the file's rule and the rule of the tag which declared it, and a client must pass both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ClientRule {
    /// Any address is allowed if it is empty.
    pub allow: Vec<IpNet>,
    /// A denied address is refused even if `allow` has it.
    pub deny: Vec<IpNet>,
}

/// Writes networks as `10.0.0.0/8,192.0.2.1/32`.
pub fn networks_text(networks: &[IpNet]) -> String {
    let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Whether every address that passes all of `rules` also passes `rule`. May return false although it is so, never the reverse.
pub(crate) fn imply(rules: &[ClientRule], rule: &ClientRule) -> bool {
    let is_within = |inner: &[IpNet], outer: &[IpNet]| {
        let outer = IpNet::aggregate(&outer.to_vec());
        inner.iter().all(|network| outer.iter().any(|other| other.contains(network)))
    };
    let is_allowed = rule.allow.is_empty()
        || rules.iter().any(|own| !own.allow.is_empty() && is_within(&own.allow, &rule.allow));
    let is_denied = |network: &IpNet| {
        let never_allowed = |own: &ClientRule| {
            let meets = |other: &IpNet| other.contains(network) || network.contains(other);
            !own.allow.is_empty() && !own.allow.iter().any(meets)
        };
        rules.iter().any(|own| is_within(&[*network], &own.deny) || never_allowed(own))
    };
    is_allowed && rule.deny.iter().all(is_denied)
}

/// Why a client must not use a route. `Display` writes the access log's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientDenied {
    /// This address is not allowed; it is the client's own or one that the request claims.
    Address(IpAddr),
    /// An address that the request claims cannot be read.
    Unreadable,
    /// The request claims more than [`ADDRESSES_MAX`] addresses.
    TooMany,
}

impl fmt::Display for ClientDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unreadable => f.write_str("unreadable"),
            Self::TooMany => f.write_str("too_many"),
        }
    }
}

impl ClientRule {
    /// Whether the rule admits every client.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    fn permits(&self, client: IpAddr) -> bool {
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// Checks that every address passes every rule. `None` stands for an address that cannot be read: it is in no network, so it
/// passes rules that have only `deny`.
///
/// # Errors
/// An address does not pass, or there are more than [`ADDRESSES_MAX`].
pub fn check(
    rules: &[ClientRule],
    addresses: impl IntoIterator<Item = Option<IpAddr>>,
) -> Result<(), ClientDenied> {
    for (at, address) in addresses.into_iter().enumerate() {
        if at >= ADDRESSES_MAX {
            return Err(ClientDenied::TooMany);
        }
        let address = address.map(|address| address.to_canonical());
        let permits = |rule: &ClientRule| match address {
            Some(address) => rule.permits(address),
            None => rule.allow.is_empty(),
        };
        if !rules.iter().all(permits) {
            return Err(address.map_or(ClientDenied::Unreadable, ClientDenied::Address));
        }
    }
    Ok(())
}

static CLIENTS: Known =
    Known { what: "`clients`", prefix: "clients.", fields: &["allow", "deny"], later: &[] };
/// Most addresses of one request, since each is compared with each network. No real request passes so many proxies.
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
