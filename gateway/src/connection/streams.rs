//! HTTP/2 streams: each is a task of the worker, from the request's head to the response's last byte.
//!
//! A response advances as its client grants windows, and h2 has no timeout for that. So when the exchange stands still
//! ([`Activity`]), the task ends, which resets the stream and releases everything that the exchange holds.
//!
//! A stream whose request was answered before its body was read stays for a while and holds only that body
//! ([`linger`](super::linger)).

use std::{
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Buf;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{Request, Response, header};
use http_body::Body;

use super::{
    ConnectionContext, boxed,
    linger::{Lingering, linger_on_stream},
    tunnel::run_on_stream,
};
use crate::{
    admission,
    body::{Activity, Chunk, ClientBody},
    request::{self, response_body::ResponseBody},
};

/// The streams of one connection.
pub(super) struct Streams {
    connection: Rc<ConnectionContext>,
    max_headers: usize,
    lingering: Rc<Lingering>,
}

impl Streams {
    pub(super) fn new(connection: Rc<ConnectionContext>, max_headers: usize) -> Self {
        Self { connection, max_headers, lingering: Rc::default() }
    }

    /// Serves a request whose head has arrived.
    pub(super) fn begin(&self, request: Request<RecvStream>, reply: SendResponse<Chunk>) {
        let (parts, stream) = request.into_parts();
        let body = ClientBody::of_stream(stream, &parts.headers);
        let mut request = Request::from_parts(parts, body);
        admission::receive(&mut request, self.max_headers);
        let activity = Activity::new(None);
        let (connection, lingering) = (Rc::clone(&self.connection), Rc::clone(&self.lingering));
        let worker = &connection.worker;
        let watch = worker.activities.watch(&activity, worker.clock.coarse());
        // Boxed, so that a stream does not keep room for the request, 4 KiB of some 5, while its response waits for a
        // client.
        let serving = boxed(|| request::serve(Rc::clone(&connection), request, Some(Rc::clone(&activity))));
        // Boxed, because tokio moves a task's future several times.
        tokio::task::spawn_local(boxed(|| async move {
            let _watch = watch;
            // Dropped last, however the task ends.
            let activity = Closing(activity);
            let activity = &activity.0;
            {
                // Dropped with all that it holds before the stream lingers.
                let mut responding = pin!(respond(serving, reply, activity, &connection));
                until_stalled(activity, |cx| responding.as_mut().poll(cx)).await;
            }
            let rest = |_: &mut Context<'_>| match activity.ended() {
                Some(_) => Poll::Ready(None),
                None => activity.poll_rest(),
            };
            if let Some(Some(rest)) = until_stalled(activity, rest).await {
                // Boxed, because most streams have no such rest.
                let mut lingering = Box::pin(linger_on_stream(rest, lingering, connection));
                until_stalled(activity, |cx| lingering.as_mut().poll(cx)).await;
            }
        }));
    }
}

/// On drop, takes the unread rest of the request's body out of the stream's [`Activity`], which buffers in h2 may keep alive
/// for longer.
struct Closing(Rc<Activity>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Polls until there is a result. `None`: the client does not read its response.
async fn until_stalled<T>(
    activity: &Activity,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    std::future::poll_fn(|cx| {
        activity.remember_task(cx);
        if activity.is_stalled() {
            return Poll::Ready(None);
        }
        poll(cx).map(Some)
    })
    .await
}

/// Sends the response that `serving` returns. An error is the end of the stream: the client has reset it, or its connection
/// is gone. The exchange, which is dropped here, logs that.
async fn respond<S, E>(
    mut serving: Pin<Box<S>>,
    mut reply: SendResponse<Chunk>,
    activity: &Activity,
    connection: &ConnectionContext,
) -> Result<(), h2::Error>
where
    S: Future<Output = Result<Response<ResponseBody>, E>>,
{
    let served = std::future::poll_fn(|cx| {
        let served = serving.as_mut().poll(cx);
        while let Some(informational) = activity.take_informational() {
            reply.send_informational(informational)?;
        }
        match served {
            Poll::Ready(served) => Poll::Ready(Ok(served)),
            Poll::Pending => reply.poll_reset(cx).map(|reason| Err(ended(reason))),
        }
    })
    .await?;
    drop(serving);
    let Ok(response) = served else { return Ok(()) };
    let (mut parts, mut body) = response.into_parts();
    // A `Connection` field is malformed in HTTP/2 (RFC 9113 §8.2.2). One of the service was removed with the other
    // hop-by-hop fields.
    parts.headers.remove(header::CONNECTION);
    parts.headers.entry(header::DATE).or_insert_with(|| connection.worker.clock.http_date());
    if let Some(tunnel) = body.take_tunnel() {
        let stream = reply.send_response(Response::from_parts(parts, ()), false)?;
        // Boxed, because most streams are no tunnels.
        Box::pin(run_on_stream(tunnel, stream)).await;
        return Ok(());
    }
    let is_over = body.is_end_stream();
    if !is_over && let Some(length) = body.size_hint().exact() {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let stream = reply.send_response(Response::from_parts(parts, ()), is_over)?;
    if is_over { Ok(()) } else { send_body(body, stream).await }
}

/// Sends a response's content as the client grants room for it. One chunk is held meanwhile. Room is requested only when
/// there is something to send, so that a body that pauses takes none from other streams of the connection.
async fn send_body(mut body: ResponseBody, mut stream: SendStream<Chunk>) -> Result<(), h2::Error> {
    loop {
        let frame = std::future::poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(reason) => Poll::Ready(Err(ended(reason))),
            Poll::Pending => Pin::new(&mut body).poll_frame(cx).map(Ok),
        })
        .await?;
        let chunk = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) => chunk,
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    return stream.send_trailers(trailers);
                }
            },
            Some(Err(_)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Chunk::default(), true),
        };
        let is_last = body.is_end_stream();
        if chunk.has_remaining() {
            stream.reserve_capacity(1);
            wait_for_room(&mut stream).await?;
        }
        stream.send_data(chunk, is_last)?;
        if is_last {
            return Ok(());
        }
    }
}

/// Waits until the client takes a byte. A stream that was reset has no room.
async fn wait_for_room(stream: &mut SendStream<Chunk>) -> Result<(), h2::Error> {
    std::future::poll_fn(|cx| {
        while stream.capacity() == 0 {
            if let Poll::Ready(reason) = stream.poll_reset(cx) {
                return Poll::Ready(Err(ended(reason)));
            }
            match std::task::ready!(stream.poll_capacity(cx)).transpose()? {
                Some(_) => {}
                // The stream is not open any more.
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// The error that says why a stream was reset.
fn ended(reason: Result<Reason, h2::Error>) -> h2::Error {
    reason.map_or_else(|error| error, Into::into)
}
