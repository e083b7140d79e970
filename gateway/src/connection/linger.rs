//! Closing a connection under a client that still talks (RFC 9112 §9.6).
//!
//! Whoever closes a socket with bytes in it that were not read resets the connection, and the reset can overtake the
//! response: the client sees a broken pipe instead of its 413. So the gateway closes its own side first, and then reads and
//! drops what the client still sends, for a bounded time and number of bytes. nginx does the same (`lingering_close`).
//!
//! HTTP/2 has the same fault in small: a stream whose response is complete may be reset to stop the upload (RFC 9113 §8.1),
//! and clients such as curl 7.88 and httpx then drop the response that they have. So the reset waits as the close does, for
//! a few streams of a connection at a time.

use std::{
    cell::Cell,
    future::poll_fn,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, Write};

use super::{ConnectionContext, transport::Transport, until_killed};
use crate::{body::ClientBody, downstream::Phase, metrics::Rare};

/// Reads until the client has closed its side, too. The gateway's side is closed already.
pub(super) async fn linger<I>(mut transport: Transport<I>, context: &Rc<ConnectionContext>)
where
    I: Read + Write + Unpin + 'static,
{
    // What comes is not the beginning of a request.
    context.state.enter(Phase::Busy);
    let mut space = vec![MaybeUninit::uninit(); BUFFER_BYTES];
    let read = async || {
        poll_fn(|cx| {
            let mut buffer = ReadBuf::uninit(&mut space);
            let result = ready!(Pin::new(&mut transport).poll_read(cx, buffer.unfilled()));
            Poll::Ready(result.map_or(0, |()| buffer.filled().len()))
        })
        .await
    };
    let ended = until_killed(&context.state, drop_all(read, &Cell::default())).await;
    if ended == Some(Ended::AtLimit) {
        count(context);
    }
}

/// Reads until the client has sent the whole request, or takes it back. The response is out, or handed to h2; with `rest`
/// goes the stream, and a reset if the client is not at its end.
pub(super) async fn linger_on_stream(
    mut rest: Box<ClientBody>,
    lingering: Rc<Lingering>,
    context: Rc<ConnectionContext>,
) {
    let Some(place) = Place::take(&lingering, &context) else { return count(&context) };
    let read = async || {
        poll_fn(|cx| {
            Poll::Ready(match ready!(rest.poll_data(cx)) {
                // What is empty, as the end's own frame may be, ends it as well.
                Some(Ok(data)) => data.len(),
                Some(Err(_)) | None => 0,
            })
        })
        .await
    };
    if drop_all(read, &place.lingering.bytes).await == Ended::AtLimit {
        count(&context);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The client has sent all, or pauses.
    ByClient,
    AtLimit,
}

/// Reads until there is nothing more (`read` says 0), or too much. `dropped` counts the bytes, and those of others.
async fn drop_all(mut read: impl AsyncFnMut() -> usize, dropped: &Cell<usize>) -> Ended {
    let reading = async {
        while dropped.get() < BYTES_MAX {
            match tokio::time::timeout(PAUSE_MAX, read()).await {
                Ok(bytes @ 1..) => dropped.set(dropped.get() + bytes),
                Ok(0) | Err(_) => return Ended::ByClient,
            }
        }
        Ended::AtLimit
    };
    tokio::time::timeout(TIME_MAX, reading).await.unwrap_or(Ended::AtLimit)
}

fn count(context: &ConnectionContext) {
    context.worker.metrics.count(Rare::ConnectionError, context.scheme.as_str(), "lingered");
}

/// The lingering streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    streams: Cell<u32>,
    /// That they have dropped; from 0 again when none is left.
    bytes: Cell<usize>,
}

/// Of one stream. The connection is busy meanwhile.
struct Place<'a> {
    lingering: &'a Lingering,
    context: &'a ConnectionContext,
}

impl<'a> Place<'a> {
    fn take(lingering: &'a Lingering, context: &'a ConnectionContext) -> Option<Self> {
        let streams = lingering.streams.get();
        if streams >= STREAMS_MAX {
            return None;
        }
        lingering.streams.set(streams + 1);
        context.state.linger_began();
        Some(Self { lingering, context })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.lingering.streams.get().saturating_sub(1);
        self.lingering.streams.set(left);
        if left == 0 {
            self.lingering.bytes.set(0);
        }
        self.context.state.linger_ended();
    }
}

/// A client that has sent nothing for so long is waiting for something else.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// As nginx's `lingering_time`: 3 MB at a megabit per second.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Many times what is sent before a client looks at the response; some look only at the end.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
/// Of one HTTP/2 connection: a folder that is uploaded by a client whose token has expired. Browsers send six at a time,
/// curl and most libraries one.
const STREAMS_MAX: u32 = 16;
