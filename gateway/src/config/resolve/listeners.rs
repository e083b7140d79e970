//! The listeners of `listen`: their names, their addresses, and where the cleartext ones send their clients.
//!
//! A listener without a name is called by its protocol: `http` or `https`, then `http-2`, `http-3` and so on, in the order of
//! the file and without the names that others have.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::defaults::Defaults;
use crate::{
    config::raw::{
        https::Https,
        listen::{Admin, Listen},
        listeners::{Http, HttpsPort},
    },
    listen::HttpSettings,
    proxy_protocol::ProxyProtocol,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::unknown_name,
        tree::At,
    },
};

/// What is known of the listeners before their files are read.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) http: Vec<HttpSettings>,
    /// Names of listeners that redirect every client, with the port.
    pub(super) redirects: Vec<(Arc<str>, u16)>,
    /// What is common to listeners of `listen.https`, in its order.
    pub(super) https: Vec<TlsListener>,
}

/// The name of a TLS listener, and whether its connections begin with the client's address.
#[derive(Debug)]
pub(super) struct TlsListener {
    pub(super) name: Arc<str>,
    pub(super) proxy_protocol: ProxyProtocol,
}

impl Listeners {
    pub(super) fn resolve(raw: &Listen, defaults: &Defaults, sink: &mut Diagnostics) -> Self {
        report_address_twice(raw, sink);
        let default = [Http::default()];
        let redirects = raw.http.iter().flatten().any(|http| http.redirect.is_some());
        let http = match &raw.http {
            Some(listeners) => &listeners[..],
            None if !raw.https.is_empty() && !redirects => &[],
            None => &default[..],
        };
        let mut names = Names::of(http, &raw.https, sink);
        let mut resolved = Self::default();
        for listener in http {
            let name = names.next(listener.name.as_ref(), "http");
            let binds = listener
                .bind
                .as_ref()
                .map_or(vec![defaults.listen.http], |binds| binds.iter().map(|bind| bind.value).collect());
            let proxy_protocol = proxy_protocol(listener.proxy_protocol.as_ref(), raw, sink);
            let settings =
                binds.into_iter().map(|bind| HttpSettings { name: Arc::clone(&name), bind, proxy_protocol });
            resolved.http.extend(settings);
            if let Some(redirect) = &listener.redirect
                && let Some(port) = port_of(redirect, &raw.https, sink)
            {
                resolved.redirects.push((name, port));
            }
        }
        for https in &raw.https {
            let name = names.next(https.name.as_ref(), "https");
            let proxy_protocol = proxy_protocol(https.proxy_protocol.as_ref(), raw, sink);
            resolved.https.push(TlsListener { name, proxy_protocol });
        }
        resolved
    }

    /// The listeners of a route by the names that it has for them. Empty: all.
    pub(super) fn named(&self, written: Option<&[At<String>]>, sink: &mut Diagnostics) -> Vec<Arc<str>> {
        let mut named = Vec::new();
        for name in written.unwrap_or_default() {
            let known =
                self.http.iter().map(|http| &http.name).chain(self.https.iter().map(|https| &https.name));
            let Some(found) = known.clone().find(|known| ***known == *name.value) else {
                let mut known: Vec<&str> = known.map(|name| &**name).collect();
                known.dedup();
                sink.push(unknown_name("listener", name, known.into_iter()));
                continue;
            };
            if self.redirects.iter().any(|(name, _)| name == found) {
                sink.push(
                    Diagnostic::error(
                        code::CONFLICT,
                        name.span,
                        format!("the listener `{found}` sends every client to `https`"),
                    )
                    .label("no request reaches a route through it")
                    .help("name the TLS listener, or remove `redirect` from this one"),
                );
            }
            named.push(Arc::clone(found));
        }
        named.sort();
        named.dedup();
        named
    }
}

/// Names that are given, and the numbers of those that are made.
struct Names {
    given: HashSet<String>,
    made: HashMap<&'static str, usize>,
}

impl Names {
    fn of(http: &[Http], https: &[Https], sink: &mut Diagnostics) -> Self {
        let mut seen: HashMap<&str, Span> = HashMap::new();
        let all = http.iter().map(|http| &http.name).chain(https.iter().map(|https| &https.name));
        for name in all.flatten() {
            if let Some(first) = seen.insert(&name.value, name.span) {
                sink.push(
                    Diagnostic::error(code::DUPLICATE_NAME, name.span, "two listeners have the same name")
                        .label("routes and logs could not tell them apart")
                        .related(first, "the other listener")
                        .help(
                            "several addresses of one listener are `{name: NAME, bind: [ADDRESS, ADDRESS]}`",
                        ),
                );
            }
        }
        Self { given: seen.into_keys().map(ToOwned::to_owned).collect(), made: HashMap::new() }
    }

