//! The content of a response while it goes to the client.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{
    error::Error,
    exchange::{Exchange, flags},
    grpc,
    send::body_failed,
    tunnel::Tunnel,
};
use crate::{
    body::{Activity, BodyError, Cause, Chunk},
    headers,
    upstream::protocol::{BrokenOff, Content},
};

/// The content of a response: the service's, or the gateway's own.
pub struct ResponseBody {
    source: Source,
    /// Also has the upstream connection ([`Exchange::taken`]).
    exchange: Option<Box<Exchange>>,
    /// Outlives the exchange, since the client still has to take the last bytes.
    activity: Option<Rc<Activity>>,
    /// The deadline of a gRPC call. `None`: it has none, or this is no call, which pays nothing for it.
    deadline: Option<Pin<Box<Sleep>>>,
}

enum Source {
    Local(Option<Bytes>),
    Upstream(Content),
    /// The stream becomes a tunnel, and this response has no content.
    Tunnel(Option<Box<Tunnel>>),
}

impl ResponseBody {
    /// A local reply.
    pub fn local(bytes: Bytes, exchange: Box<Exchange>) -> Self {
        let bytes = if bytes.is_empty() { None } else { Some(bytes) };
        Self::new(Source::Local(bytes), exchange)
    }

    /// A local reply that belongs to no exchange.
    pub fn bare(bytes: Bytes) -> Self {
        Self { source: Source::Local(Some(bytes)), exchange: None, activity: None, deadline: None }
    }

    /// The upstream's body; its connection goes back to its pool when the last byte has been read.
    pub fn upstream(body: Content, exchange: Box<Exchange>) -> Self {
        let ends = exchange.request.call_ends().filter(|_| exchange.is_call);
        let mut body = Self::new(Source::Upstream(body), exchange);
        body.deadline = ends.map(|ends| Box::pin(tokio::time::sleep_until(ends.into())));
        body
    }

    /// The beginning of a tunnel on HTTP/2.
    pub(super) fn tunnel(tunnel: Box<Tunnel>) -> Self {
        Self { source: Source::Tunnel(Some(tunnel)), exchange: None, activity: None, deadline: None }
    }

    /// The tunnel that begins with this response. `None`: it is an ordinary response.
    pub(crate) fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        match &mut self.source {
            Source::Tunnel(tunnel) => tunnel.take(),
            Source::Local(_) | Source::Upstream(_) => None,
        }
    }

    fn new(source: Source, exchange: Box<Exchange>) -> Self {
        let activity = exchange.known_activity().cloned();
        Self { source, exchange: Some(exchange), activity, deadline: None }
    }

    /// The whole body was read: the connection may serve the next request, and the exchange is over.
    fn complete(&mut self) {
        if let Some(activity) = &self.activity {
            activity.response_is_over();
        }
        if let Some(mut exchange) = self.exchange.take() {
            exchange.completed();
        }
    }

    /// The data as a chunk for the connection, which counts its bytes when they are written. The last chunk of an HTTP/1.1 response
    /// holds nothing of the exchange while it waits to be written; the connection's own timeout bounds that wait.
    fn hand_over(&mut self, data: Bytes) -> Chunk {
        if let Some(exchange) = &mut self.exchange {
            let delivered = exchange.handed_over(data.len() as u64);
            if let Some(taken) = exchange.taken() {
                taken.lease.client_took(delivered);
            }
            if self.activity.is_none() && !self.source.is_end_stream() {
                self.activity = Some(exchange.activity());
            }
        }
        if let Some(activity) = &self.activity {
            activity.response_came(data.len());
        }
        Chunk::new(data, self.activity.clone())
    }

    /// All content of a declared length was handed over, though the service may still end its stream, with or without trailers.
    fn is_last_for_hyper(&self) -> bool {
        let is_http1 = |exchange: &Exchange| exchange.request.version != Version::HTTP_2;
        self.exchange.as_deref().is_some_and(is_http1) && self.size_hint().exact() == Some(0)
    }

    /// Waits for the service, which has sent no more content yet.
    fn wait(&mut self, cx: &Context<'_>) -> Poll<BodyError> {
        let Some(exchange) = &mut self.exchange else { return Poll::Pending };
        let activity = self.activity.get_or_insert_with(|| exchange.activity());
        activity.waits_for_response(cx);
        match activity.ended() {
            None => Poll::Pending,
            Some(Cause::ClientSilent(silence)) => Poll::Ready(BodyError::Silent(silence)),
            Some(Cause::ClientSlow(rate)) => Poll::Ready(BodyError::Slow(rate)),
            Some(Cause::ClientStalled | Cause::ServiceSilent) => Poll::Ready(BodyError::Idle),
        }
    }

    /// The deadline of the call has passed while its service still responds.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let is_upstream = matches!(self.source, Source::Upstream(_));
        self.deadline.as_mut().is_some_and(|deadline| is_upstream && deadline.as_mut().poll(cx).is_ready())
    }

    /// Ends a call whose deadline has passed: the client gets a status, and the service's stream is reset.
    fn end_late(&mut self) -> Option<Result<Frame<Chunk>, BodyError>> {
        let exchange = self.exchange.as_mut()?;
        let (pass, web) = (exchange.trailers.pass, exchange.web);
        exchange.call_is_late();
        self.source = Source::Local(None);
        let trailers = grpc::deadline_trailers();
        if let Some(web) = web {
            let chunk = self.hand_over(grpc::encoded(grpc::trailers_message(&trailers), web));
            self.complete();
            return Some(Ok(Frame::data(chunk)));
        }
        if !pass {
            // A client that cannot take trailers sees that the response is not whole.
            return Some(Err(BodyError::Broken));
        }
        self.complete();
        Some(Ok(Frame::trailers(trailers)))
    }

    /// Ends a response early, with the reason for log and metrics.
    fn fail(&mut self, error: BodyError, flag: &'static str) -> BodyError {
        let Some(exchange) = &mut self.exchange else { return error };
        let upload = exchange.upload().and_then(|upload| upload.failure.get());
        let reason = upload.map_or(flag, |failure| body_failed(failure).row().code);
        let worker = Rc::clone(exchange.worker());
        if exchange.broke(reason)
            && let (None, Some(taken)) = (upload, exchange.taken())
        {
            taken.broke_off(&worker);
        }
        error
    }
}

