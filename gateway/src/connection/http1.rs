//! HTTP/1 on one connection, with hyper while there is something to do, and without it while the connection is idle.
//!
//! Between requests hyper keeps a read buffer, a write buffer and its state, some 20 KiB, for as long as the connection
//! is open. When the sweep finds a connection idle, it lets the connection's task park it: hyper is taken apart and
//! only the transport stays. When the next bytes arrive, hyper is built anew. That costs a few allocations after a
//! pause, and nothing for a busy client.

use std::{pin::Pin, rc::Rc, task::Poll};

use http::Request;
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::http1,
    service::service_fn,
};

use super::{
    ConnectionContext, Gauge, classify, head_bytes_max, linger::linger, remember_waker, report::Failure,
    transport::Transport, tunnel::run_on_connection,
};
use crate::{body::ClientBody, downstream::Phase, request};

/// Serves requests until the connection closes. The first bytes have arrived already.
pub(super) async fn serve<I>(
    mut transport: Transport<I>,
    context: &Rc<ConnectionContext>,
) -> Result<(), Failure>
where
    I: Read + Write + Unpin + 'static,
{
    let _gauge = Gauge::up(context, |connections| &connections.http1);
    context.state.enter(Phase::Idle);
    loop {
        match serve_until_parked(transport, context).await.map_err(|error| classify(&error))? {
            Some(parked) => transport = parked,
            None => return Ok(()),
        }
        let _parked = Gauge::up(context, |connections| &connections.parked);
        context.state.is_parked.set(true);
        context.worker.freed_memory.of_connection();
        // A client may leave between two requests in any way; that is not an error.
        let came = transport.wait_for_request().await.unwrap_or(false);
        context.state.is_parked.set(false);
        if !came {
            return Ok(());
        }
    }
}

/// Serves requests with hyper until the connection is parked. `None`: it is closed.
async fn serve_until_parked<I>(
    transport: Transport<I>,
    context: &Rc<ConnectionContext>,
) -> hyper::Result<Option<Transport<I>>>
where
    I: Read + Write + Unpin + 'static,
{
    let state = &context.state;
    let service_context = Rc::clone(context);
    let service = service_fn(move |head: Request<Incoming>| {
        request::serve(Rc::clone(&service_context), head.map(ClientBody::Http1), None)
    });
    let builder = builder(context);
    // Boxed, so that a parked connection does not keep room for it.
    let mut connection = Box::new(builder.serve_connection(transport, service));
    let mut told = false;
    let is_parked = std::future::poll_fn(|cx| {
        remember_waker(state, cx);
        if state.kill.get() {
            return Poll::Ready(Ok(false));
        }
        if state.close.get() && !told {
            told = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| false)),
            Poll::Pending if state.takes_parking() => Poll::Ready(Ok(true)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let is_refused = is_parked.as_ref().is_err_and(hyper::Error::is_parse);
    let parts = connection.into_parts();
    let mut transport = parts.io;
    if let Some(tunnel) = context.tunnel.take() {
        // hyper ends at a 101, and does not close the connection.
        if is_parked.is_ok() && !state.kill.get() {
            // The client may have sent its first bytes right behind the handshake.
            transport.put_back(&parts.read_buf);
            // A tunnel may last for hours, and this is a buffer of hyper.
            drop(parts.read_buf);
            Box::pin(run_on_connection(tunnel, transport, context)).await;
        }
        return is_parked.map(|_| None);
    }
    if is_parked.as_ref().is_ok_and(|is_parked| !is_parked) || is_refused {
        if (is_refused || state.has_unread_body.get()) && !state.kill.get() {
            // Boxed, because a connection would have room for it all its life.
            Box::pin(linger(transport, context)).await;
        }
        return is_parked.map(|_| None);
    }
    is_parked?;
    // The beginning of the next request, if it arrived together with the last one.
    transport.put_back(&parts.read_buf);
    Ok(Some(transport))
}

fn builder(context: &ConnectionContext) -> http1::Builder {
    let snapshot = context.worker.snapshot();
    let listen = &snapshot.shared.table.listen;
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(BUFFER_BYTES_MAX.max(head_bytes_max(listen)))
        .max_header_size(head_bytes_max(listen))
        // The worker's sweep enforces the timeouts.
        .header_read_timeout(None);
    if listen.max_headers > HEADERS_MAX_DEFAULT {
        builder.max_headers(listen.max_headers);
    }
    builder
}

/// The size of each of the two buffers, for reads and for writes, of an HTTP/1 connection, or [`head_bytes_max`] where
/// that is more. hyper's default is 408 KiB.
const BUFFER_BYTES_MAX: usize = 32 * 1024;
/// hyper's own limit of fields. If any limit is set, hyper allocates for each request, so this one is not set.
const HEADERS_MAX_DEFAULT: usize = 100;

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex},
        task::LocalSet,
    };

    use crate::{
        connection,
        testing::{self, Prepared},
    };

    /// The gateway's side takes a whole response at once, as TLS does, and passes on little of it.
    #[test]
    fn a_connection_whose_last_response_is_not_out_yet_is_not_parked() {
        let routes = "version: 1\nroutes:\n  - {path: /*, service: items}\n\
            services: {items: {hosts: [\"192.0.2.1:80\"]}}\naccess_log: {format: off}\n";
        let prepared = Prepared::new(routes, Path::new("")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let worker = testing::worker_with_endpoints(&prepared.setup);
            let (mut client, ours) = duplex(64);
            let io = BufWriter::new(ours);
            connection::spawn_cleartext(io, ([127, 0, 0, 1], 40_000).into(), worker.clone());
            client.write_all(b"GET /7 HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
            // As many bytes as fit have arrived; the rest waits, although the request is over.
            let mut response = vec![0; 64];
            client.read_exact(&mut response).await.unwrap();
            let listen = &worker.snapshot().shared.table.listen;
            for seconds in [1, 2] {
                let later = worker.clock.now() + Duration::from_secs(seconds);
                worker.connections.sweep(later, listen, &worker.metrics);
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            }
            let mut space = [0; 1024];
            while !response.ends_with(b"]}") {
                let read = tokio::time::timeout(Duration::from_secs(5), client.read(&mut space)).await;
                let read = read.expect("the rest of the response comes").unwrap();
                response.extend_from_slice(&space[..read]);
            }
            assert!(response.starts_with(b"HTTP/1.1 200 OK"));
        });
    }
}
