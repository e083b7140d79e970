//! Bodies in flight: streamed both ways, never collected.
//!
//! [`RequestBody`] carries the client's body to the upstream under a size limit and an idle timeout;
//! [`ResponseBody`] carries the answer back, and owns what must live exactly as long as the response: the
//! pooled connection, the in-flight guards and the [`Exchange`]. Dropping it at any point is right: an
//! unfinished upstream connection is closed, never pooled. Trailers are not forwarded (RFC 9110 §6.5.1 allows it).

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::{
    clock,
    exchange::{Exchange, flags},
};

/// Why a body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("body is larger than the route accepts")]
    TooLarge,
    #[error("no byte arrived within the idle timeout")]
    Idle,
    #[error("the peer sent a broken body or went away")]
    Broken,
}

/// What the sending side of a request knows of its body; shared with the body while it streams.
#[derive(Debug, Default)]
pub struct Upload {
    pub bytes: Cell<u64>,
    /// The whole body was handed to the upstream connection.
    pub complete: Cell<bool>,
    /// The upstream could take more, and the client has not sent it yet: the delay is the client's.
    pub waiting: Cell<bool>,
    pub failure: Cell<Option<BodyError>>,
}

/// The client's body on its way to the upstream. Most requests have none; then this is one word, and the request can
/// be sent again.
#[derive(Debug, Default)]
pub struct RequestBody(Option<Box<Streaming>>);

#[derive(Debug)]
struct Streaming {
    /// `None`: it ended.
    inner: Option<Incoming>,
    limit: u64,
    idle: IdleTimer,
    upload: Rc<Upload>,
}

impl RequestBody {
    /// A body of at most `limit` bytes that may pause for at most `idle`, and what can be known of it meanwhile.
    /// No [`Upload`]: there is no body, and nothing to wait for.
    pub fn new(inner: Incoming, limit: Option<u64>, idle: Duration) -> (Self, Option<Rc<Upload>>) {
        if inner.is_end_stream() {
            return (Self::default(), None);
        }
        let upload = Rc::new(Upload::default());
        let streaming = Streaming {
            inner: Some(inner),
            limit: limit.unwrap_or(u64::MAX),
            idle: IdleTimer::new(idle),
            upload: Rc::clone(&upload),
        };
        (Self(Some(Box::new(streaming))), Some(upload))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Streaming {
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload.failure.set(Some(error));
        self.inner = None;
        Poll::Ready(Some(Err(error)))
    }

    fn is_over(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        loop {
            let Some(inner) = &mut body.inner else { return Poll::Ready(None) };
            let polled = Pin::new(inner).poll_frame(cx);
            body.upload.waiting.set(polled.is_pending());
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    body.idle.progress();
                    let Ok(data) = frame.into_data() else { continue };
                    let bytes = body.upload.bytes.get() + data.len() as u64;
                    body.upload.bytes.set(bytes);
                    if bytes > body.limit {
                        return body.fail(BodyError::TooLarge);
                    }
                    body.upload.complete.set(body.is_over());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(_))) => return body.fail(BodyError::Broken),
                Poll::Ready(None) => {
                    body.upload.complete.set(true);
                    body.inner = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    ready!(body.idle.poll_expired(cx));
                    return body.fail(BodyError::Idle);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.0.as_ref().and_then(|body| body.inner.as_ref());
        inner.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response on its way to the client.
pub struct ResponseBody {
    source: Source,
    /// Holds the upstream connection too ([`Exchange::lease`]).
    exchange: Option<Box<Exchange>>,
}

enum Source {
    Local(Option<Bytes>),
    Upstream(Incoming),
}

impl ResponseBody {
    /// A local reply.
    pub fn local(bytes: Bytes, exchange: Box<Exchange>) -> Self {
        let bytes = if bytes.is_empty() { None } else { Some(bytes) };
        Self { source: Source::Local(bytes), exchange: Some(exchange) }
    }

    /// The upstream's body; the exchange's lease goes back to its pool when the last byte has been read.
    pub fn upstream(body: Incoming, exchange: Box<Exchange>) -> Self {
        Self { source: Source::Upstream(body), exchange: Some(exchange) }
    }

    /// Everything was read: the connection may serve the next request, the exchange is over.
    fn complete(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        if let Some(lease) = exchange.lease.take() {
            lease.release(exchange.worker());
        }
        exchange.complete = true;
    }

    fn count(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.handed_over(bytes as u64);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let result = match &mut this.source {
            Source::Local(bytes) => bytes.take().map(Ok),
            Source::Upstream(body) => loop {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                let Some(exchange) = &mut this.exchange else { break None };
                match polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        exchange.response_idle.progress();
                        if let Ok(data) = frame.into_data() {
                            break Some(Ok(data));
                        }
                    }
                    Poll::Ready(Some(Err(_))) => break Some(Err(BodyError::Broken)),
                    Poll::Ready(None) => break None,
                    Poll::Pending => {
                        ready!(exchange.response_idle.poll_expired(cx));
                        break Some(Err(BodyError::Idle));
                    }
                }
            },
        };
        match result {
            Some(Ok(data)) => {
                self.count(data.len());
                // hyper does not poll past the last byte of a body whose length it knows.
                if self.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                if let Some(exchange) = &mut self.exchange
                    && exchange.upload.as_ref().is_none_or(|upload| upload.failure.get().is_none())
                {
                    exchange.flag = if error == BodyError::Idle {
                        flags::BODY_TIMEOUT
                    } else {
                        flags::UPSTREAM_TRUNCATED
                    };
                    if let Some(lease) = &exchange.lease {
                        lease.broke_off(exchange.worker());
                    }
                    exchange.complete = true;
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.complete();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(bytes) => bytes.is_none(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Source::Upstream(body) => body.size_hint(),
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

/// Expires when nothing has moved for `after`. The timer is made at the first pause, so a body that is there
/// at once costs none.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl IdleTimer {
    pub(crate) fn new(after: Duration) -> Self {
        Self { after, sleep: None, running: false }
    }

    fn progress(&mut self) {
        self.running = false;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.after;
        let sleep = self.sleep.get_or_insert_with(|| {
            self.running = true;
            Box::pin(tokio::time::sleep(after))
        });
        if !self.running {
            self.running = true;
            // Moving the end of a timer that runs costs no lock; making a new one would.
            sleep.as_mut().reset(clock::timer_end(after));
        }
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_idle_timer_counts_from_the_last_progress() {
        let mut timer = IdleTimer::new(Duration::from_secs(10));
        let began = tokio::time::Instant::now();
        let mut pauses = 0;
        std::future::poll_fn(|cx| {
            if pauses == 0 {
                pauses += 1;
                assert!(timer.poll_expired(cx).is_pending());
                timer.progress();
            }
            timer.poll_expired(cx)
        })
        .await;
        assert!(began.elapsed() >= Duration::from_secs(10));
    }

    #[test]
    fn an_empty_request_body_is_complete_from_the_start() {
        let body = RequestBody::default();
        assert!(body.is_end_stream() && body.is_empty());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
