//! `listen` as written.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;

use super::{http2::Http2, https::Https, later};
use crate::{
    message::names::Kind,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, is_word, value},
        tree::{At, Node, Value},
        units::{Invalid, count, duration_in, in_yaml, millis, minutes, network, size_in, url_or},
    },
};

/// `listen`.
#[derive(Debug, Default)]
pub(crate) struct Listen {
    pub(crate) http: Option<Vec<At<SocketAddr>>>,
    pub(crate) http_redirect: Option<At<HttpsPort>>,
    pub(crate) https: Option<Https>,
    pub(crate) admin: Option<Admin>,
    pub(crate) admin_hosts: Vec<String>,
    pub(crate) trusted_proxies: Vec<At<IpNet>>,
    pub(crate) untrusted_headers: Option<At<Vec<String>>>,
    pub(crate) header_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_headers: Option<usize>,
    pub(crate) max_header_bytes: Option<u64>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_streams: Option<u32>,
    pub(crate) max_requests_per_connection: Option<u32>,
    pub(crate) http2: Http2,
}

/// The port of `https` URLs to which `listen.http` redirects its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpsPort {
    OfTheListener,
    Number(u16),
}

/// `listen.admin`.
#[derive(Debug)]
pub(crate) enum Admin {
    Off,
    Address(At<SocketAddr>),
}

impl Listen {
    /// Reads the map `listen`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &LISTEN, sink) else { return Self::default() };
        Self {
            http: read_http(&fields, sink),
            http_redirect: fields.get("http").and_then(|node| read_http_redirect(node, sink)),
            https: fields.get("https").and_then(|node| Https::read(node, address, sink)),
            admin: fields.get("admin").and_then(|node| Admin::read(node, sink)),
            admin_hosts: plain_list(fields.values("admin_hosts", sink, host_name)),
            trusted_proxies: fields.values("trusted_proxies", sink, network).unwrap_or_default(),
            untrusted_headers: fields.get("headers").and_then(|node| read_untrusted(node, sink)),
            header_timeout: fields
                .plain("header_timeout", sink, |t| duration_in(t, millis(100)..=minutes(10))),
            idle_timeout: fields
                .plain("idle_timeout", sink, |t| duration_in(t, millis(100)..=minutes(24 * 60))),
            max_headers: fields.plain("max_headers", sink, |t| count(t, 10..=1000)),
            max_header_bytes: fields.plain("max_header_size", sink, |t| size_in(t, 8 * KIB..=1024 * KIB)),
            max_connections: fields.plain("max_connections", sink, |t| count(t, 1..=10_000_000)),
            max_streams: fields.plain("max_streams", sink, |t| count(t, 1..=10_000)),
            max_requests_per_connection: fields
                .plain("max_requests_per_connection", sink, |t| count(t, 1..=1_000_000_000)),
            http2: fields.get("http2").map(|node| Http2::read(node, sink)).unwrap_or_default(),
        }
    }
}

