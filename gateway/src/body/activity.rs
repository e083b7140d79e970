//! One clock for each exchange: what moves in either direction counts for both.
//!
//! Four sides can be waited for: the client that sends, the client that takes, the service that takes, the service that
//! sends. Bytes that move anywhere are counted here as they pass; no clock is read and no timer is set. The worker looks
//! at all exchanges ten times a second ([`Activities::look`](super::Activities::look)) and ends those in which nothing has moved for
//! `timeout.idle`, or in which the client, while it is waited for, moves less than `timeout.min_rate`. It also ends what
//! hyper does not poll, as it does with a response whose client takes nothing: bytes that were handed to hyper are not
//! bytes that the client has taken, so each buffer of a response counts as it goes out ([`Chunk`]).
//!
//! An exchange whose body is there at once is never in the table. The memory is one entry for each exchange with a body
//! on its way.

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
use crate::{downstream::ConnectionState, policy::concurrency::UploadPlace};

/// What moves in one exchange, and what is waited for.
#[derive(Debug)]
pub struct Activity {
    pub(super) limits: Cell<Limits>,
    /// Bytes that moved, in any direction.
    pub(super) moved: Cell<u64>,
    /// Bytes that the client has sent.
    pub(super) sent: Cell<u64>,
    /// Bytes that were handed over for the client, and those of them that went out.
    handed: Cell<u64>,
    pub(super) taken: Cell<u64>,
    upload: Cell<Awaited>,
    pub(super) response: Cell<Awaited>,
    ended: Cell<Option<Cause>>,
    /// Of the task that reads the request's body, and of the task that sends the response.
    upload_waker: RefCell<Option<Waker>>,
    pub(super) response_waker: RefCell<Option<Waker>>,
    rest: RefCell<Rest>,
    /// HTTP/2: informational responses that the stream's task has not sent yet.
    informational: RefCell<VecDeque<Response<()>>>,
    /// The client is waited for with a slot of a service.
    pub(super) place: RefCell<Option<UploadPlace>>,
    /// HTTP/1.1: ending a response that is not taken ends its connection. HTTP/2 has a task for each stream.
    connection: Option<Rc<ConnectionState>>,
}

/// Where one direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// It has not begun, or it is over.
    Not,
    ForClient,
    ForService,
}

/// HTTP/2: what is left of a request's body, which can outlive its exchange.
#[derive(Debug, Default)]
enum Rest {
    #[default]
    Nothing,
    /// Not known: an [`Upload`](super::Upload) is there, which the connection to a service may hold for longer than the exchange.
    Uploading,
    /// Boxed: it is rare.
    Left(Box<ClientBody>),
    /// The stream's task is over, so nothing will read it.
    Closed,
}

/// How long an exchange may stand still, and how slow its client may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) idle: Duration,
    /// Bytes per second.
    pub(crate) min_rate: Option<u64>,
}

impl Limits {
    /// The limits that hold before there is a route, and when the route's no longer hold.
    const DEFAULT: Self = Self { idle: Duration::from_mins(1), min_rate: Some(240) };
}

/// Why an exchange was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client sent nothing of its request for this long.
    ClientSilent(Duration),
    /// The client sent its request slower than so many bytes per second.
    ClientSlow(u64),
    /// The client took nothing of its response, or took it too slowly.
    ClientStalled,
    /// The service neither took what was left of the request, nor sent what was left of its response.
    ServiceSilent,
}

impl Activity {
    /// `connection`: of HTTP/1.1.
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

    pub(crate) fn limit(&self, limits: Limits) {
        self.limits.set(limits);
    }

    pub(crate) fn ended(&self) -> Option<Cause> {
        self.ended.get()
    }

    /// The client takes nothing of its response: nothing that waits for it should go on.
    pub(crate) fn is_stalled(&self) -> bool {
        self.ended.get() == Some(Cause::ClientStalled)
    }

