//! HTTP/2 with an endpoint (RFC 9113): many requests share a connection, each as a stream of its own.
//!
//! h2 is driven directly, because it shows what hyper's client hides: whether a stream was refused before the service saw it, the
//! peer's limit of streams, windows, and informational responses. A connection has one task ([`connection`]); everything that concerns
//! one request happens in the request's own future, as with HTTP/1.1. The head arrives in the form of HTTP/1.1 and is read into fields
//! ([`head`]); content goes by the windows of its stream, in both directions side by side ([`content`]).

pub(in crate::upstream) mod connection;
mod content;
mod head;
mod observed;

use std::{future::poll_fn, pin::Pin, rc::Rc, task::Poll};

use bytes::Bytes;
use h2::{Reason, client::ResponseFuture};
use http::{Response, StatusCode, Version};
use tokio::task::AbortHandle;

pub(super) use self::content::Http2Content;
use self::{
    connection::SharedConnection,
    content::{SendingContent, length_of},
    observed::Inbound,
};
use super::{Answered, Content, RequestContent, SendError, UpstreamRequest};
use crate::{
    headers::{Delimiting, FramingReading, remove_dropped},
    upstream::sink::ResponseSink,
};

/// The place of one request on a shared connection.
pub(in crate::upstream) struct Http2Stream {
    connection: Rc<SharedConnection>,
    /// Sends the rest of a request that was answered early.
    upload: Option<AbortHandle>,
}

impl Http2Stream {
    /// Takes a place on the connection, until this is dropped.
    pub(in crate::upstream) fn on(connection: &Rc<SharedConnection>) -> Self {
        connection.stream_began();
        Self { connection: Rc::clone(connection), upload: None }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// See [`Lease::send`](crate::upstream::pool::Lease::send).
    pub(super) async fn send<B: RequestContent + 'static>(
        &mut self,
        request: &mut UpstreamRequest<B>,
        sink: Option<ResponseSink>,
    ) -> Result<Answered, SendError> {
        // A request that has its body when this fails may go to another connection.
        let mut requests = self.connection.requests();
        poll_fn(|cx| requests.poll_ready(cx)).await.map_err(|_| self.is_over())?;
        let Some(body) = request.body.take() else { return Err(SendError::Ended) };
        let head = head::read(request.head.bytes(), self.connection.scheme(), request.call_left)?;
        let is_head = request.head.is_head();
        let has_content = !matches!(request.head.content(), Delimiting::Nothing | Delimiting::Length(0));
        let Ok((response, stream)) = requests.send_request(head, !has_content) else {
            request.body = Some(body);
            return Err(self.is_over());
        };
        let mut sending = has_content.then(|| SendingContent::new(body, stream));
        let result = exchange(response, &mut sending, sink, &mut request.informational_bytes).await;
        let inbound = self.connection.inbound();
        let response = result.map_err(|error| match (error, inbound.flood.get()) {
            (SendError::Ended, Some(flood)) => SendError::Invalid(flood.into()),
            (error, _) => error,
        })?;
        // A client that was not invited to send its body keeps it: the stream is reset at the end of the response.
        if let Some(rest) = sending.filter(|rest| !rest.is_held()) {
            self.upload = Some(tokio::task::spawn_local(rest.run()).abort_handle());
        }
        read_head(response, is_head, inbound)
    }

    /// The connection takes no request any more, and nothing of this one was sent.
    fn is_over(&self) -> SendError {
        self.connection.retire();
        SendError::Ended
    }
}

/// Sends the content and waits for the head of the final response, side by side.
async fn exchange<B: RequestContent>(
    mut response: ResponseFuture,
    sending: &mut Option<SendingContent<B>>,
    sink: Option<ResponseSink>,
    informational_bytes: &mut usize,
) -> Result<Response<h2::RecvStream>, SendError> {
    poll_fn(|cx| {
        if let Some(content) = sending
            && let Poll::Ready(sent) = content.poll(cx)
        {
            *sending = None;
            if sent.is_err() {
                // The stream was reset: a request whose body has failed is never complete.
                return Poll::Ready(Err(SendError::Ended));
            }
        }
        while let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
            let (head, ()) = informational.into_parts();
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(SendError::Invalid(SWITCHES.into())));
            }
            let fields =
                head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
            *informational_bytes += FIELD_BYTES + fields.sum::<usize>();
            if *informational_bytes > INFORMATIONAL_BYTES_MAX {
                return Poll::Ready(Err(SendError::Invalid(TOO_MANY_INFORMATIONAL.into())));
            }
            if let Some(sink) = &sink {
                sink.send(head.status, head.headers);
            }
        }
        Pin::new(&mut response).poll(cx).map_err(|error| send_error(&error))
    })
    .await
}

/// Checks the head of a response, and removes what ends at this hop.
fn read_head(
    response: Response<h2::RecvStream>,
    is_head: bool,
    inbound: &Rc<Inbound>,
) -> Result<Answered, SendError> {
    let (mut parts, stream) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(SendError::Invalid(SWITCHES.into()));
    }
    if parts.headers.len() > RESPONSE_LINES_MAX {
        return Err(SendError::Invalid("its head has too many fields".into()));
    }
    let mut reading = FramingReading::default();
    let mut has_dropped = false;
    for (name, value) in &parts.headers {
        let read = reading.read(name, value.as_bytes(), Version::HTTP_11);
        has_dropped |= !read.map_err(|fault| SendError::Invalid(fault.detail().into()))?;
    }
    if has_dropped {
        remove_dropped(&mut parts.headers);
    }
    let framing = reading.framing(parts.status);
    let length = length_of(framing.content_length, &stream, is_head);
    let content = Content::Http2(Http2Content::new(stream, length, Rc::clone(inbound)));
    Ok(Answered { response: Response::from_parts(parts, content), framing })
}

/// What an error of h2 proves. A stream that the service refused (RFC 9113 §8.7), or that it does not count among those it has seen when
/// it closes the connection (§6.8), was not processed.
fn send_error(error: &h2::Error) -> SendError {
    let is_refused = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    if is_refused || (error.is_go_away() && error.is_remote()) {
        return SendError::Unprocessed;
    }
    if is_malformed(error) {
        return SendError::Invalid("it is not HTTP/2".into());
    }
    if error.is_reset() { SendError::Reset } else { SendError::Ended }
}

/// Whether h2 itself has found what the service sent to be malformed, or too much of it.
fn is_malformed(error: &h2::Error) -> bool {
    let of_the_service = |reason| ![Reason::NO_ERROR, Reason::CANCEL].contains(&reason);
    error.is_library() && error.reason().is_some_and(of_the_service)
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
        self.connection.stream_ended();
    }
}

/// As of an HTTP/1.1 service: room for one 102 each second for a quarter of an hour.
const INFORMATIONAL_BYTES_MAX: usize = 64 * 1024;
const TOO_MANY_INFORMATIONAL: &str = "its informational responses have more than 65536 bytes";
/// RFC 9113 §8.6.
const SWITCHES: &str = "it switches protocols, which HTTP/2 has not";
/// What a field costs besides its bytes (RFC 9113 §6.5.2).
const FIELD_BYTES: usize = 32;
/// As of an HTTP/1.1 service.
const RESPONSE_LINES_MAX: usize = 100;

type Requests = h2::client::SendRequest<Bytes>;