/// Reads `listen.http`: an address, a list of addresses, or a map with `bind`.
fn read_http(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<Vec<At<SocketAddr>>> {
    let node = fields.get("http")?;
    if !matches!(node.value, Value::Map(_)) {
        return fields.values("http", sink, address);
    }
    Fields::of(node, &HTTP, sink)?.values("bind", sink, address)
}

fn read_http_redirect(node: &Node, sink: &mut Diagnostics) -> Option<At<HttpsPort>> {
    if !matches!(node.value, Value::Map(_)) {
        return None;
    }
    // Unknown keys were reported when the addresses were read.
    let fields = Fields::of(node, &HTTP, &mut Diagnostics::default())?;
    fields.value("redirect", sink, https_port)
}

/// Reads `https`, or `https:443` for clients that reach the TLS listener at another port than its own.
fn https_port(text: &str) -> Result<HttpsPort, Invalid> {
    let expected = "`https`, or `https:PORT` where clients see another port than the listener's";
    let refuse = |label: &str| Invalid::new(code::BAD_VALUE, expected, label);
    match text.split_once(':') {
        None if text == "https" => Ok(HttpsPort::OfTheListener),
        Some(("https", port)) => match port.parse() {
            Ok(port) if port > 0 => Ok(HttpsPort::Number(port)),
            _ => Err(refuse("not a port")),
        },
        _ => Err(refuse("not one of the two")),
    }
}

/// Reads `listen.headers`.
fn read_untrusted(node: &Node, sink: &mut Diagnostics) -> Option<At<Vec<String>>> {
    let fields = Fields::of(node, &LISTEN_HEADERS, sink)?;
    let names = fields.values("untrusted", sink, untrusted_name)?;
    if names.len() > UNTRUSTED_MAX {
        let message = format!("`listen.headers.untrusted` has more than {UNTRUSTED_MAX} names");
        sink.push(
            Diagnostic::error(code::OUT_OF_RANGE, node.span, message).help("write `X-Example-*` for many"),
        );
    }
    let span = fields.get("untrusted").map_or(node.span, |node| node.span);
    Some(At { value: names.into_iter().map(|at| at.value).collect(), span })
}

/// Reads a name such as `X-Original-URL` or `X-SSL-Client-*`.
fn untrusted_name(text: &str) -> Result<String, Invalid> {
    let refuse = |label: &str| {
        Invalid::new(code::BAD_VALUE, "a header name such as `X-Original-URL` or `X-SSL-Client-*`", label)
    };
    // As a header's name, `Default` would replace the default names although it is meant to add them.
    if text != "default" && matches!(text.to_ascii_lowercase().as_str(), "default" | "defaults") {
        return Err(refuse("not the word for the names that are the default").help("write `default`"));
    }
    let (name, rest) = text.split_at(text.find('*').unwrap_or(text.len()));
    let name: HeaderName = name.parse().map_err(|_| refuse("not a header name"))?;
    if !matches!(rest, "" | "*") {
        return Err(refuse("`*` can only stand at the end"));
    }
    let reason = match Kind::of(name.as_str()) {
        Kind::EndToEnd => return Ok(format!("{name}{rest}")),
        Kind::HopByHop => "it ends at this gateway in any case, whoever sends it",
        Kind::Framing => "requests need it, and the gateway writes it anew whoever sends it",
        Kind::Credential => "it is the client's own proof, which `auth` checks",
        Kind::Forwarding => "it is removed unless a trusted proxy sends it in any case",
        Kind::Managed => "the gateway writes it itself, whoever sends it",
    };
    Err(refuse(reason).help("remove it from the list"))
}

impl Admin {
    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        if is_word(node, "off") {
            return Some(Self::Off);
        }
        if matches!(&node.value, Value::Scalar(scalar) if scalar.text.starts_with("unix:")) {
            later(node.span, "a Unix socket for `listen.admin`", sink);
            return None;
        }
        value(node, "listen.admin", sink, address).map(Self::Address)
    }
}

/// Reads a text that may be empty, so that `${NAME:-}` can mean "none".
#[expect(clippy::unnecessary_wraps, reason = "one of the parsers that `Fields` takes")]
pub(super) fn any_text(text: &str) -> Result<String, Invalid> {
    Ok(text.to_owned())
}

