//! Closing a connection whose client is still sending (RFC 9112 §9.6).
//!
//! Closing a socket that has unread bytes resets the connection, and the reset can overtake the response: the client sees a
//! broken pipe instead of its 413. So the gateway closes its own side first, and then reads and drops what the client still
//! sends, up to a limit of time and bytes. nginx does the same (`lingering_close`).
//!
//! HTTP/2 has the same problem with streams: a server whose response is complete may reset the stream to stop the upload
//! (RFC 9113 §8.1), but clients such as curl 7.88 and httpx then drop the response that they have. So such a reset waits in
//! the same way, for a few streams of a connection at a time.

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

/// Reads until the client has closed its side, too, or until a limit. The gateway's side is closed already.
pub(super) async fn linger<I>(mut transport: Transport<I>, context: &Rc<ConnectionContext>)
where
    I: Read + Write + Unpin + 'static,
{
    // What arrives now is not the beginning of a request.
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

/// Reads until the client has sent the whole request or has reset the stream. The response has been sent, or handed to h2.
/// Dropping `rest` drops the stream, and resets it if the client has not finished.
pub(super) async fn linger_on_stream(
    mut rest: Box<ClientBody>,
    lingering: Rc<Lingering>,
    context: Rc<ConnectionContext>,
) {
    let Some(place) = Place::take(&lingering, &context) else { return count(&context) };
    let read = async || {
        poll_fn(|cx| {
            Poll::Ready(match ready!(rest.poll_data(cx)) {
                // An empty frame ends it as well; the last frame may be one.
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
    /// The client has sent everything, or pauses.
    ByClient,
    AtLimit,
}

/// Reads until `read` returns 0, or until a limit is reached. `dropped` counts the bytes; streams of one connection share
/// it.
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
    context.worker.metrics.count(Rare::ConnectionError, &context.listener().name, "lingered");
}

/// The lingering streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    streams: Cell<u32>,
    /// The bytes that they have dropped. The count starts at 0 again when none of them is left.
    bytes: Cell<usize>,
}

/// The place of one lingering stream. While it exists, the connection counts as busy.
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
/// The same as nginx's `lingering_time`: 3 MB at a megabit per second.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Many times what a client sends before it reads the response. Some clients read it only at the end.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
/// For each HTTP/2 connection. An example is a client whose token has expired and which uploads a folder: browsers send six
/// files at a time, curl and most libraries one.
const STREAMS_MAX: u32 = 16;