/// The trailers as the client gets them. `None`: the client cannot take any, or none is left.
fn pass_on(mut trailers: HeaderMap, exchange: Option<&mut Exchange>) -> Option<HeaderMap> {
    let exchange = exchange?;
    if let Some(status) = grpc::status_in(&trailers).filter(|_| exchange.is_call) {
        exchange.call_ended_late(status);
    }
    if !exchange.trailers.pass {
        return None;
    }
    headers::apply_trailers(&mut trailers, &exchange.route()?.response_rules);
    (!trailers.is_empty()).then_some(trailers)
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.is_end_stream(),
            Self::Tunnel(_) => true,
        }
    }
}

impl Body for ResponseBody {
    type Data = Chunk;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        let this = &mut *self;
        if this.is_late(cx) {
            return Poll::Ready(this.end_late());
        }
        let mut trailers = None;
        let result = match &mut this.source {
            Source::Local(bytes) => bytes.take().map(Ok),
            Source::Tunnel(_) => None,
            Source::Upstream(body) => loop {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        let web = this.exchange.as_ref().and_then(|exchange| exchange.web);
                        let frame = match frame.into_data() {
                            Ok(data) => {
                                let Some(web) = web else { break Some(Ok(data)) };
                                break Some(Ok(grpc::encoded(data, web)));
                            }
                            Err(frame) => frame,
                        };
                        if let Ok(came) = frame.into_trailers() {
                            trailers = pass_on(came, this.exchange.as_deref_mut());
                            match (web, trailers.take()) {
                                (Some(web), Some(trailers)) => {
                                    let message = grpc::trailers_message(&trailers);
                                    break Some(Ok(grpc::encoded(message, web)));
                                }
                                (_, left) => trailers = left,
                            }
                            break None;
                        }
                    }
                    Poll::Ready(Some(Err(BrokenOff { reason }))) => {
                        let Some(reason) = reason else {
                            break Some(Err((BodyError::Broken, flags::UPSTREAM_TRUNCATED)));
                        };
                        if let Some(exchange) = &this.exchange {
                            exchange.content_is_invalid(reason);
                        }
                        break Some(Err((BodyError::Broken, Error::UpstreamProtocolError.row().code)));
                    }
                    Poll::Ready(None) => break None,
                    Poll::Pending => {
                        let error = std::task::ready!(this.wait(cx));
                        let is_idle = error == BodyError::Idle;
                        let flag = if is_idle { flags::BODY_TIMEOUT } else { flags::UPSTREAM_TRUNCATED };
                        break Some(Err((error, flag)));
                    }
                }
            },
        };
        Poll::Ready(match result {
            Some(Ok(data)) => {
                let chunk = this.hand_over(data);
                // hyper does not poll past the last byte of a body that has a length.
                if this.is_end_stream() || this.is_last_for_hyper() {
                    this.complete();
                }
                Some(Ok(Frame::data(chunk)))
            }
            Some(Err((error, flag))) => Some(Err(this.fail(error, flag))),
            None => {
                this.complete();
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Source::Upstream(_)
                if self
                    .exchange
                    .as_ref()
                    .is_some_and(|exchange| exchange.web.is_some() || exchange.trailers.announced) =>
            {
                SizeHint::default()
            }
            Source::Upstream(body) => body.size_hint(),
            Source::Tunnel(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body without bytes (HEAD, 204, 304, an empty local reply) is never polled.
        if self.exchange.is_some() && self.is_end_stream() {
            self.complete();
        }
    }
}
