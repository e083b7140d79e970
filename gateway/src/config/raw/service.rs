//! `services.<name>` as written: the service's endpoints and its policies.

use rustls_pki_types::ServerName;

use super::{
    Named,
    instances::{Consul, read_subsets},
    listen::read_pair,
};
use crate::{
    config::settings::Selector,
    policy::{
        self, ServicePolicies,
        of_route::{joined, length},
    },
    proxy_protocol::HeaderVersion,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, choice, one_or_many, some_text},
        tree::{At, Node},
        units::{Invalid, boolean, in_yaml},
    },
    upstream::settings::HttpVersion,
};

/// An entry of `services`.
#[derive(Debug, Default)]
pub(crate) struct Service {
    pub(crate) consul: Option<Consul>,
    pub(crate) subsets: Vec<Named<Selector>>,
    pub(crate) hosts: Option<Vec<String>>,
    /// `None`: the service speaks HTTP in cleartext.
    pub(crate) tls: Option<Tls>,
    /// The version of HTTP.
    pub(crate) version: HttpVersion,
    pub(crate) proxy_protocol: Option<HeaderVersion>,
    pub(crate) policies: ServicePolicies,
}

/// `tls` of a service that speaks HTTPS.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    pub(crate) ca_file: Option<At<String>>,
    pub(crate) cert_file: Option<At<String>>,
    pub(crate) key_file: Option<At<String>>,
    pub(crate) server_name: Option<String>,
    pub(crate) insecure: bool,
}

impl Service {
    /// Reads one entry of `services`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &SERVICE, sink) else { return Self::default() };
        for of_consul in ["consul", "subsets"] {
            if let (Some(other), Some(hosts)) = (fields.entry(of_consul), fields.entry("hosts")) {
                let message = format!("`{of_consul}` and `hosts` exclude each other");
                sink.push(
                    Diagnostic::error(code::CONFLICT, hosts.key.span, message)
                        .label("a service has fixed addresses, or Consul knows them")
                        .help(format!("remove `hosts` where Consul knows the instances, or `{of_consul}` where the addresses are fixed"))
                        .related(other.key.span, "the other one"),
                );
            }
        }
        let (https, version) = read_protocol(&fields, sink);
        Self {
            consul: fields.get("consul").and_then(|node| Consul::read(node, sink)),
            subsets: fields.get("subsets").map(|node| read_subsets(node, sink)).unwrap_or_default(),
            hosts: read_hosts(&fields, sink),
            tls: https.then(|| fields.get("tls").map(|node| Tls::read(node, sink)).unwrap_or_default()),
            version,
            proxy_protocol: fields.plain("proxy_protocol", sink, proxy_protocol).flatten(),
            policies: ServicePolicies::read(&fields, sink),
        }
    }
}

/// Reads `protocol`, and returns whether connections use TLS, and the version of HTTP.
fn read_protocol(fields: &Fields<'_>, sink: &mut Diagnostics) -> (bool, HttpVersion) {
    let protocols = [
        ("http", (false, HttpVersion::Http1)),
        ("https", (true, HttpVersion::Http1)),
        ("h2c", (false, HttpVersion::Http2)),
        ("h2", (true, HttpVersion::Http2)),
        ("auto", (true, HttpVersion::Either)),
        ("grpc", (false, HttpVersion::Grpc)),
        ("grpcs", (true, HttpVersion::Grpc)),
    ];
    let protocol = fields.value("protocol", sink, |text| choice(text, &protocols, &[]));
    let (https, version) = protocol.as_ref().map_or((false, HttpVersion::Http1), |protocol| protocol.value);
    if let Some(tls) = fields.entry("tls").filter(|_| !https) {
        let finding = Diagnostic::error(code::CONFLICT, tls.key.span, "`tls` needs `protocol: https`")
            .help("write `protocol: https`, or remove `tls`");
        sink.push(match protocol {
            Some(protocol) => finding.related(protocol.span, "in cleartext"),
            None => finding.label("without it requests go to the service in cleartext"),
        });
    }
    (https, version)
}

/// Reads `proxy_protocol`.
fn proxy_protocol(text: &str) -> Result<Option<HeaderVersion>, Invalid> {
    let words = [("off", None), ("v1", Some(HeaderVersion::Text)), ("v2", Some(HeaderVersion::Binary))];
    choice(if text == "false" { "off" } else { text }, &words, &[])
}

impl Tls {
    fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &TLS, sink) else { return Self::default() };
        let (cert_file, key_file) = read_pair(&fields, sink);
        Self {
            ca_file: fields.value("ca_file", sink, some_text),
            cert_file,
            key_file,
            server_name: fields.plain("server_name", sink, server_name),
            insecure: fields.plain("insecure", sink, boolean).unwrap_or_default(),
        }
    }
}

