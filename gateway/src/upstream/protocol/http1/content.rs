//! The content of a response, read as the client takes it.
//!
//! Where it ends is known to [`Http1Content`] alone, not to the connection: once it is over, it has let go of the connection, so
//! that nothing can read another response through it. Small content that came with its head is there at once. The rest is
//! read into the worker's buffer and copied as long as little comes, and into memory of its own, without a copy, when much
//! comes.

use std::{
    io,
    ops::Range,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::io::ReadBuf;

use super::{
    super::BrokenOff,
    chunks::{ChunkFault, Chunks},
    response_head::Delimited,
    wire::Wire,
};
use crate::tunnel::TunnelEnd;

/// The content of one response.
pub struct Http1Content(State);

enum State {
    Over,
    /// The connection has switched to another protocol, and there is no content. `ahead` came behind the head.
    Switched {
        wire: Rc<Wire>,
        ahead: Bytes,
    },
    /// It cannot be read any further. The reader learns this one turn later: hyper's server drops what it has not written yet
    /// when a body fails, and that would be the head and all content before.
    Failed {
        is_due: bool,
        reason: Option<&'static str>,
    },
    /// All of it is here. `is_exact`: its head said how long it is.
    Whole {
        bytes: Bytes,
        is_exact: bool,
    },
    /// All of it is here, and trailers behind it. Boxed: hardly any response has some.
    Trailed(Box<Trailed>),
    /// Boxed: most responses are whole at once, and this would lie in every response.
    Reading(Box<Reading>),
}

/// The last content of a response, and what follows it.
struct Trailed {
    content: Bytes,
    trailers: HeaderMap,
}

struct Reading {
    wire: Rc<Wire>,
    left: Left,
    /// Http1Content that came with the head.
    first: Bytes,
    /// Where large reads go. What was read is split off; when all of it is dropped, its memory is used again.
    buffer: BytesMut,
    /// The last read was large, so the next one may be, too.
    reads_much: bool,
    /// Bytes that were read since others had their turn.
    since_pause: usize,
}

/// What is still to come.
enum Left {
    Length(u64),
    Chunks(Chunks),
    UntilClose,
}

/// What bytes of the connection were.
struct Found {
    content: Range<usize>,
    is_over: bool,
    /// Bytes follow that belong to no response.
    has_rest: bool,
}

impl Http1Content {
    /// Of a response whose head has been read; `read` came with it, and `shared` is the same in memory that may be kept.
    pub(super) fn new(
        delimited: Delimited,
        (read, shared): (&mut [u8], Option<&Bytes>),
        wire: &Rc<Wire>,
    ) -> Self {
        let mut left = match delimited {
            Delimited::Nothing => {
                wire.is_at_rest.set(read.is_empty());
                return Self(State::Over);
            }
            Delimited::Length(length) => Left::Length(length),
            Delimited::Chunked => Left::Chunks(Chunks::default()),
            Delimited::ByClose => Left::UntilClose,
            Delimited::Switched => {
                let ahead = Bytes::copy_from_slice(read);
                return Self(State::Switched { wire: Rc::clone(wire), ahead });
            }
        };
        let found = match left.find(read) {
            Ok(found) => found,
            Err(fault) => return Self(State::Failed { is_due: false, reason: Some(fault.detail()) }),
        };
        let reads_much = read.len() >= COPY_BYTES_MAX;
        let first = match shared {
            Some(shared) => shared.slice(found.content),
            None => Bytes::copy_from_slice(read.get(found.content).unwrap_or_default()),
        };
        if found.is_over {
            wire.is_at_rest.set(!found.has_rest);
            let whole = State::Whole { bytes: first, is_exact: matches!(left, Left::Length(_)) };
            return Self(left.end_of(whole));
        }
        let buffer = BytesMut::new();
        Self(State::Reading(Box::new(Reading {
            wire: Rc::clone(wire),
            left,
            first,
            buffer,
            reads_much,
            since_pause: 0,
        })))
    }
}

impl Http1Content {
    /// The connection, if it has switched to another protocol. It must not outlive its lease.
    pub(in crate::upstream) fn switched(self) -> Option<SwitchedConnection> {
        match self.0 {
            State::Switched { wire, ahead } => Some(SwitchedConnection { wire, ahead }),
            _ => None,
        }
    }
}

/// A connection that has switched to another protocol.
pub struct SwitchedConnection {
    wire: Rc<Wire>,
    ahead: Bytes,
}

impl SwitchedConnection {
    /// The bytes that came behind the head of the response.
    pub(crate) fn ahead(&self) -> &Bytes {
        &self.ahead
    }
}

impl TunnelEnd for SwitchedConnection {
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_read_into(cx, to)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.poll_write_bytes(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }
}

impl Left {
    /// Takes as much of `read` as belongs to the content.
    fn find(&mut self, read: &mut [u8]) -> Result<Found, ChunkFault> {
        match self {
            Self::Length(left) => {
                let taken = read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(Found { content: 0..taken, is_over: *left == 0, has_rest: taken < read.len() })
            }
            Self::Chunks(chunks) => {
                let undone = chunks.undo(read)?;
                let has_rest = undone.used < read.len();
                Ok(Found { content: undone.content, is_over: chunks.is_over(), has_rest })
            }
            Self::UntilClose => Ok(Found { content: 0..read.len(), is_over: false, has_rest: false }),
        }
    }

    /// The state after the last content: `whole`, unless trailers follow it.
    fn end_of(&mut self, whole: State) -> State {
        let Self::Chunks(chunks) = self else { return whole };
        match chunks.take_trailers() {
            Ok(None) => whole,
            Ok(Some(trailers)) => {
                let content = if let State::Whole { bytes, .. } = whole { bytes } else { Bytes::new() };
                State::Trailed(Box::new(Trailed { content, trailers: *trailers }))
            }
            Err(fault) => State::Failed { is_due: false, reason: Some(fault.detail()) },
        }
    }

    /// The end of the connection.
    fn end(&self) -> Result<(Bytes, bool), BrokenOff> {
        match self {
            Self::UntilClose => Ok((Bytes::new(), true)),
            Self::Length(_) | Self::Chunks(_) => Err(ENDED),
        }
    }
}

impl Reading {
    /// The next content, and whether it is the last. Only the last may be empty.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Bytes, bool), BrokenOff>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok((std::mem::take(&mut self.first), false)));
        }
        if let Left::Chunks(chunks) = &self.left
            && let Some(fault) = chunks.fault()
        {
            return Poll::Ready(Err(invalid(fault)));
        }
        loop {
            // Chunks of a few bytes are a hundred times what the client gets of them, so its pace is no bound.
            if self.since_pause >= TURN_BYTES_MAX {
                self.since_pause = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = if self.takes_much() { self.poll_large(cx) } else { self.poll_small(cx) };
            let Poll::Ready(read) = polled else {
                if self.wire.has_upload.get() {
                    self.wire.remember_reader(cx);
                }
                return Poll::Pending;
            };
            let (content, is_over) = read?;
            if is_over || !content.is_empty() {
                return Poll::Ready(Ok((content, is_over)));
            }
        }
    }

    fn takes_much(&self) -> bool {
        match self.left {
            Left::Length(left) => left > COPY_BYTES_MAX as u64,
            Left::Chunks(_) | Left::UntilClose => self.reads_much,
        }
    }

    /// Into the worker's buffer, from where it is copied.
    fn poll_small(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Bytes, bool), BrokenOff>> {
        let Self { wire, left, reads_much, since_pause, .. } = self;
        let read = ready!(wire.poll_read(cx, |read| {
            *since_pause += read.len();
            if read.is_empty() {
                return left.end();
            }
            *reads_much = read.len() >= COPY_BYTES_MAX;
            let found = left.find(read).map_err(invalid)?;
            wire.is_at_rest.set(found.is_over && !found.has_rest);
            Ok((Bytes::copy_from_slice(read.get(found.content).unwrap_or_default()), found.is_over))
        }));
        Poll::Ready(read.unwrap_or(Err(ENDED)))
    }

    /// Into the buffer of its own, from which it is split off.
    fn poll_large(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Bytes, bool), BrokenOff>> {
        let Self { wire, left, buffer, reads_much, since_pause, .. } = self;
        let mut limit = wire.read_bytes.get();
        if let Left::Length(left) = left {
            // One byte more shows what follows, and that nothing is left to be read.
            limit = limit.min(usize::try_from(*left).map_or(limit, |left| left.saturating_add(1)));
        }
        // It is empty: all that was read was split off.
        if buffer.capacity() < limit / 2 {
            buffer.reserve(limit);
        }
        match ready!(wire.poll_append(cx, buffer, limit)) {
            Ok(0) => return Poll::Ready(left.end()),
            Ok(read) => {
                *reads_much = read >= COPY_BYTES_MAX;
                *since_pause += read;
            }
            Err(_) => return Poll::Ready(Err(ENDED)),
        }
        let found = left.find(buffer).map_err(invalid)?;
        wire.is_at_rest.set(found.is_over && !found.has_rest);
        let mut content = buffer.split().freeze();
        content.truncate(found.content.end);
        content.advance(found.content.start);
        Poll::Ready(Ok((content, found.is_over)))
    }
}

