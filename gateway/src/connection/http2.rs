//! HTTP/2 on one connection.

use std::{pin::pin, rc::Rc, task::Poll, time::Duration};

use hyper::{
    rt::{Read, Write},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioTimer;

use super::{
    ConnectionContext, Gauge, classify, head_bytes_max, remember_waker, report::Failure, streams::Streams,
    transport::Transport, windows::Windows,
};
use crate::{admission, config::settings::ListenSettings, proxy};

/// Serves streams until the connection closes.
pub(super) async fn serve<I>(transport: Transport<I>, context: &Rc<ConnectionContext>) -> Result<(), Failure>
where
    I: Read + Write + Unpin + 'static,
{
    let state = &context.state;
    // Not kept: a snapshot ends when the configuration that it is of does.
    let (max_streams, max_headers, header_list_bytes_max, budgets) = {
        let snapshot = context.worker.snapshot();
        let listen = &snapshot.shared.table.listen;
        (listen.max_streams, listen.max_headers, header_list_bytes_max(listen), listen.http2)
    };
    state.is_http2_with(budgets, fields_max(max_headers));
    let streams = Streams::new(Rc::clone(context));
    let executor = streams.clone();
    let service = service_fn(move |mut request| {
        admission::receive(&mut request, max_headers);
        let activity = streams.begin();
        // Boxed, so that a stream is moved as two words, and does not keep room for the request while its response waits for a
        // client: 4 KiB of some 5.
        Box::pin(proxy::serve(Rc::clone(streams.connection()), request, Some(activity)))
    });
    let windows = Windows::of(&context.worker);
    // Streams that are taken back before they were accepted have cost next to nothing. How many may be, over time, is the
    // frame budget's matter; so here a page may be left with all its requests in one segment.
    let resets_max = usize::try_from(max_streams).unwrap_or(usize::MAX);
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(header_list_bytes_max)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(resets_max)
        .max_local_error_reset_streams(budgets.resets.and_then(|resets| usize::try_from(resets).ok()))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(transport, service);
    let mut connection = pin!(connection);
    let _gauge = Gauge::up(context, |connections| &connections.http2);
    let mut told = false;
    let result = std::future::poll_fn(|cx| {
        remember_waker(state, cx);
        if state.kill.get() {
            return Poll::Ready(Ok(()));
        }
        if state.close.get() && !told {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    match state.flood() {
        Some(reason) => Err(reason.into()),
        None => result.map_err(|error| classify(&error)),
    }
}

/// What h2 takes of a header section, and announces to the client. It counts 32 bytes more for each field (RFC 9113
/// §6.5.2), and a cookie has many before they are joined.
fn header_list_bytes_max(listen: &ListenSettings) -> u32 {
    let fields = fields_max(listen.max_headers);
    u32::try_from(head_bytes_max(listen) + fields * FIELD_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

/// A header section with more is certainly refused.
fn fields_max(max_headers: usize) -> usize {
    max_headers + admission::crumbs_max(max_headers) + PSEUDO_FIELDS
}

/// Envoy's advice for an edge proxy where it differs from h2's defaults.
const SEND_BUFFER: usize = 64 * 1024;
const FIELD_OVERHEAD_BYTES: usize = 32;
/// `:method`, `:scheme`, `:authority`, `:path`.
const PSEUDO_FIELDS: usize = 4;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
