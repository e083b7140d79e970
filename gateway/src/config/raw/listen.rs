//! `listen` as written.

use std::{net::SocketAddr, time::Duration};

use http::HeaderName;
use ipnet::IpNet;

use super::{
    http2::Http2,
    https::Https,
    later,
    listeners::{Http, address, proxy_protocol, read_http},
};
use crate::{
    message::names::Kind,
    proxy_protocol::ProxyProtocol,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, is_word, one_or_many, value},
        tree::{At, Node, Value},
        units::{Invalid, count, duration_in, millis, minutes, network, size_in, url_or},
    },
};

/// `listen`.
#[derive(Debug, Default)]
pub(crate) struct Listen {
    pub(crate) http: Option<Vec<Http>>,
    pub(crate) https: Vec<Https>,
    /// Of every listener that does not have its own.
    pub(crate) proxy_protocol: Option<At<ProxyProtocol>>,
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
            http: fields.get("http").map(|node| read_http(node, sink)),
            https: read_https(&fields, sink),
            proxy_protocol: fields.value("proxy_protocol", sink, proxy_protocol),
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

fn read_https(fields: &Fields<'_>, sink: &mut Diagnostics) -> Vec<Https> {
    let items = fields.get("https").map(one_or_many).unwrap_or_default();
    items.iter().filter_map(|item| Https::read(item, sink)).collect()
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
        "proxy_protocol",
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
    later: &[],
};
pub(crate) static LISTEN_HEADERS: Known =
    Known { what: "`listen.headers`", prefix: "listen.headers.", fields: &["untrusted"], later: &[] };
