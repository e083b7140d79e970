//! Closing a connection under a client that still talks (RFC 9112 §9.6).
//!
//! Whoever closes a socket with bytes in it that were not read resets the connection, and the reset can overtake the
//! response: the client sees a broken pipe instead of its 413. So the gateway closes its own side first, and then reads and
//! drops what the client still sends, for a bounded time and number of bytes. nginx does the same (`lingering_close`).

use std::{
    future::poll_fn,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, Write};

use super::{ConnectionContext, state::Phase, transport::Transport, until_killed};
use crate::metrics::Rare;

/// Reads until the client has closed its side, too. The gateway's side is closed already.
pub(super) async fn linger<I>(mut transport: Transport<I>, context: &Rc<ConnectionContext>)
where
    I: Read + Write + Unpin + 'static,
{
    // What comes is not the beginning of a request.
    context.state.enter(Phase::Busy);
    let mut space = vec![MaybeUninit::uninit(); BUFFER_BYTES];
    let reading = async {
        let mut dropped = 0;
        while dropped < BYTES_MAX {
            let read = poll_fn(|cx| {
                let mut buffer = ReadBuf::uninit(&mut space);
                let result = ready!(Pin::new(&mut transport).poll_read(cx, buffer.unfilled()));
                Poll::Ready(result.map_or(0, |()| buffer.filled().len()))
            });
            match tokio::time::timeout(PAUSE_MAX, read).await {
                Ok(bytes @ 1..) => dropped += bytes,
                Ok(0) | Err(_) => return true,
            }
        }
        false
    };
    let ended = until_killed(&context.state, tokio::time::timeout(TIME_MAX, reading)).await;
    if !matches!(ended, Some(Ok(true)) | None) {
        context.worker.metrics.count(Rare::ConnectionError, context.scheme.as_str(), "lingered");
    }
}

/// A client that has sent nothing for so long is waiting for something else.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// As nginx's `lingering_time`: 3 MB at a megabit per second.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Many times what is sent before a client looks at the response; some look only at the end.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
