//! Warnings about settings that are valid but cannot have the intended effect.

use http::HeaderName;
use ipnet::IpNet;

use crate::{
    auth::settings as auth,
    config::raw::{File, Named, route::Route},
    listen::ListenSettings,
    message::{ConfiguredNames, GuardedNames, fold, names::Kind},
    router::reading,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        tree::At,
    },
};

/// Warns about wide networks in `trusted_proxies`: a trusted peer may state any address, scheme and request id, and so escapes
/// limits per address.
pub(super) fn report_wide_trust(trusted: &[At<IpNet>], sink: &mut Diagnostics) {
    for At { span, .. } in trusted.iter().filter(|at| is_wider_than_private(&at.value)) {
        let message = "a network of `listen.trusted_proxies` is wider than any private one: whoever connects from there is believed";
        sink.push(
            Diagnostic::warning(code::TRUSTS_EVERYONE, *span, message)
                .label("clients of the public network are in it, and can say any address of themselves")
                .help(
                    "write the addresses of your proxies only, such as `10.0.0.0/8`; without `trusted_proxies`, \
                     the address of the connection counts",
                ),
        );
    }
}

/// Whether the network is larger than every private one. The largest are 10.0.0.0/8 (RFC 1918) and fc00::/7 (RFC 4193).
fn is_wider_than_private(network: &IpNet) -> bool {
    match network {
        IpNet::V4(v4) => v4.prefix_len() < 8,
        IpNet::V6(v6) => v6.prefix_len() < 7,
    }
}

/// A header field that the gateway removes before it looks for a credential, unless a trusted proxy has sent it.
pub(super) fn report_removed_sources(
    providers: &[Named<auth::Written>],
    resolved: &[auth::ProviderSettings],
    listen: &ListenSettings,
    sink: &mut Diagnostics,
) {
    let untrusted = listen.untrusted_headers.clone();
    let names = GuardedNames::compile(ConfiguredNames { untrusted, ..ConfiguredNames::default() });
    let is_removed = |name: &HeaderName| {
        Kind::of(name.as_str()) == Kind::EndToEnd && names.is_untrusted(&fold(name.as_str()))
    };
    let sources = providers.iter().zip(resolved).flat_map(|(written, one)| written.value.header_sources(one));
    for (name, span) in sources.filter(|(name, _)| is_removed(name)) {
        let finding = if listen.trusted_proxies.is_empty() {
            let message =
                format!("no request has a credential in `header:{name}`: the gateway removes this header");
            Diagnostic::error(code::PROVIDER, span, message)
                .label("`listen.headers.untrusted` has it, and no peer is trusted")
                .help(
                    "take another header, such as `header:X-Api-Key`; if a proxy adds this one, name the proxy in \
                     `listen.trusted_proxies`",
                )
        } else {
            let message = format!(
                "only trusted proxies can send a credential in `header:{name}`: the gateway removes this header from other peers"
            );
            Diagnostic::warning(code::NO_EFFECT, span, message)
                .label("`listen.headers.untrusted` has it")
                .help("if clients send the credential themselves, take another header, such as `header:X-Api-Key`")
        };
        sink.push(finding);
    }
}

/// Warns about a `rewrite.strip` that is in the path of none of its routes.
pub(super) fn report_strips(file: &File, sink: &mut Diagnostics) {
    let mut seen: Vec<(&At<String>, &Route, bool)> = Vec::new();
    for route in &file.routes {
        let (Some(strip), Some(path)) = (strip_of(file, route), &route.path) else { continue };
        let matches = can_begin_with(&path.value.path, &strip.value);
        match seen.iter_mut().find(|(other, ..)| other.span == strip.span) {
            Some((.., any)) => *any |= matches,
            None => seen.push((strip, route, matches)),
        }
    }
    for (strip, route, _) in seen.into_iter().filter(|(.., any)| !any) {
        let place = route.path.as_ref().map_or(route.span, |path| path.span);
        let message = "`rewrite.strip` takes away what no path of the route begins with";
        sink.push(
            Diagnostic::warning(code::NO_EFFECT, strip.span, message)
                .label("never found, so nothing is taken away")
                .related(place, "the paths of this route")
                .help(
                    "`path` is what clients ask for: put the prefix in front of it, too, or remove `strip`",
                ),
        );
    }
}

/// The `rewrite.strip` of a route, from the topmost layer that has one.
fn strip_of<'f>(file: &'f File, route: &'f Route) -> Option<&'f At<String>> {
    let policy = |name: &At<String>| file.policies.iter().find(|policy| policy.name.value == name.value);
    let mut used = route.uses.iter().rev().filter_map(policy);
    let of_policies = || used.find_map(|policy| policy.value.rewrite.strip.as_ref());
    route.own.rewrite.strip.as_ref().or_else(of_policies).or(file.defaults.rewrite.strip.as_ref())
}

/// Whether the pattern matches a path that begins with the prefix.
fn can_begin_with(pattern: &str, prefix: &str) -> bool {
    let mut wanted = prefix.split('/').filter(|segment| !segment.is_empty());
    let mut sample = String::new();
    for segment in pattern.split('/').filter(|segment| !segment.is_empty()) {
        if segment == "**" {
            wanted.by_ref().for_each(|wanted| sample.extend(["/", wanted]));
            break;
        }
        let wanted = wanted.next();
        let is_any = segment == "*" || segment.starts_with('{');
        sample.extend(["/", if is_any { wanted.unwrap_or("x") } else { segment }]);
    }
    reading::strip(&sample, prefix, true).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_looked_for_in_what_a_pattern_takes() {
        for (pattern, prefix, can) in [
            ("/api/**", "/api", true),
            ("/api", "/api", true),
            ("/api/users/**", "/api/users", true),
            ("/**", "/api/v2", true),
            ("/*/users", "/api", true),
            ("/{tenant}/{id}", "/a/b", true),
            ("/API/**", "/api", true),
            ("/users/**", "/api", false),
            ("/api", "/api/v2", false),
            ("/a/*", "/a/b/c", false),
            ("/", "/api", false),
            ("/apis/**", "/api", false),
        ] {
            assert_eq!(can_begin_with(pattern, prefix), can, "{pattern} {prefix}");
        }
    }

    #[test]
    fn a_network_is_wide_when_no_private_one_is_as_wide() {
        for (network, is_wide) in [
            ("0.0.0.0/0", true),
            ("0.0.0.0/1", true),
            ("::/0", true),
            ("10.0.0.0/8", false),
            ("fc00::/7", false),
            ("192.0.2.1/32", false),
        ] {
            assert_eq!(is_wider_than_private(&network.parse().unwrap()), is_wide, "{network}");
        }
    }
}
