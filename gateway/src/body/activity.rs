//! The activity of an exchange: bytes that move in either direction count for both.
//!
//! An exchange can wait for one of four sides: the client that sends, the client that takes, the service that takes, the service
//! that sends. Bytes that move anywhere are counted here as they pass; the clock is not read and no timer is set. The worker looks
//! at all exchanges ten times a second ([`Activities::look`](super::Activities::look)) and ends those in which no byte has moved
//! for `timeout.idle`, or in which the client, while it is waited for, moves less than `timeout.min_rate`. It also ends exchanges
//! that hyper does not poll, such as a response whose client takes nothing: bytes that were handed to hyper are not bytes that the
//! client has taken, so each buffer of a response counts when it goes out ([`Chunk`]).
//!
//! An exchange whose body is there at once is never in the table. The memory is one entry for each exchange with a body that is
//! being received or sent.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::Response;

use super::ClientBody;
use crate::{downstream::ConnectionState, headers, policy::concurrency::UploadPlace};

/// The bytes that move in one exchange, and the side that is waited for.
#[derive(Debug)]
pub struct Activity {
    pub(super) limits: Cell<Limits>,
    /// Bytes that moved, in any direction.
    pub(super) moved: Cell<u64>,
    /// Bytes that the client has sent.
    pub(super) sent: Cell<u64>,
    /// Bytes that were handed over for the client.
    handed: Cell<u64>,
    /// Bytes of those that went out to the client.
    pub(super) taken: Cell<u64>,
    upload: Cell<Awaited>,
    pub(super) response: Cell<Awaited>,
    ended: Cell<Option<Cause>>,
    /// The task that reads the request's body.
    upload_waker: RefCell<Option<Waker>>,
    /// The task that sends the response.
    pub(super) response_waker: RefCell<Option<Waker>>,
    rest: RefCell<Rest>,
    /// Informational responses that the stream's task has not sent yet; HTTP/2 only.
    informational: RefCell<VecDeque<Response<()>>>,
    /// The place for uploads that the request has while it waits for its client with a slot of a service.
    pub(super) place: RefCell<Option<UploadPlace>>,
    /// The connection, on HTTP/1.1 only: if the client does not take a response, the connection ends. HTTP/2 has a task for each
    /// stream.
    connection: Option<Rc<ConnectionState>>,
}

/// The side that one direction of an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The direction has not begun, or it is over.
    Not,
    ForClient,
    ForService,
}

/// The unread rest of a request's body, which can outlive its exchange; HTTP/2 only.
#[derive(Debug, Default)]
enum Rest {
    #[default]
    Nothing,
    /// The rest is not known yet: an [`Upload`](super::Upload) has it, and the connection to a service may keep that for longer
    /// than the exchange lives.
    Uploading,
    /// The body that nothing will read. Boxed, since it is rare.
    Left(Box<ClientBody>),
    /// The stream's task is over, and no rest is kept any more.
    Closed,
}

/// How long an exchange may stand still, and how slow its client may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The longest time without a byte in either direction.
    pub(crate) idle: Duration,
    /// The lowest rate of the client in bytes per second. `None`: any rate is allowed.
    pub(crate) min_rate: Option<u64>,
}

impl Limits {
    /// The limits that hold before there is a route, and when the route's no longer hold.
    const DEFAULT: Self = Self { idle: Duration::from_mins(1), min_rate: Some(240) };
}

/// The cause for which the worker ended an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client sent nothing of its request for this long.
    ClientSilent(Duration),
    /// The client sent its request more slowly than this many bytes per second.
    ClientSlow(u64),
    /// The client took nothing of its response, or took it too slowly.
    ClientStalled,
    /// The service neither took the rest of the request, nor sent the rest of its response.
    ServiceSilent,
}

impl Activity {
    /// The activity of a new exchange. `connection` is that of HTTP/1.1; `None` on HTTP/2.
    pub(crate) fn new(connection: Option<Rc<ConnectionState>>) -> Rc<Self> {
        Rc::new(Self {
            limits: Cell::new(Limits::DEFAULT),
            moved: Cell::new(0),
            sent: Cell::new(0),
            handed: Cell::new(0),
            taken: Cell::new(0),
            upload: Cell::new(Awaited::Not),
            response: Cell::new(Awaited::Not),
            ended: Cell::new(None),
            upload_waker: RefCell::default(),
            response_waker: RefCell::default(),
            rest: RefCell::default(),
            informational: RefCell::default(),
            place: RefCell::default(),
            connection,
        })
    }

    /// Sets the limits of the exchange.
    pub(crate) fn limit(&self, limits: Limits) {
        self.limits.set(limits);
    }

    /// The cause for which the exchange was ended. `None`: it was not.
    pub(crate) fn ended(&self) -> Option<Cause> {
        self.ended.get()
    }

    /// Whether the exchange was ended because the client takes nothing of its response, so that no task should wait for it.
    pub(crate) fn is_stalled(&self) -> bool {
        self.ended.get() == Some(Cause::ClientStalled)
    }

    /// Keeps a place for uploads until the whole request has been received.
    pub(super) fn hold(&self, place: Option<UploadPlace>) {
        *self.place.borrow_mut() = place;
    }

    /// The client is waited for, which has sent a part of its request.
    pub(super) fn waits_for_request(&self, cx: &Context<'_>) {
        self.upload.set(Awaited::ForClient);
        remember(&self.upload_waker, cx);
    }

    /// Bytes of the request came. The service has to take them now.
    pub(super) fn request_came(&self, bytes: usize) {
        self.upload.set(Awaited::ForService);
        self.sent.set(self.sent.get() + bytes as u64);
        self.moved(bytes);
    }

