//! `upgrade`: the protocols to which clients may change a connection on the route (RFC 9110 §7.8).

use std::sync::Arc;

use http::HeaderName;

use super::of_route::{Compile, RoutePolicy, View, replace};
use crate::{
    syntax::{
        diagnostics::{Diagnostics, code},
        fields::{Fields, is_word, values},
        units::Invalid,
    },
    tunnel::websocket,
};

/// The protocols, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Upgrade(Vec<Box<str>>);

impl RoutePolicy for Upgrade {
    type Written = Option<Upgrade>;
    type Compiled = Arc<Upgrade>;
    const KEYS: &'static [&'static str] = &["upgrade"];

    /// Reads a list of protocols, one of them, or `off`.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        let node = fields.get("upgrade")?;
        if is_word(node, "off") {
            return Some(Self(Vec::new()));
        }
        Some(Self(values(node, "upgrade", sink, protocol).into_iter().map(|at| at.value).collect()))
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        replace(under, top.as_ref());
    }

    fn compile(written: &Self::Written, with: &mut Compile<'_, '_>) -> Arc<Upgrade> {
        with.shared.share(Arc::new(written.clone().unwrap_or_default()))
    }

    fn show(compiled: &Arc<Upgrade>, view: &mut View<'_>) {
        if **compiled != Self::default() {
            view.items("upgrade", compiled.0.iter().map(ToString::to_string));
        }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self(vec![websocket::NAME.into()])
    }
}

impl Upgrade {
    /// The protocol to use: the first of those that the client asks for, in its order, that the route allows.
    pub(crate) fn choose<'a>(&'a self, mut asked: impl Iterator<Item = &'a [u8]>) -> Option<&'a str> {
        asked.find_map(|asked| {
            self.0.iter().find(|allowed| allowed.as_bytes().eq_ignore_ascii_case(asked)).map(|name| &**name)
        })
    }
}

fn protocol(text: &str) -> Result<Box<str>, Invalid> {
    let expected = "protocols such as `websocket`, or `off`";
    let name = text.split('/').next().unwrap_or_default().to_ascii_lowercase();
    if OTHER_HTTP.contains(&&*name) {
        let label = "another way to transmit HTTP, which clients of the gateway choose by themselves";
        return Err(Invalid::new(code::BAD_VALUE, expected, label).help("leave it out"));
    }
    // A protocol is a token, with a version that is one too (RFC 9110 §7.8), and a field name is a token.
    if !text.split('/').all(|part| HeaderName::from_bytes(part.as_bytes()).is_ok()) {
        return Err(Invalid::new(code::BAD_VALUE, expected, "not the name of a protocol"));
    }
    Ok(text.to_ascii_lowercase().into())
}

/// A tunnel of one of these would pass requests around all policies.
const OTHER_HTTP: [&str; 5] = ["h2c", "h2", "http", "tls", "connect-udp"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_protocol_that_the_route_allows_is_chosen() {
        let upgrade = Upgrade(vec!["websocket".into(), "echo/1".into()]);
        for (asked, chosen) in [
            (&["websocket"][..], Some("websocket")),
            (&["h2c", "WebSocket"], Some("websocket")),
            (&["ECHO/1", "websocket"], Some("echo/1")),
            (&["echo"], None),
            (&["websocket/13"], None),
            (&[], None),
        ] {
            assert_eq!(upgrade.choose(asked.iter().map(|name| name.as_bytes())), chosen, "{asked:?}");
        }
        assert_eq!(Upgrade(Vec::new()).choose([&b"websocket"[..]].into_iter()), None);
    }
}
