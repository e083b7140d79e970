//! HTTP/1.1 with an endpoint: one request at a time, in the future of the request.
//!
//! There is no task and no channel: the future that waits for a response reads it. The one exception is an answer that comes before
//! its request was sent as a whole: then a task sends the rest, because a client that sends all of its request before it
//! reads, and a service that answers early and long, would otherwise wait for each other.
//!
//! The head of a request is written before it comes here ([`RequestHead`](crate::headers::RequestHead)); that of a response is
//! parsed, checked and framed in one pass ([`response_head`]); content is cut and joined in [`outgoing`] and [`content`]; bytes move in [`wire`].

mod chunks;
mod content;
mod outgoing;
mod reads;
mod response_head;
mod scratch;
mod sending;
mod wire;

use std::{cell::Cell, rc::Rc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
};

pub use self::content::SwitchedConnection;
pub(in crate::upstream) use self::wire::FailedWrite;
pub(super) use self::{content::Http1Content, outgoing::RequestContent};
use self::{
    outgoing::Outgoing,
    reads::Reads,
    sending::{Heard, Sending},
    wire::Wire,
};
use super::{Answered, Content, SendError, UpstreamRequest};
use crate::upstream::sink::ResponseSink;

/// One connection.
pub(in crate::upstream) struct Http1 {
    wire: Rc<Wire>,
    reads: Reads,
    /// The framing of the last response allows another request.
    is_reusable: bool,
    /// Sends the rest of a request that was answered early.
    upload: Option<AbortHandle>,
}

impl Http1 {
    /// `large_reads` counts the worker's connections with large reads.
    pub(super) fn open<I>(io: I, failed_write: FailedWrite, large_reads: &Rc<Cell<u64>>) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let wire = Wire::new(io, failed_write);
        Self { wire, reads: Reads::new(large_reads), is_reusable: true, upload: None }
    }

    /// The endpoint has closed the connection, or sent bytes without a request.
    pub(super) fn is_closed(&self) -> bool {
        !self.wire.is_silent()
    }

    /// See [`Lease::send`](crate::upstream::pool::Lease::send).
    pub(super) async fn send<B: RequestContent + 'static>(
        &mut self,
        request: &mut UpstreamRequest<B>,
        sink: Option<ResponseSink>,
    ) -> Result<Answered, SendError> {
        self.is_reusable = false;
        self.wire.begin();
        let Heard { response, framing, keeps_alive, rest } = Sending::new(&self.wire, request, sink).await?;
        self.is_reusable = keeps_alive && framing.reusable;
        if let Some(rest) = rest
            && !rest.is_held()
        {
            self.go_on_sending(rest);
        }
        Ok(Answered { response: response.map(Content::Http1), framing })
    }

    fn go_on_sending<B: RequestContent + 'static>(&mut self, mut rest: Outgoing<B>) {
        let wire = Rc::clone(&self.wire);
        wire.has_upload.set(true);
        let task = tokio::task::spawn_local(async move {
            let sent = std::future::poll_fn(|cx| rest.poll(cx, &wire)).await;
            wire.has_upload.set(false);
            if sent.is_err() {
                wire.close();
            }
        });
        self.upload = Some(task.abort_handle());
    }

    pub(super) fn client_took(&mut self, bytes: u64) {
        self.reads.client_took(bytes, &self.wire);
    }

    /// A response that ended before the whole request was sent leaves the connection unusable (RFC 9112 §9.3).
    pub(super) fn finish(&mut self, is_sent: bool) -> bool {
        let is_whole = is_sent && self.wire.is_sent.get() && self.wire.is_at_rest.get();
        let is_usable = self.is_reusable && is_whole;
        if is_usable {
            Reads::reset(&self.wire);
            self.upload = None;
        }
        is_usable
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
        self.wire.close();
    }
}

#[cfg(test)]
mod tests;
