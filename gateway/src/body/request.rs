//! The request's body as it is sent to one endpoint.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{BodyError, Upload};

/// The client's body for one attempt. Most requests have no body; then this is one word.
#[derive(Default)]
pub struct RequestBody(Option<Box<Cursor>>);

/// A position in an [`Upload`].
struct Cursor {
    upload: Rc<Upload>,
    generation: u32,
    at: u64,
    /// Was handed over, and came back unsent.
    unsent: Bytes,
    /// The trailers were handed over.
    is_trailed: bool,
}

impl RequestBody {
    /// The body from its first byte, for the newest attempt.
    pub(crate) fn of(upload: Rc<Upload>) -> Self {
        let generation = upload.generation();
        Self(Some(Box::new(Cursor { upload, generation, at: 0, unsent: Bytes::new(), is_trailed: false })))
    }

    /// This was handed over last, and no byte of it was sent. It comes again.
    pub(crate) fn put_back(&mut self, data: Bytes) {
        if let Some(cursor) = &mut self.0
            && !data.is_empty()
        {
            cursor.unsent = data;
        }
    }

    /// Whether the client waits with it for an invitation.
    pub(crate) fn is_held(&self) -> bool {
        self.0.as_ref().is_some_and(|cursor| cursor.upload.is_held())
    }

    /// Whether the request has no body.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(cursor) = &mut self.0 else { return Poll::Ready(None) };
        // An end of the stream here would complete a request that was given up.
        if cursor.generation != cursor.upload.generation() {
            return Poll::Ready(Some(Err(BodyError::Replaced)));
        }
        if !cursor.unsent.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut cursor.unsent)))));
        }
        let polled = ready!(cursor.upload.poll_from(cursor.at, cx));
        if let Some(Ok(data)) = &polled {
            cursor.at += data.len() as u64;
        }
        if polled.is_none()
            && !cursor.is_trailed
            && let Some(trailers) = cursor.upload.trailers()
        {
            cursor.is_trailed = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(polled.map(|result| result.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|cursor| {
            let is_newest = cursor.generation == cursor.upload.generation();
            let is_over = cursor.unsent.is_empty() && cursor.upload.is_over(cursor.at);
            is_newest && is_over && (cursor.is_trailed || !cursor.upload.has_trailers())
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(
            || SizeHint::with_exact(0),
            |cursor| cursor.upload.size_hint(cursor.at - cursor.unsent.len() as u64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_request_body_is_complete_from_the_start() {
        let body = RequestBody::default();
        assert!(body.is_end_stream() && body.is_empty());
        assert_eq!(body.size_hint().exact(), Some(0));
    }

    #[test]
    fn a_request_without_a_body_carries_one_word() {
        assert_eq!(size_of::<RequestBody>(), size_of::<usize>());
    }
}
