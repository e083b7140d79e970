//! A response on its way to the client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::BodyError;
use crate::exchange::{Exchange, flags};

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

    /// A local reply that belongs to no exchange any more.
    pub fn bare(bytes: Bytes) -> Self {
        Self { source: Source::Local(Some(bytes)), exchange: None }
    }

    /// The upstream's body; the exchange's lease goes back to its pool when the last byte has been read.
    pub fn upstream(body: Incoming, exchange: Box<Exchange>) -> Self {
        Self { source: Source::Upstream(body), exchange: Some(exchange) }
    }

    /// Everything was read: the connection may serve the next request, the exchange is over.
    fn complete(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        if let Some(lease) = exchange.lease.take() {
            lease.release();
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