    /// The bytes of the request that came are held, and no more are waited for.
    pub(super) fn request_rests(&self) {
        self.upload.set(Awaited::Not);
    }

    /// Bytes of the request go to the service, which has to take more of them.
    pub(super) fn request_goes(&self, bytes: usize) {
        self.upload.set(Awaited::ForService);
        self.moved(bytes);
    }

    /// The whole request has been received, or no more of it is needed.
    pub(super) fn request_is_over(&self) {
        self.upload.set(Awaited::Not);
        drop(self.place.take());
        wake(&self.response_waker);
    }

    /// An upload has the request's body.
    pub(super) fn upload_began(&self) {
        *self.rest.borrow_mut() = Rest::Uploading;
    }

    /// Leaves a rest that nothing will read to the stream's task, which drops the bytes that still come. `None`: the whole body was
    /// read.
    pub(crate) fn leave(&self, rest: Option<ClientBody>) {
        let is_closed = matches!(*self.rest.borrow(), Rest::Closed);
        if !is_closed {
            *self.rest.borrow_mut() = rest.map_or(Rest::Nothing, |rest| Rest::Left(Box::new(rest)));
        }
        self.request_is_over();
    }

    /// The stream's task is over: drops the rest of the request, and keeps none that comes later. Buffers of a response own this
    /// activity, and h2 drops them under its lock, which the drop of a request's body takes as well.
    pub(crate) fn close(&self) {
        drop(self.rest.replace(Rest::Closed));
    }

    /// The rest of the body that nothing will read, as soon as it is known. `None`: there is no rest.
    pub(crate) fn poll_rest(&self) -> Poll<Option<Box<ClientBody>>> {
        match self.rest.take() {
            Rest::Uploading => {
                self.upload_began();
                Poll::Pending
            }
            Rest::Left(body) => Poll::Ready(Some(body)),
            Rest::Nothing | Rest::Closed => Poll::Ready(None),
        }
    }

    /// Passes an informational response to the stream's task. Returns false if too many wait already.
    pub(crate) fn inform(&self, response: Response<()>) -> bool {
        let mut waiting = self.informational.borrow_mut();
        let has_room = waiting.len() < INFORMATIONAL_MAX;
        if has_room {
            waiting.push_back(response);
            wake(&self.response_waker);
        }
        has_room
    }

    /// Tells a client that waits with its body to send it (RFC 9110 §10.1.1). On HTTP/1.1, hyper does that.
    pub(crate) fn invite_body(&self) {
        // If too many wait already, the client sends its body after a while.
        let _ = self.inform(headers::invitation());
    }

    /// The next informational response that waits.
    pub(crate) fn take_informational(&self) -> Option<Response<()>> {
        self.informational.borrow_mut().pop_front()
    }

    /// The task that sends the response waits for something that is not counted here.
    pub(crate) fn remember_task(&self, cx: &Context<'_>) {
        remember(&self.response_waker, cx);
    }

    /// The service is waited for, which has sent a part of its response.
    pub(crate) fn waits_for_response(&self, cx: &Context<'_>) {
        self.response.set(Awaited::ForService);
        remember(&self.response_waker, cx);
    }

    /// Bytes of the response came and were handed over to the client's connection.
    pub(crate) fn response_came(&self, bytes: usize) {
        self.response.set(Awaited::ForClient);
        self.handed.set(self.handed.get() + bytes as u64);
        self.moved(bytes);
    }

    /// The response will have no more bytes.
    pub(crate) fn response_is_over(&self) {
        self.response.set(Awaited::Not);
    }

    /// Bytes of the response go out to the client.
    pub(super) fn response_goes(&self, bytes: usize) {
        self.taken.set(self.taken.get() + bytes as u64);
        self.moved(bytes);
    }

    fn moved(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }

    /// The cause for which the exchange would end if no byte moves. `None`: no side is waited for.
    pub(super) fn waits_for(&self, limits: Limits) -> Option<Cause> {
        if self.handed.get() > self.taken.get() {
            return Some(Cause::ClientStalled);
        }
        match (self.upload.get(), self.response.get()) {
            (Awaited::ForClient, _) => Some(Cause::ClientSilent(limits.idle)),
            (Awaited::ForService, _) | (_, Awaited::ForService) => Some(Cause::ServiceSilent),
            _ => None,
        }
    }

    /// Ends the exchange, and wakes the tasks that wait in it.
    pub(crate) fn end(&self, cause: Cause) {
        self.ended.set(Some(cause));
        if let (Cause::ClientStalled, Some(connection)) = (cause, &self.connection) {
            connection.kill();
        }
        wake(&self.upload_waker);
        wake(&self.response_waker);
    }
}

fn remember(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut waker = place.borrow_mut();
    if waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

pub(super) fn wake(place: &RefCell<Option<Waker>>) {
    if let Some(waker) = place.borrow().as_ref() {
        waker.wake_by_ref();
    }
}

/// Bytes of a response. They count as taken when the connection writes them.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Bytes,
    activity: Option<Rc<Activity>>,
}

impl Chunk {
    /// `activity` counts the bytes when they are written.
    pub(crate) fn new(bytes: Bytes, activity: Option<Rc<Activity>>) -> Self {
        Self { bytes, activity }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(activity) = &self.activity {
            activity.response_goes(count);
        }
    }
}

/// The largest number of informational responses that wait for a stream's task: what a service sends in one turn of the event loop.
const INFORMATIONAL_MAX: usize = 16;