fn server_name(text: &str) -> Result<String, Invalid> {
    let name = ServerName::try_from(text).map_err(|_| {
        Invalid::new(code::BAD_VALUE, "a host name such as `orders.internal`, or an IP address", "not a name")
    })?;
    Ok(name.to_str().into_owned())
}

fn read_hosts(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<Vec<String>> {
    let node = fields.get("hosts")?;
    if one_or_many(node).is_empty() {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, node.span, "`hosts` is empty")
                .label("no request could be answered")
                .help("write `hosts: [\"127.0.0.1:9001\"]`, or remove `hosts` to find the service in Consul"),
        );
    }
    let hosts = fields.values("hosts", sink, host_and_port)?;
    report_twice(&hosts, sink);
    Some(hosts.into_iter().map(|at| at.value).collect())
}

fn report_twice(hosts: &[At<String>], sink: &mut Diagnostics) {
    for (index, host) in hosts.iter().enumerate() {
        if let Some(first) = hosts[..index].iter().find(|other| other.value == host.value) {
            sink.push(
                Diagnostic::error(code::CONFLICT, host.span, "this address stands in the list twice")
                    .label("would get twice the requests")
                    .related(first.span, "first here"),
            );
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads `host:port`, where the host is a name, an IPv4 address or `[IPv6]`.
fn host_and_port(text: &str) -> Result<String, Invalid> {
    let expected = "a host and a port, such as `127.0.0.1:9001` or `users.internal:80`";
    let refuse = |label: &str| Invalid::new(code::BAD_VALUE, expected, label);
    if text.contains(['/', ' ', ','])
        && let Some(addresses) = address_in(text)
    {
        return Err(addresses_in_other_words(text, &addresses, expected));
    }
    let authority: http::uri::Authority = text.parse().map_err(|_| refuse("not a host and a port"))?;
    match authority.port_u16() {
        None if text.rsplit_once(':').is_some_and(|(_, port)| is_number(port)) => {
            Err(refuse("a port is at most 65535"))
        }
        None => {
            let refusal = refuse("the port is missing");
            let with_port = format!("{text}:80");
            Err(if host_and_port(&with_port).is_ok() {
                refusal.help(format!("write `{with_port}`"))
            } else {
                refusal
            })
        }
        Some(0) => Err(refuse("port 0 cannot be connected to")),
        Some(_) if authority.host().is_empty() || text.contains('@') => Err(refuse("not a host and a port")),
        Some(_) => Ok(text.to_ascii_lowercase()),
    }
}

fn addresses_in_other_words(text: &str, addresses: &[String], expected: &str) -> Invalid {
    let is_url = text.contains("://");
    let label = if is_url { "a URL, not a host and a port" } else { "more than a host and a port" };
    let refusal = Invalid::new(code::BAD_VALUE, expected, label);
    let cure = |one: &str, why: &str| refusal.clone().help(format!("write `{}`{why}", in_yaml(one)));
    match addresses {
        [one] if text.starts_with("https://") => cure(one, ", and `protocol: https` beside `hosts`"),
        [one] if is_url => cure(one, ": a route puts a path in front with `rewrite.add`"),
        [one] => cure(one, ": fixed addresses have equal parts, weights come from Consul"),
        several => {
            let items: Vec<String> = several.iter().map(|address| format!("\"{address}\"")).collect();
            refusal.help(format!("write `hosts: [{}]`", items.join(", ")))
        }
    }
}

/// The addresses in `http://users:9001/api`, `127.0.0.1:9001 weight=5` or `a:80, b:80`, in the form that
/// `hosts` accepts.
pub(super) fn address_in(text: &str) -> Option<Vec<String>> {
    let one = |text: &str| {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let authority = rest.split(['/', '?', ' ']).next().unwrap_or_default();
        let port = if scheme == "https" { 443 } else { 80 };
        [authority.to_owned(), format!("{authority}:{port}"), format!("[{authority}]:{port}")]
            .into_iter()
            .find(|address| !address.contains(['/', ' ', ',']) && host_and_port(address).is_ok())
    };
    text.split(',').map(|part| one(part.trim())).collect()
}

const SERVICE_FIELDS: &[&[&str]] =
    &[&["consul", "subsets", "hosts", "protocol", "tls", "proxy_protocol"], policy::OF_SERVICE];

pub(crate) static SERVICE: Known = Known {
    what: "a service",
    prefix: "",
    fields: &joined::<{ length(SERVICE_FIELDS) }>(SERVICE_FIELDS),
    later: &["health", "queue"],
};
pub(crate) static TLS: Known = Known {
    what: "`tls`",
    prefix: "tls.",
    fields: &["ca_file", "cert_file", "key_file", "server_name", "insecure"],
    later: &[],
};