    /// Until the request is there as a whole.
    pub(super) fn hold(&self, place: Option<UploadPlace>) {
        *self.place.borrow_mut() = place;
    }

    /// The client is waited for, with a part of its request.
    pub(super) fn waits_for_request(&self, cx: &Context<'_>) {
        self.upload.set(Awaited::ForClient);
        remember(&self.upload_waker, cx);
    }

    /// Bytes of the request came; now the service has to take them.
    pub(super) fn request_came(&self, bytes: usize) {
        self.upload.set(Awaited::ForService);
        self.sent.set(self.sent.get() + bytes as u64);
        self.moved(bytes);
    }

    /// What came of the request is held, and nothing waits for more.
    pub(super) fn request_rests(&self) {
        self.upload.set(Awaited::Not);
    }

    /// Bytes of the request go to the service, which has to take more of them.
    pub(super) fn request_goes(&self, bytes: usize) {
        self.upload.set(Awaited::ForService);
        self.moved(bytes);
    }

    /// The request is there as a whole, or nothing more of it is wanted.
    pub(super) fn request_is_over(&self) {
        self.upload.set(Awaited::Not);
        drop(self.place.take());
        wake(&self.response_waker);
    }

    pub(super) fn upload_began(&self) {
        *self.rest.borrow_mut() = Rest::Uploading;
    }

    /// Nothing will read this: the stream's task drops what still comes. `None`: all of it was read.
    pub(crate) fn leave(&self, rest: Option<ClientBody>) {
        let is_closed = matches!(*self.rest.borrow(), Rest::Closed);
        if !is_closed {
            *self.rest.borrow_mut() = rest.map_or(Rest::Nothing, |rest| Rest::Left(Box::new(rest)));
        }
        self.request_is_over();
    }

    /// The stream's task is over: drops the rest of the request, and keeps none that comes later. Buffers of a response own
    /// this activity, and h2 drops them under its lock, which the drop of a request's body takes as well.
    pub(crate) fn close(&self) {
        drop(self.rest.replace(Rest::Closed));
    }

    /// What nothing will read, once that is known.
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

    /// Sends an informational response. `false`: too many wait already.
    pub(crate) fn inform(&self, response: Response<()>) -> bool {
        let mut waiting = self.informational.borrow_mut();
        let has_room = waiting.len() < INFORMATIONAL_MAX;
        if has_room {
            waiting.push_back(response);
            wake(&self.response_waker);
        }
        has_room
    }

    pub(crate) fn take_informational(&self) -> Option<Response<()>> {
        self.informational.borrow_mut().pop_front()
    }

    /// The task that sends the response waits; what for is not known to this clock.
    pub(crate) fn remember_task(&self, cx: &Context<'_>) {
        remember(&self.response_waker, cx);
    }

    /// The service is waited for, with a part of its response.
    pub(crate) fn waits_for_response(&self, cx: &Context<'_>) {
        self.response.set(Awaited::ForService);
        remember(&self.response_waker, cx);
    }

    /// Bytes of the response came and were handed over.
    pub(crate) fn response_came(&self, bytes: usize) {
        self.response.set(Awaited::ForClient);
        self.handed.set(self.handed.get() + bytes as u64);
        self.moved(bytes);
    }

    /// Nothing more of the response will come.
    pub(crate) fn response_is_over(&self) {
        self.response.set(Awaited::Not);
    }

    pub(super) fn response_goes(&self, bytes: usize) {
        self.taken.set(self.taken.get() + bytes as u64);
        self.moved(bytes);
    }

    fn moved(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }

    /// Why the exchange would end, if nothing moves.
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

/// Bytes of a response; they count as taken when the connection writes them.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Bytes,
    activity: Option<Rc<Activity>>,
}

impl Chunk {
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

/// Informational responses that wait for a stream's task: what a service sends in one turn of the event loop.
const INFORMATIONAL_MAX: usize = 16;