/// The connection ended before the content.
const ENDED: BrokenOff = BrokenOff { reason: None };

fn invalid(fault: ChunkFault) -> BrokenOff {
    BrokenOff { reason: Some(fault.detail()) }
}

impl Body for Http1Content {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let content = match &mut self.0 {
            State::Over | State::Switched { .. } => return Poll::Ready(None),
            State::Failed { is_due: true, reason } => {
                return Poll::Ready(Some(Err(BrokenOff { reason: *reason })));
            }
            State::Failed { is_due, .. } => {
                *is_due = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            State::Whole { bytes, .. } => {
                let bytes = std::mem::take(bytes);
                self.0 = State::Over;
                bytes
            }
            State::Trailed(trailed) if trailed.content.is_empty() => {
                let trailers = std::mem::take(&mut trailed.trailers);
                self.0 = State::Over;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            State::Trailed(trailed) => std::mem::take(&mut trailed.content),
            State::Reading(reading) => {
                let (content, is_over) = match ready!(reading.poll_next(cx)) {
                    Ok(next) => next,
                    Err(BrokenOff { reason }) => {
                        self.0 = State::Failed { is_due: false, reason };
                        return self.poll_frame(cx);
                    }
                };
                if is_over {
                    let next = reading.left.end_of(State::Over);
                    let is_last = matches!(next, State::Over);
                    self.0 = next;
                    if content.is_empty() && !is_last {
                        return self.poll_frame(cx);
                    }
                }
                content
            }
        };
        Poll::Ready((!content.is_empty()).then(|| Ok(Frame::data(content))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, State::Over | State::Switched { .. })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Over | State::Switched { .. } => SizeHint::with_exact(0),
            State::Whole { bytes, is_exact: true } => SizeHint::with_exact(bytes.len() as u64),
            State::Reading(reading) => match reading.left {
                Left::Length(left) => SizeHint::with_exact(left.saturating_add(reading.first.len() as u64)),
                Left::Chunks(_) | Left::UntilClose => SizeHint::default(),
            },
            State::Whole { .. } | State::Trailed(_) | State::Failed { .. } => SizeHint::default(),
        }
    }
}

/// What one response may read before the worker's other tasks have a turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;
/// Reads of at least this size go on without a copy. Below it, a copy costs less than memory of its own.
const COPY_BYTES_MAX: usize = 8 * 1024;
