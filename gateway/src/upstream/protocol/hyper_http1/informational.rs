//! Forwards a service's informational responses (1xx), which are read below hyper's client.
//!
//! A proxy must forward them (RFC 9110 §15.2). hyper's client reports them only to a callback that is made anew for each
//! request, which costs four allocations. Here the bytes of a response are compared with the beginning of such a head,
//! until its final head has begun. A head that is found is parsed with the parser that hyper uses. No byte is changed.
//!
//! 100 ends here, because it answers an expectation that the gateway has met itself. 101 is refused, and no other one is
//! forwarded after it.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::sink::ResponseSink;

/// The destination of the informational responses of one upstream connection.
#[derive(Default)]
pub(super) struct Informational {
    /// The final response head has not begun.
    is_awaited: Cell<bool>,
    /// `None`: the client's protocol does not have them.
    sink: RefCell<Option<ResponseSink>>,
}

impl Informational {
    /// A request is being sent.
    pub(super) fn begin(&self, sink: Option<ResponseSink>) {
        self.is_awaited.set(sink.is_some());
        *self.sink.borrow_mut() = sink;
    }

    /// The response is over, and the connection waits for another client.
    pub(super) fn end(&self) {
        self.is_awaited.set(false);
        *self.sink.borrow_mut() = None;
    }

    fn found(&self, status: StatusCode, headers: HeaderMap) {
        if let Some(sink) = &*self.sink.borrow() {
            sink.send(status, headers);
        }
    }
}

/// A byte stream in whose reads informational responses are found.
pub(super) struct Informed<I> {
    io: I,
    informational: Rc<Informational>,
    /// The beginning of a head that is not complete yet.
    partial: Vec<u8>,
}

impl<I> Informed<I> {
    pub(super) fn new(io: I, informational: Rc<Informational>) -> Self {
        Self { io, informational, partial: Vec::new() }
    }

    /// Gives up where hyper refuses a head because of its length.
    fn give_up_if_too_long(&mut self) {
        if self.partial.len() > RESPONSE_HEAD_BYTES_MAX {
            self.partial = Vec::new();
            self.informational.is_awaited.set(false);
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while self.informational.is_awaited.get() && !bytes.is_empty() {
            let before = self.partial.len();
            self.partial.extend_from_slice(bytes);
            if !may_begin(&self.partial) {
                self.partial = Vec::new();
                return self.informational.is_awaited.set(false);
            }
            // The parser decides where a head ends, and accepts bare line feeds, too. Only a line feed can end it.
            if !bytes.contains(&b'\n') {
                return self.give_up_if_too_long();
            }
            let partial = std::mem::take(&mut self.partial);
            match parse(&partial) {
                Parsed::Partial => {
                    self.partial = partial;
                    return self.give_up_if_too_long();
                }
                Parsed::Head { bytes: end, status, headers } => {
                    bytes = bytes.get(end.saturating_sub(before)..).unwrap_or_default();
                    match status {
                        status if status == CONTINUE => {}
                        status if status == SWITCHING_PROTOCOLS => self.informational.is_awaited.set(false),
                        status => self.informational.found(status, headers),
                    }
                }
                Parsed::Invalid => self.informational.is_awaited.set(false),
            }
        }
    }
}

/// The result of parsing the beginning of some bytes.
enum Parsed {
    Partial,
    /// An informational head of so many bytes.
    Head {
        bytes: usize,
        status: StatusCode,
        headers: HeaderMap,
    },
    Invalid,
}

/// Whether bytes are, or may become, the beginning of an informational head.
fn may_begin(bytes: &[u8]) -> bool {
    match bytes.get(..BEGINNING.len()) {
        Some(beginning) => beginning == BEGINNING,
        None => BEGINNING.starts_with(bytes),
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut lines = [httparse::EMPTY_HEADER; RESPONSE_LINES_MAX];
    let mut response = httparse::Response::new(&mut lines);
    let end = match response.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Invalid,
    };
    let status: Option<StatusCode> = response.code.and_then(|code| code.try_into().ok());
    let Some(status) = status else { return Parsed::Invalid };
    if !status.is_informational() {
        return Parsed::Invalid;
    }
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for line in &*response.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) else {
            return Parsed::Invalid;
        };
        headers.append(name, value);
    }
    Parsed::Head { bytes: end, status, headers }
}

/// The largest response head in bytes. nginx's default is 4 or 8 KiB, HAProxy's 16.
pub(super) const RESPONSE_HEAD_BYTES_MAX: usize = 32 * 1024;
/// The largest number of header lines of a response: hyper's own limit, and Envoy's default.
pub(super) const RESPONSE_LINES_MAX: usize = 100;

/// The beginning of all informational heads of HTTP/1.1 (RFC 9112 §4).
const BEGINNING: &[u8] = b"HTTP/1.1 1";
const CONTINUE: u16 = 100;
const SWITCHING_PROTOCOLS: u16 = 101;

impl<I: AsyncRead + Unpin> AsyncRead for Informed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if self.informational.is_awaited.get() {
            let bytes = buf.filled().get(before..).unwrap_or_default();
            // A final response from its first byte on, as nearly all are.
            if self.partial.is_empty() && !bytes.is_empty() && !may_begin(bytes) {
                self.informational.is_awaited.set(false);
            } else {
                self.pass(bytes);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Informed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
