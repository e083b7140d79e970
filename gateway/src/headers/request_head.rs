//! The head of a request as a service gets it, in the form of HTTP/1.1 (RFC 9112 §3, §5): origin form, one line for each
//! field.
//!
//! It is written once, when all that it depends on has been decided, and every attempt sends the same bytes. Only `Host` may
//! differ from attempt to attempt, and it comes first (RFC 9110 §7.2).

use std::ops::Range;

use http::{HeaderValue, Method, header};

/// The head of a request: its bytes, and what a connection must know of them.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    /// Where the value of `Host` is.
    host: Range<usize>,
    content: Delimiting,
    is_head: bool,
    asks_for_upgrade: bool,
    expects_invitation: bool,
}

/// How the content of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimiting {
    /// There is no content.
    Nothing,
    /// As many bytes as `Content-Length` states.
    Length(u64),
    /// In chunks, since the length is not known (RFC 9112 §7.1).
    Chunked,
}

impl RequestHead {
    /// Begins a head with its request line and `Host`. `target` is in origin form.
    pub(super) fn begin(method: &Method, target: &str, host: &HeaderValue) -> Self {
        let mut bytes = Vec::with_capacity(TYPICAL_BYTES);
        bytes.extend_from_slice(method.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(target.as_bytes());
        bytes.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        let start = bytes.len();
        bytes.extend_from_slice(host.as_bytes());
        let host = start..bytes.len();
        bytes.extend_from_slice(b"\r\n");
        let is_head = *method == Method::HEAD;
        let content = Delimiting::Nothing;
        Self { bytes, host, content, is_head, asks_for_upgrade: false, expects_invitation: false }
    }

    /// A head without further fields, to `a.test`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn plain(method: &Method, target: &str, content: Delimiting) -> Self {
        Self::begin(method, target, &HeaderValue::from_static("a.test")).end(content, false)
    }

    /// Adds a field, which is none of `Host`, `Content-Length` and `Transfer-Encoding`.
    pub(super) fn push(&mut self, name: &str, value: &[u8]) {
        self.bytes.reserve(name.len() + value.len() + 4);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Adds the two fields that ask for another protocol (RFC 9110 §7.8).
    pub(super) fn ask_for_upgrade(&mut self, protocol: &[u8]) {
        self.push(header::CONNECTION.as_str(), b"upgrade");
        self.push(header::UPGRADE.as_str(), protocol);
        self.asks_for_upgrade = true;
    }

    /// Adds the field by which the client waits with its content for a 100 (RFC 9110 §10.1.1).
    pub(super) fn expect_invitation(&mut self) {
        self.push(header::EXPECT.as_str(), b"100-continue");
        self.expects_invitation = true;
    }

    /// Ends the head with the one field that delimits the content. `states_nothing`: a length of 0 is written, too
    /// (RFC 9110 §8.6).
    pub(super) fn end(mut self, content: Delimiting, states_nothing: bool) -> Self {
        match content {
            Delimiting::Nothing if states_nothing => self.bytes.extend_from_slice(b"content-length: 0\r\n"),
            Delimiting::Nothing => {}
            Delimiting::Length(bytes) => {
                self.push(header::CONTENT_LENGTH.as_str(), itoa::Buffer::new().format(bytes).as_bytes());
            }
            Delimiting::Chunked => self.bytes.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.content = content;
        self
    }

    /// The whole head, with the empty line at its end.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How the content that follows is delimited.
    pub fn content(&self) -> Delimiting {
        self.content
    }

    /// HEAD: the response has no content, whatever its fields contain.
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// The response may switch the connection to another protocol.
    pub fn asks_for_upgrade(&self) -> bool {
        self.asks_for_upgrade
    }

    /// The service is to send a 100 before the content.
    pub fn expects_invitation(&self) -> bool {
        self.expects_invitation
    }

    /// Frees the bytes of a head that is not sent again.
    pub(crate) fn free(&mut self) {
        self.bytes = Vec::new();
        self.host = 0..0;
    }

    /// Writes another `Host`.
    pub(crate) fn set_host(&mut self, host: &HeaderValue) {
        let end = self.host.start + host.len();
        self.bytes.splice(self.host.clone(), host.as_bytes().iter().copied());
        self.host.end = end;
    }
}

/// Size in bytes of the head of a browser's request with the gateway's own fields. A longer head grows the buffer.
const TYPICAL_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &RequestHead) -> &str {
        std::str::from_utf8(head.bytes()).expect("ASCII")
    }

    #[test]
    fn a_head_is_written_in_origin_form_with_host_first_and_framing_last() {
        for (method, content, states_nothing, framing) in [
            (Method::GET, Delimiting::Nothing, false, ""),
            (Method::POST, Delimiting::Nothing, true, "content-length: 0\r\n"),
            (Method::PUT, Delimiting::Length(0), false, "content-length: 0\r\n"),
            (Method::GET, Delimiting::Length(u64::MAX), false, "content-length: 18446744073709551615\r\n"),
            (Method::DELETE, Delimiting::Chunked, true, "transfer-encoding: chunked\r\n"),
        ] {
            let mut head = RequestHead::begin(&method, "/items/7?x=1", &HeaderValue::from_static("a.test"));
            head.push("x-a", b"1");
            head.push("b", b"");
            head.push("x-a", b"\xff");
            let head = head.end(content, states_nothing);
            let expected =
                format!("{method} /items/7?x=1 HTTP/1.1\r\nhost: a.test\r\nx-a: 1\r\nb: \r\nx-a: ");
            let expected = [expected.as_bytes(), b"\xff\r\n", framing.as_bytes(), b"\r\n"].concat();
            assert_eq!(head.bytes(), expected);
            assert_eq!(head.content(), content);
        }
    }

    #[test]
    fn another_host_leaves_all_else_as_it_is() {
        let mut head = RequestHead::begin(&Method::HEAD, "/", &HeaderValue::from_static("a.test"));
        head.push("x", b"a.test");
        let mut head = head.end(Delimiting::Nothing, false);
        for host in ["10.0.0.1:8080", "b", "", "a.test"] {
            head.set_host(&HeaderValue::from_static(host));
            assert_eq!(text(&head), format!("HEAD / HTTP/1.1\r\nhost: {host}\r\nx: a.test\r\n\r\n"));
        }
        assert!(head.is_head());
    }
}
