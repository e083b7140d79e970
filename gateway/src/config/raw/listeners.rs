//! The listeners of `listen.http` as written: an address, a map, or a list of both. `listen.https` has maps only.

use std::net::{IpAddr, SocketAddr};

use crate::{
    proxy_protocol::ProxyProtocol,
    syntax::{
        diagnostics::{Diagnostics, code},
        fields::{Fields, Known, choice, name, one_or_many, value},
        tree::{At, Node, Value},
        units::{Invalid, in_yaml},
    },
};

/// One element of `listen.http`. Several addresses of one element are one listener.
#[derive(Debug, Default)]
pub(crate) struct Http {
    /// `None`: the default address.
    pub(crate) bind: Option<Vec<At<SocketAddr>>>,
    pub(crate) name: Option<At<String>>,
    pub(crate) redirect: Option<At<HttpsPort>>,
    pub(crate) proxy_protocol: Option<At<ProxyProtocol>>,
}

/// The port of `https` URLs to which a listener redirects its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpsPort {
    OfTheListener,
    Number(u16),
}

/// Reads `listen.http`. Elements that cannot be read are reported and left out.
pub(super) fn read_http(node: &Node, sink: &mut Diagnostics) -> Vec<Http> {
    let is_list = matches!(node.value, Value::List(_));
    let items = one_or_many(node).iter();
    items.filter_map(|item| Http::read(item, is_list, sink)).collect()
}

impl Http {
    fn read(node: &Node, is_in_list: bool, sink: &mut Diagnostics) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) {
            let bind = value(node, "listen.http", sink, address)?;
            return Some(Self { bind: Some(vec![bind]), ..Self::default() });
        }
        let fields = Fields::of(node, &HTTP, sink)?;
        if is_in_list {
            fields.need("bind", "bind: 0.0.0.0:8080", sink);
        }
        Some(Self {
            bind: fields.values("bind", sink, address),
            name: fields.value("name", sink, listener_name),
            redirect: fields.value("redirect", sink, https_port),
            proxy_protocol: fields.value("proxy_protocol", sink, proxy_protocol),
        })
    }
}

/// Reads `proxy_protocol`.
pub(super) fn proxy_protocol(text: &str) -> Result<ProxyProtocol, Invalid> {
    let words = [
        ("off", ProxyProtocol::Off),
        ("required", ProxyProtocol::Required),
        ("optional", ProxyProtocol::Optional),
    ];
    // YAML's own word for `off`.
    choice(if text == "false" { "off" } else { text }, &words, &[]).map_err(|invalid| match text {
        "on" | "true" | "v1" | "v2" => invalid.help("write `required`: both versions are read"),
        _ => invalid,
    })
}

/// Reads the name of a listener.
pub(super) fn listener_name(text: &str) -> Result<String, Invalid> {
    if text == "admin" {
        let expected = "a name for a listener of clients";
        return Err(Invalid::new(code::BAD_VALUE, expected, "this is the name of the admin listener"));
    }
    name(text)
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

pub(crate) static HTTP: Known = Known {
    what: "`listen.http`",
    prefix: "listen.http.",
    fields: &["bind", "name", "redirect", "proxy_protocol"],
    later: &[],
};