    fn next(&mut self, given: Option<&At<String>>, protocol: &'static str) -> Arc<str> {
        if let Some(given) = given {
            return given.value.as_str().into();
        }
        let number = self.made.entry(protocol).or_default();
        loop {
            *number += 1;
            let name = if *number == 1 { protocol.to_owned() } else { format!("{protocol}-{number}") };
            if !self.given.contains(&name) {
                return name.into();
            }
        }
    }
}

/// Whether connections of a listener begin with the client's address. Only a trusted proxy may state one.
fn proxy_protocol(own: Option<&At<ProxyProtocol>>, raw: &Listen, sink: &mut Diagnostics) -> ProxyProtocol {
    let Some(written) = own.or(raw.proxy_protocol.as_ref()) else { return ProxyProtocol::Off };
    if written.value != ProxyProtocol::Off && raw.trusted_proxies.is_empty() {
        let label = match written.value {
            ProxyProtocol::Required => "every connection would be closed",
            _ => "no header would be read",
        };
        sink.push_once(
            Diagnostic::error(code::CONFLICT, written.span, "`proxy_protocol` needs `listen.trusted_proxies`")
                .label(label)
                .help("name the load balancers in front, such as `listen: {trusted_proxies: [10.0.0.0/8]}`: any other peer could state any address"),
        );
    }
    written.value
}

/// The port to which a cleartext listener redirects its clients. `None`: an error was reported.
fn port_of(redirect: &At<HttpsPort>, https: &[Https], sink: &mut Diagnostics) -> Option<u16> {
    if let HttpsPort::Number(port) = redirect.value {
        return Some(port);
    }
    let mut ports: Vec<u16> =
        https.iter().filter_map(|https| Some(https.bind.as_ref()?.value.port())).collect();
    ports.sort_unstable();
    ports.dedup();
    let finding = match *ports {
        [port] => return Some(port),
        // A listener whose address could not be read is reported already.
        [] if !https.is_empty() => return None,
        [] => Diagnostic::error(code::CONFLICT, redirect.span, "there is no TLS listener to send clients to")
            .label("`listen.https` is missing")
            .help("add it, or write `https:443` where something in front of this gateway ends TLS"),
        [first, ..] => Diagnostic::error(
            code::CONFLICT,
            redirect.span,
            "there are several TLS listeners to send clients to",
        )
        .label("`listen.https` has more than one port")
        .help(format!("write the port that clients see, such as `\"https:{first}\"`")),
    };
    sink.push(finding);
    None
}

/// Reports two listeners on one address: with SO_REUSEPORT both would bind, and share connections at random.
fn report_address_twice(raw: &Listen, sink: &mut Diagnostics) {
    let mut seen: Vec<&At<SocketAddr>> = Vec::new();
    let admin = match &raw.admin {
        Some(Admin::Address(at)) => Some(at),
        _ => None,
    };
    for address in of_clients(raw).chain(admin) {
        if let Some(first) = seen.iter().find(|other| clash(other.value, address.value)) {
            sink.push(
                Diagnostic::error(code::ADDRESS_TWICE, address.span, "two listeners have this address")
                    .label("choose another port")
                    .related(first.span, "the other listener"),
            );
        }
        seen.push(address);
    }
}

/// The addresses for clients that the file names.
fn of_clients(raw: &Listen) -> impl Iterator<Item = &At<SocketAddr>> {
    let http = raw.http.iter().flatten().flat_map(|http| http.bind.iter().flatten());
    http.chain(raw.https.iter().filter_map(|https| https.bind.as_ref()))
}

/// Advises a share per client on a public listener without trusted proxies, where an address is a client.
pub(super) fn advise_client_share(raw: &Listen, sink: &mut Diagnostics) {
    let Some(public) = of_clients(raw).find(|at| is_public(at.value.ip())) else { return };
    if raw.trusted_proxies.is_empty() {
        let message =
            "clients connect to this address themselves, and one of them may hold half of each service";
        sink.push(
            Diagnostic::warning(code::AT_THE_EDGE, public.span, message)
                .label("no proxy in front is named")
                .help("write `limits: {per_client: 12.5%}` at the top of the file; or `per_client: off` where many clients share an address"),
        );
    }
}

/// Whether clients of the public network may reach this address. A wildcard counts as public, since it includes
/// all addresses.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_private() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
    }
}

fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family_wildcard =
        a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || same_family_wildcard)
}
