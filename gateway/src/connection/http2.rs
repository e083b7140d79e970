//! HTTP/2 on one connection: h2 serves it, and each stream is a task ([`Streams`]).
//!
//! PING (RFC 9113 §6.7) finds clients that are gone without closing: the worker's sweep decides when one is due, and
//! closes a connection on which nothing arrives after it.

use std::{
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use h2::{Ping, PingPong, server};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;

use super::{
    ConnectionContext, Gauge, head_bytes_max, remember_waker, report::Failure, streams::Streams,
    transport::Transport, windows::Windows,
};
use crate::{admission, downstream::ConnectionState, listen::ListenSettings};

/// Serves streams until the connection closes.
pub(super) async fn serve<I>(transport: Transport<I>, context: &Rc<ConnectionContext>) -> Result<(), Failure>
where
    I: Read + Write + Unpin + 'static,
{
    let state = &context.state;
    let windows = Windows::of(&context.worker);
    // The snapshot is not kept, because it must end when its configuration is replaced.
    let (builder, max_headers) = {
        let snapshot = context.worker.snapshot();
        let listen = &snapshot.shared.table.listen;
        state.is_http2_with(listen.http2, fields_max(listen.max_headers));
        (builder(listen, &windows), listen.max_headers)
    };
    let streams = Streams::new(Rc::clone(context), max_headers);
    let mut opening = pin!(builder.handshake(TokioIo::new(transport)));
    let _gauge = Gauge::up(context, |connections| &connections.http2);
    let mut serving = None;
    let mut is_closing = false;
    let result = std::future::poll_fn(|cx| {
        remember_waker(state, cx);
        if state.kill.get() {
            return Poll::Ready(Ok(()));
        }
        let (connection, pings) = if let Some(serving) = &mut serving {
            serving
        } else {
            let mut connection = ready!(opening.as_mut().poll(cx))?;
            let pings = connection.ping_pong();
            serving.insert((connection, pings))
        };
        if state.close.get() && !is_closing {
            is_closing = true;
            connection.graceful_shutdown();
        }
        if let Some(pings) = pings {
            keep_alive(pings, state, cx);
        }
        loop {
            match ready!(connection.poll_accept(cx)) {
                Some(Ok((request, reply))) => streams.begin(request, reply),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    })
    .await;
    match state.flood() {
        Some(reason) => Err(reason.into()),
        None => result.map_err(|_: h2::Error| "io".into()),
    }
}

fn builder(listen: &ListenSettings, windows: &Windows) -> server::Builder {
    let mut builder = server::Builder::new();
    // RFC 8441 §3: clients may begin tunnels.
    builder.enable_connect_protocol();
    builder
        .max_concurrent_streams(listen.max_streams)
        .max_header_list_size(header_list_bytes_max(listen))
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_send_buffer_size(SEND_BUFFER)
        // A stream that the client resets before it was accepted has cost next to nothing, and the frame budget limits
        // their number over time. So this limit lets a client that leaves a page reset all its requests in one segment.
        .max_pending_accept_reset_streams(usize::try_from(listen.max_streams).unwrap_or(usize::MAX))
        .max_local_error_reset_streams(listen.http2.resets.and_then(|resets| usize::try_from(resets).ok()));
    builder
}

/// Sends a PING that is due, and takes the answer to the last one. The answer needs no further step: its bytes count as a
/// sign of life.
fn keep_alive(pings: &mut PingPong, state: &ConnectionState, cx: &mut Context<'_>) {
    let _ = pings.poll_pong(cx);
    if state.takes_ping() {
        // This fails while the last PING is unanswered; the sweep deals with that.
        let _ = pings.send_ping(Ping::opaque());
    }
}

/// The largest header section in bytes that h2 accepts and announces to the client. h2 counts 32 bytes more for each
/// field (RFC 9113 §6.5.2), and a cookie may be many fields before they are joined.
fn header_list_bytes_max(listen: &ListenSettings) -> u32 {
    let fields = fields_max(listen.max_headers);
    u32::try_from(head_bytes_max(listen) + fields * FIELD_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

/// A header section with more fields than this is refused in any case.
fn fields_max(max_headers: usize) -> usize {
    max_headers + admission::crumbs_max(max_headers) + PSEUDO_FIELDS
}

/// The bytes of a stream's response that h2 may buffer; its default is 400 KiB.
const SEND_BUFFER: usize = 64 * 1024;
const FIELD_OVERHEAD_BYTES: usize = 32;
/// `:method`, `:scheme`, `:authority`, `:path`.
const PSEUDO_FIELDS: usize = 4;
