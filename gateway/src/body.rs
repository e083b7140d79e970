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
    exchange::{Exchange, flags},
    upstream::pool::Lease,
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

/// The client's body on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    /// `None`: no body. Then the request can be sent again.
    inner: Option<Incoming>,
    limit: u64,
    idle: IdleTimer,
    upload: Rc<Upload>,
}

impl RequestBody {
    /// A body of at most `limit` bytes that may pause for at most `idle`.
    pub fn new(inner: Incoming, limit: Option<u64>, idle: Duration) -> (Self, Rc<Upload>) {
        let upload = Rc::new(Upload::default());
        let inner = if inner.is_end_stream() { None } else { Some(inner) };
        upload.complete.set(inner.is_none());
        let limit = limit.unwrap_or(u64::MAX);
        (Self { inner, limit, idle: IdleTimer::new(idle), upload: Rc::clone(&upload) }, upload)
    }

    /// No body, complete from the start.
    pub fn empty() -> (Self, Rc<Upload>) {
        let upload = Rc::new(Upload::default());
        upload.complete.set(true);
        (
            Self { inner: None, limit: 0, idle: IdleTimer::new(Duration::MAX), upload: Rc::clone(&upload) },
            upload,
        )
    }

    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload.failure.set(Some(error));
        self.inner = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
            let polled = Pin::new(inner).poll_frame(cx);
            self.upload.waiting.set(polled.is_pending());
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.progress();
                    let Ok(data) = frame.into_data() else { continue };
                    let bytes = self.upload.bytes.get() + data.len() as u64;
                    self.upload.bytes.set(bytes);
                    if bytes > self.limit {
                        return self.fail(BodyError::TooLarge);
                    }
                    self.upload.complete.set(self.is_end_stream());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(_))) => return self.fail(BodyError::Broken),
                Poll::Ready(None) => {
                    self.upload.complete.set(true);
                    self.inner = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    ready!(self.idle.poll_expired(cx));
                    return self.fail(BodyError::Idle);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response on its way to the client.
pub struct ResponseBody {
    source: Source,
    exchange: Option<Box<Exchange>>,
}

enum Source {
    Local(Option<Bytes>),
    Upstream { body: Incoming, lease: Option<Lease>, idle: IdleTimer },
}

impl ResponseBody {
    /// A local reply.
    pub fn local(bytes: Bytes, exchange: Box<Exchange>) -> Self {
        let bytes = if bytes.is_empty() { None } else { Some(bytes) };
        Self { source: Source::Local(bytes), exchange: Some(exchange) }
    }

    /// The upstream's body; `lease` goes back to its pool when the last byte has been read.
    pub fn upstream(body: Incoming, lease: Lease, idle: Duration, exchange: Box<Exchange>) -> Self {
        let lease = Some(lease);
        Self {
            source: Source::Upstream { body, lease, idle: IdleTimer::new(idle) },
            exchange: Some(exchange),
        }
    }

    /// Everything was read: the connection may serve the next request, the exchange is over.
    fn complete(&mut self) {
        if let Source::Upstream { lease, .. } = &mut self.source
            && let Some(lease) = lease.take()
        {
            lease.release();
        }
        if let Some(mut exchange) = self.exchange.take() {
            exchange.complete = true;
        }
    }

    fn count(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.bytes_out += bytes as u64;
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
        let result = match &mut self.source {
            Source::Local(bytes) => bytes.take().map(Ok),
            Source::Upstream { body, idle, .. } => loop {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        idle.progress();
                        if let Ok(data) = frame.into_data() {
                            break Some(Ok(data));
                        }
                    }
                    Poll::Ready(Some(Err(_))) => break Some(Err(BodyError::Broken)),
                    Poll::Ready(None) => break None,
                    Poll::Pending => {
                        ready!(idle.poll_expired(cx));
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
            Source::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Source::Upstream { body, .. } => body.size_hint(),
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
struct IdleTimer {
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl IdleTimer {
    fn new(after: Duration) -> Self {
        Self { after, sleep: None, running: false }
    }

    fn progress(&mut self) {
        self.running = false;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.after;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        if !self.running {
            self.running = true;
            sleep.as_mut().set(tokio::time::sleep(after));
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
        let (body, upload) = RequestBody::empty();
        assert!(body.is_end_stream() && upload.complete.get() && body.is_empty());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
