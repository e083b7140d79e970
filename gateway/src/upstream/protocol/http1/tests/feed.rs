//! The content of a request, by hand.

use std::{cell::RefCell, collections::VecDeque, task::Waker};

use http_body::{Body, Frame};

use super::*;

/// What a client sends, and when.
#[derive(Default)]
pub(super) struct Feed(RefCell<Fed>);

#[derive(Default)]
struct Fed {
    pieces: VecDeque<Option<Bytes>>,
    /// They follow the pieces.
    trailers: Option<HeaderMap>,
    is_over: bool,
    waker: Option<Waker>,
}

impl Feed {
    pub(super) fn of(pieces: &[&'static [u8]]) -> Rc<Self> {
        let feed = Rc::<Self>::default();
        for piece in pieces {
            feed.send(Bytes::from_static(piece));
        }
        feed
    }

    pub(super) fn send(&self, piece: Bytes) {
        self.change(|fed| fed.pieces.push_back(Some(piece)));
    }

    /// The client is gone.
    pub(super) fn fail(&self) {
        self.change(|fed| fed.pieces.push_back(None));
    }

    /// The end, with one trailer before it.
    pub(super) fn end_with(&self, name: &'static str, value: &'static str) {
        let trailer = (http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
        self.change(|fed| (fed.trailers, fed.is_over) = (Some(HeaderMap::from_iter([trailer])), true));
    }

    pub(super) fn end(&self) {
        self.change(|fed| fed.is_over = true);
    }

    /// All that was sent was taken.
    pub(super) fn is_taken(&self) -> bool {
        self.0.borrow().pieces.is_empty()
    }

    fn change(&self, change: impl FnOnce(&mut Fed)) {
        let mut fed = self.0.borrow_mut();
        change(&mut fed);
        if let Some(waker) = fed.waker.take() {
            waker.wake();
        }
    }
}

/// Reads a [`Feed`]. Without one it is empty.
#[derive(Default)]
pub(super) struct FedBody {
    feed: Option<Rc<Feed>>,
}

impl FedBody {
    pub(super) fn of(feed: &Rc<Feed>) -> Self {
        Self { feed: Some(Rc::clone(feed)) }
    }

    /// All of it is there at once.
    pub(super) fn whole(pieces: &[&'static [u8]]) -> Self {
        let feed = Feed::of(pieces);
        feed.end();
        Self { feed: Some(feed) }
    }
}

impl Body for FedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(feed) = &self.feed else { return Poll::Ready(None) };
        let mut all = feed.0.borrow_mut();
        match all.pieces.pop_front() {
            Some(piece) => {
                let piece = piece.ok_or_else(|| io::ErrorKind::ConnectionReset.into());
                Poll::Ready(Some(piece.map(Frame::data)))
            }
            None if all.is_over => {
                Poll::Ready(all.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            None => {
                all.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.feed.as_ref().is_none_or(|feed| {
            let all = feed.0.borrow();
            all.is_over && all.pieces.is_empty() && all.trailers.is_none()
        })
    }
}

impl RequestContent for FedBody {
    fn put_back(&mut self, content: Bytes) {
        if let Some(feed) = &self.feed
            && !content.is_empty()
        {
            feed.0.borrow_mut().pieces.push_front(Some(content));
        }
    }
}