/// Reads an address such as `127.0.0.1:8080` or `[::1]:8080`. With port 0 the system chooses a port.
pub(crate) fn address(text: &str) -> Result<SocketAddr, Invalid> {
    let expected = "an IP address and a port, such as `0.0.0.0:8080` or `[::1]:8080`";
    text.parse().map_err(|_| {
        let refuse = |label: &str| Invalid::new(code::BAD_VALUE, expected, label);
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
        let (host, port) = bare.rsplit_once(':').unwrap_or(("", bare));
        let has_port = port.parse::<u16>().is_ok();
        match host {
            _ if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
                refuse("the port is missing").help(format!("write `\"[{text}]:8080\"`"))
            }
            _ if text.parse::<IpAddr>().is_ok() => {
                refuse("the port is missing").help(format!("write `{text}:8080`"))
            }
            "" | "*" if has_port => refuse("the IP address is missing").help(format!(
                "write `0.0.0.0:{port}` for all interfaces, `127.0.0.1:{port}` for this machine only"
            )),
            "localhost" if has_port => {
                refuse("a name, not an IP address").help(format!("write `127.0.0.1:{port}`"))
            }
            _ if has_port && bare.parse::<SocketAddr>().is_ok() => {
                refuse("a URL, not an address").help(format!("write `{}`", in_yaml(bare)))
            }
            _ if has_port => refuse("a name, not an IP address").help(format!(
                "write `0.0.0.0:{port}`: every name is taken there; which one a route is for is its `host`"
            )),
            _ => refuse("not an address with a port between 0 and 65535"),
        }
    })
}

fn plain_list<T>(list: Option<Vec<At<T>>>) -> Vec<T> {
    list.unwrap_or_default().into_iter().map(|at| at.value).collect()
}

/// Reads a name as it is in `Host`, without a port.
fn host_name(text: &str) -> Result<String, Invalid> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(is_name) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Invalid::new(
        code::BAD_VALUE,
        "a host name without a port, such as `gateway.internal`",
        "not a host name",
    ))
}

/// Reads `cert_file` and `key_file`, of which the file has both or none. A variable may leave them empty.
pub(crate) fn read_pair(
    fields: &Fields<'_>,
    sink: &mut Diagnostics,
) -> (Option<At<String>>, Option<At<String>>) {
    let mut some = |name| fields.value(name, sink, any_text).filter(|at: &At<String>| !at.value.is_empty());
    let (cert_file, key_file) = (some("cert_file"), some("key_file"));
    if let (Some(alone), None) | (None, Some(alone)) = (&cert_file, &key_file) {
        let message = "`cert_file` and `key_file` need each other";
        sink.push(
            Diagnostic::error(code::MISSING_FIELD, alone.span, message).label("the other one is missing"),
        );
    }
    (cert_file, key_file)
}

/// Reads `http://host:port` or `https://host:port`, without a path.
pub(crate) fn http_url(text: &str) -> Result<String, Invalid> {
    let url = any_http_url(text)?;
    let refuse =
        |label: &str| Err(Invalid::new(code::BAD_VALUE, "a URL such as `http://127.0.0.1:8500`", label));
    let path = text.splitn(4, '/').nth(3).unwrap_or_default();
    if path.is_empty() {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let without = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    refuse("a path belongs to no agent").map_err(|invalid| invalid.help(format!("write `{without}`")))
}

/// Reads an `http` or `https` URL, which is kept as written.
pub(crate) fn any_http_url(text: &str) -> Result<String, Invalid> {
    url_or(text, "http")
}

pub(crate) const KIB: u64 = 1024;

/// About twice the default list. A longer list is most likely generated by mistake.
const UNTRUSTED_MAX: usize = 256;

pub(crate) static LISTEN: Known = Known {
    what: "`listen`",
    prefix: "listen.",
    fields: &[
        "http",
        "https",
        "admin",
        "admin_hosts",
        "trusted_proxies",
        "headers",
        "header_timeout",
        "idle_timeout",
        "max_headers",
        "max_header_size",
        "max_connections",
        "max_streams",
        "max_requests_per_connection",
        "http2",
    ],
    later: &["proxy_protocol"],
};
pub(crate) static LISTEN_HEADERS: Known =
    Known { what: "`listen.headers`", prefix: "listen.headers.", fields: &["untrusted"], later: &[] };
pub(crate) static HTTP: Known =
    Known { what: "`listen.http`", prefix: "listen.http.", fields: &["bind", "redirect"], later: &[] };
