//! The handshake of another protocol (RFC 9110 §7.8), as the gateway passes it on, and the check of its answer.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::{list_members, request_head::RequestHead};
use crate::tunnel::websocket;

/// The handshake of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The protocol, in lower case.
    protocol: Box<str>,
    /// The key of WebSocket (RFC 6455 §4.1).
    key: Option<HeaderValue>,
    /// The gateway has made the key: over HTTP/2 a client has none (RFC 8441 §5).
    is_own_key: bool,
}

impl Handshake {
    /// A client's handshake over HTTP/1.1. `key`: that of WebSocket.
    pub fn passed_on(protocol: &str, key: Option<HeaderValue>) -> Self {
        Self { protocol: protocol.into(), key, is_own_key: false }
    }

    /// The handshake of a client that uses HTTP/2, with a new key if the protocol needs one.
    pub fn begun_here(protocol: &str, random: [u8; 16]) -> Self {
        let key = (protocol == websocket::NAME).then(|| HeaderValue::try_from(websocket::key(random)));
        Self { protocol: protocol.into(), key: key.and_then(Result::ok), is_own_key: true }
    }

    pub fn is_websocket(&self) -> bool {
        &*self.protocol == websocket::NAME
    }

    /// Adds the fields of the handshake to the head that the service gets.
    pub(super) fn write(&self, head: &mut RequestHead) {
        if let Some(key) = self.key.as_ref().filter(|_| self.is_own_key) {
            head.push(header::SEC_WEBSOCKET_KEY.as_str(), key.as_bytes());
        }
        head.ask_for_upgrade(self.protocol.as_bytes());
    }

    /// Whether the gateway writes this field of the client anew.
    pub(super) fn replaces(&self, name: &HeaderName) -> bool {
        self.is_own_key && *name == header::SEC_WEBSOCKET_KEY
    }

    /// Whether a 101 with these fields answers this handshake: it names the protocol that was asked for, and no other, and proves
    /// that the service has read the key.
    pub fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        let mut protocols = list_members(headers, &header::UPGRADE);
        let is_the_one =
            protocols.next().is_some_and(|name| name.eq_ignore_ascii_case(self.protocol.as_bytes()));
        let has_option = list_members(headers, &header::CONNECTION)
            .any(|option| option.eq_ignore_ascii_case(header::UPGRADE.as_str().as_bytes()));
        let mut accepts = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        let is_proved = self.key.as_ref().is_none_or(|key| {
            let expected = websocket::accept(key.as_bytes());
            accepts.next().is_some_and(|accept| accept.as_bytes() == expected.as_bytes())
                && accepts.next().is_none()
        });
        is_the_one && protocols.next().is_none() && has_option && is_proved
    }
}

/// Removes the members of `Sec-WebSocket-Protocol` that begin with the prefix, in any case: they are credentials of the gateway, and a
/// service would choose one of them and send it back.
pub fn remove_subprotocols(headers: &mut HeaderMap, prefix: &str) {
    let begins = |member: &&[u8]| {
        member.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    if !list_members(headers, &name).any(|member| begins(&member)) {
        return;
    }
    let left: Vec<&[u8]> = list_members(headers, &name).filter(|member| !begins(member)).collect();
    let left = left.join(&b", "[..]);
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(left)) {
        Ok(left) if !left.is_empty() => _ = headers.insert(name, left),
        _ => _ = headers.remove(name),
    }
}

/// Whether the service has switched its connection to another protocol.
pub fn is_switched<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// Turns the head of a 101 into that of the client's response. Over HTTP/2 that is an ordinary one (RFC 8441 §5).
pub fn apply_switched<B>(response: &mut Response<B>, handshake: &Handshake, is_http2: bool) {
    if is_http2 {
        *response.status_mut() = StatusCode::OK;
    }
    let headers = response.headers_mut();
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    if is_http2 {
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    } else if let Ok(protocol) = HeaderValue::try_from(&*handshake.protocol) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    const KEY: HeaderValue = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
    const ACCEPT: (&str, &str) = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

    #[test]
    fn only_the_protocol_that_was_asked_for_with_the_proof_of_its_key_is_an_answer() {
        let handshake = Handshake::passed_on("websocket", Some(KEY));
        let (connection, upgrade) = (("connection", "Upgrade"), ("upgrade", "WebSocket"));
        for (fields, is_answer) in [
            (&[connection, upgrade, ACCEPT][..], true),
            (&[("connection", "keep-alive, upgrade"), upgrade, ACCEPT], true),
            (&[upgrade, ACCEPT], false),
            (&[connection, ACCEPT], false),
            (&[connection, upgrade], false),
            (&[connection, ("upgrade", "h2c"), ACCEPT], false),
            (&[connection, ("upgrade", "websocket, h2c"), ACCEPT], false),
            (&[connection, upgrade, upgrade, ACCEPT], false),
            (&[connection, upgrade, ACCEPT, ACCEPT], false),
            (&[connection, upgrade, ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=")], false),
        ] {
            assert_eq!(handshake.is_answered_by(&map(fields)), is_answer, "{fields:?}");
        }
        let other = Handshake::passed_on("echo/1", None);
        assert!(other.is_answered_by(&map(&[connection, ("upgrade", "echo/1")])));
        assert!(!other.is_answered_by(&map(&[connection, ("upgrade", "echo/2")])));
    }

    #[test]
    fn credentials_are_taken_out_of_the_list_of_subprotocols() {
        let protocols = |lines: &[&'static str]| -> HeaderMap {
            map(&lines.iter().map(|line| ("sec-websocket-protocol", *line)).collect::<Vec<_>>())
        };
        for (before, after) in [
            (&["chat, bearer.a.b.c"][..], &["chat"][..]),
            (&["Bearer.a", "chat,soap"], &["chat, soap"]),
            (&["bearer.a"], &[]),
            (&["chat ,soap"], &["chat ,soap"]),
            (&[], &[]),
        ] {
            let mut headers = protocols(before);
            remove_subprotocols(&mut headers, "bearer.");
            assert_eq!(headers, protocols(after), "{before:?}");
        }
    }

    #[test]
    fn a_handshake_of_http2_has_a_key_of_the_gateway() {
        let handshake = Handshake::begun_here("websocket", [1; 16]);
        let key = handshake.key.clone().unwrap();
        assert!(websocket::is_key(key.as_bytes()));
        assert!(handshake.replaces(&header::SEC_WEBSOCKET_KEY) && !handshake.replaces(&header::ORIGIN));
        let mut response = Response::new(());
        *response.headers_mut() =
            map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("x", "1"), ACCEPT]);
        apply_switched(&mut response, &handshake, true);
        assert_eq!((response.status(), response.headers()), (StatusCode::OK, &map(&[("x", "1")])));
    }
}
