//! The client's request body: read once, sent as often as attempts need it.
//!
//! An upload has one end, and it says which: the client's own, or what went wrong. The library's word is not enough.
//! hyper reports `RST_STREAM(NO_ERROR)` as the end of a body (hyperium/hyper#3681), and a service would take what came so
//! far for the whole request. Only END_STREAM ends an HTTP/2 request (RFC 9113 §8.1), and only as many bytes as
//! `Content-Length` promises end one that has it.

use std::{
    cell::{Cell, RefCell},
    error::Error as _,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, SizeHint};
use hyper::body::Incoming;

use super::{BodyError, IdleTimer, kept::Kept, request::RequestBody};

/// What the sending side of a request knows of its body; shared with the body while it streams.
#[derive(Debug)]
pub struct Upload {
    client: RefCell<Client>,
    /// As the client declared it.
    length: Option<u64>,
    /// Longest body that the route accepts.
    max: u64,
    version: Version,
    /// Of the [`RequestBody`] that may read. An older one belongs to an attempt that was given up.
    generation: Cell<u32>,
    /// Bytes that came from the client.
    pub bytes: Cell<u64>,
    /// The whole body came from the client.
    pub received: Cell<bool>,
    /// The whole body was handed to the upstream connection of the newest attempt.
    pub complete: Cell<bool>,
    /// The upstream could take more, and the client has not sent it yet: the delay is the client's.
    pub waiting: Cell<bool>,
    pub failure: Cell<Option<BodyError>>,
}

#[derive(Debug)]
struct Client {
    /// `None`: it ended.
    body: Option<Incoming>,
    kept: Kept,
    idle: IdleTimer,
}

/// What bounds an upload.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    /// Longest body that the route accepts.
    pub bytes_max: Option<u64>,
    /// Longest pause of the client.
    pub idle: Duration,
    /// First bytes that are held for a retry.
    pub keep_max: u64,
}

impl Upload {
    pub(super) fn new(body: Incoming, version: Version, limits: UploadLimits) -> Rc<Self> {
        Rc::new(Self {
            length: body.size_hint().exact(),
            client: RefCell::new(Client {
                body: Some(body),
                kept: Kept::new(limits.keep_max),
                idle: IdleTimer::new(limits.idle),
            }),
            max: limits.bytes_max.unwrap_or(u64::MAX),
            version,
            generation: Cell::new(0),
            bytes: Cell::new(0),
            received: Cell::new(false),
            complete: Cell::new(false),
            waiting: Cell::new(false),
            failure: Cell::new(None),
        })
    }

    /// The body again, from its first byte, for another attempt. From now on the body of the attempt before gets nothing
    /// more. `None`: not all that was read is still here, or the upload has failed.
    pub fn replay(self: &Rc<Self>) -> Option<RequestBody> {
        if self.failure.get().is_some() || !self.client.borrow().kept.is_whole() {
            return None;
        }
        self.generation.set(self.generation.get().wrapping_add(1));
        self.complete.set(false);
        self.waiting.set(false);
        Some(RequestBody::of(Rc::clone(self)))
    }

    /// Whether [`Upload::replay`] would give a body.
    pub fn can_replay(&self) -> bool {
        self.failure.get().is_none() && self.client.borrow().kept.is_whole()
    }

    /// No retry will follow: bytes that were held for one are let go.
    pub fn release(&self) {
        self.client.borrow_mut().kept.release();
        if self.complete.get() {
            self.client.borrow_mut().kept.forget_before(u64::MAX);
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// All that will come was read, and `at` is behind it.
    pub(super) fn is_over(&self, at: u64) -> bool {
        self.received.get() && at >= self.bytes.get()
    }

    /// What is left behind `at`.
    pub(super) fn size_hint(&self, at: u64) -> SizeHint {
        let length = if self.received.get() { Some(self.bytes.get()) } else { self.length };
        length.map_or_else(SizeHint::default, |length| SizeHint::with_exact(length.saturating_sub(at)))
    }

    /// The next bytes behind `at`, for the newest attempt. `None`: the end.
    pub(super) fn poll_from(&self, at: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut client = self.client.borrow_mut();
        if let Some(failure) = self.failure.get() {
            return Poll::Ready(Some(Err(failure)));
        }
        if let Some(data) = client.kept.from(at) {
            self.handed_over(at + data.len() as u64, &mut client);
            return Poll::Ready(Some(Ok(data)));
        }
        let polled = ready!(self.poll_client(&mut client, cx));
        if let Some(Ok(data)) = &polled {
            client.kept.pass(data);
        }
        self.handed_over(self.bytes.get(), &mut client);
        Poll::Ready(polled)
    }

    fn handed_over(&self, at: u64, client: &mut Client) {
        let is_over = self.is_over(at);
        self.complete.set(is_over);
        if is_over && !client.kept.is_whole() {
            client.kept.forget_before(at);
        }
    }

    /// The next bytes that the client sends. `None`: its own end.
    fn poll_client(
        &self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let Some(body) = &mut client.body else { return Poll::Ready(None) };
            let polled = Pin::new(&mut *body).poll_frame(cx);
            self.waiting.set(polled.is_pending());
            let result = match polled {
                Poll::Pending => {
                    ready!(client.idle.poll_expired(cx));
                    Err(BodyError::Idle)
                }
                Poll::Ready(Some(Ok(frame))) => {
                    client.idle.progress();
                    // Trailers: the end comes next.
                    let Ok(data) = frame.into_data() else { continue };
                    let bytes = self.bytes.get() + data.len() as u64;
                    self.bytes.set(bytes);
                    if bytes > self.max { Err(BodyError::TooLarge) } else { Ok(Some(data)) }
                }
                Poll::Ready(Some(Err(error))) => Err(cause(&error)),
                Poll::Ready(None) if self.is_true_end(body) => Ok(None),
                Poll::Ready(None) => Err(BodyError::Gone),
            };
            if !matches!(result, Ok(Some(_))) || body.is_end_stream() {
                self.received.set(result.is_ok());
                client.body = None;
            }
            return Poll::Ready(result.map_err(|error| self.fail(error)).transpose());
        }
    }

    /// Whether the end that the library reports is the client's. HTTP/1.1's chunks have their own end, which the library
    /// does not report before it has come.
    fn is_true_end(&self, body: &Incoming) -> bool {
        let has_own_end = self.version != Version::HTTP_2 && self.length.is_none();
        has_own_end || body.is_end_stream()
    }

    fn fail(&self, error: BodyError) -> BodyError {
        self.failure.set(Some(error));
        error
    }
}

/// A connection or a stream that ended is a client that left; everything else is a body that is not valid.
fn cause(error: &hyper::Error) -> BodyError {
    let source = error.source();
    let is_reset = source
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| error.is_remote() || error.is_io());
    let is_gone = source.and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(|error| {
        !matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other
        )
    });
    if is_reset || is_gone || error.is_incomplete_message() { BodyError::Gone } else { BodyError::Broken }
}
