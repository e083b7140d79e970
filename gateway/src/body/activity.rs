//! One clock for each exchange: what moves in either direction counts for both.
//!
//! Four sides can be waited for: the client that sends, the client that takes, the service that takes, the service that
//! sends. Bytes that move anywhere are counted here as they pass; no clock is read and no timer is set. The worker looks
//! at all exchanges ten times a second ([`Activities::look`]) and ends those in which nothing has moved for
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
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::Response;
use slab::Slab;

use super::ClientBody;
use crate::{connection::ConnectionState, policy::concurrency::UploadPlace};

/// What moves in one exchange, and what is waited for.
#[derive(Debug)]
pub struct Activity {
    limits: Cell<Limits>,
    /// Bytes that moved, in any direction.
    moved: Cell<u64>,
    /// Bytes that the client has sent.
    sent: Cell<u64>,
    /// Bytes that were handed over for the client, and those of them that went out.
    handed: Cell<u64>,
    taken: Cell<u64>,
    upload: Cell<Waiting>,
    response: Cell<Waiting>,
    ended: Cell<Option<Cause>>,
    /// Of the task that reads the request's body, and of the task that sends the response.
    upload_waker: RefCell<Option<Waker>>,
    response_waker: RefCell<Option<Waker>>,
    rest: RefCell<Rest>,
    /// HTTP/2: informational responses that the stream's task has not sent yet.
    informational: RefCell<VecDeque<Response<()>>>,
    /// The client is waited for with a slot of a service.
    place: RefCell<Option<UploadPlace>>,
    /// HTTP/1.1: ending a response that is not taken ends its connection. HTTP/2 has a task for each stream.
    connection: Option<Rc<ConnectionState>>,
}

/// Where one direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
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
    /// Until the route is known, and after it has no say any more.
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
            upload: Cell::new(Waiting::Not),
            response: Cell::new(Waiting::Not),
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
        self.upload.set(Waiting::ForClient);
        remember(&self.upload_waker, cx);
    }

    /// Bytes of the request came; now the service has to take them.
    pub(super) fn request_came(&self, bytes: usize) {
        self.upload.set(Waiting::ForService);
        self.sent.set(self.sent.get() + bytes as u64);
        self.moved(bytes);
    }

    /// What came of the request is held, and nothing waits for more.
    pub(super) fn request_rests(&self) {
        self.upload.set(Waiting::Not);
    }

    /// Bytes of the request go to the service, which has to take more of them.
    pub(super) fn request_goes(&self, bytes: usize) {
        self.upload.set(Waiting::ForService);
        self.moved(bytes);
    }

    /// The request is there as a whole, or nothing more of it is wanted.
    pub(super) fn request_is_over(&self) {
        self.upload.set(Waiting::Not);
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
        self.response.set(Waiting::ForService);
        remember(&self.response_waker, cx);
    }

    /// Bytes of the response came and were handed over.
    pub(crate) fn response_came(&self, bytes: usize) {
        self.response.set(Waiting::ForClient);
        self.handed.set(self.handed.get() + bytes as u64);
        self.moved(bytes);
    }

    /// Nothing more of the response will come.
    pub(crate) fn response_is_over(&self) {
        self.response.set(Waiting::Not);
    }

    fn response_goes(&self, bytes: usize) {
        self.taken.set(self.taken.get() + bytes as u64);
        self.moved(bytes);
    }

    fn moved(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }

    /// Why the exchange would end, if nothing moves.
    fn waits_for(&self, limits: Limits) -> Option<Cause> {
        if self.handed.get() > self.taken.get() {
            return Some(Cause::ClientStalled);
        }
        match (self.upload.get(), self.response.get()) {
            (Waiting::ForClient, _) => Some(Cause::ClientSilent(limits.idle)),
            (Waiting::ForService, _) | (_, Waiting::ForService) => Some(Cause::ServiceSilent),
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

fn wake(place: &RefCell<Option<Waker>>) {
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

/// The exchanges of one worker that have a body on its way.
#[derive(Debug, Default)]
pub struct Activities(RefCell<Slab<Entry>>);

#[derive(Debug)]
struct Entry {
    activity: Rc<Activity>,
    moved: u64,
    sent: u64,
    taken: u64,
    looked: Instant,
    /// Since when nothing has moved although something is waited for.
    still_since: Instant,
    /// How much longer the client may be waited for: it earns time by what it moves.
    patience: Duration,
}

/// Keeps an exchange in the table.
pub(crate) struct Watch {
    table: Rc<Activities>,
    key: usize,
}

impl Activities {
    pub(crate) fn watch(self: &Rc<Self>, activity: &Rc<Activity>, now: Instant) -> Watch {
        let entry = Entry {
            activity: Rc::clone(activity),
            moved: 0,
            sent: 0,
            taken: 0,
            looked: now,
            still_since: now,
            patience: Duration::MAX,
        };
        Watch { table: Rc::clone(self), key: self.0.borrow_mut().insert(entry) }
    }

    /// Lets each stream look at what has changed.
    pub(crate) fn wake_all(&self) {
        for (_, entry) in self.0.borrow().iter() {
            wake(&entry.activity.response_waker);
        }
    }

    /// Ends what stands still. Returns how many responses were not taken by their client.
    pub(crate) fn look(&self, now: Instant) -> u64 {
        let mut stalled = 0;
        for (_, entry) in self.0.borrow_mut().iter_mut() {
            if entry.activity.ended().is_none()
                && let Some(cause) = entry.look(now)
            {
                stalled += u64::from(cause == Cause::ClientStalled);
                entry.activity.end(cause);
            }
        }
        stalled
    }
}

impl Entry {
    fn look(&mut self, now: Instant) -> Option<Cause> {
        let activity = &*self.activity;
        let limits = activity.limits.get();
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        let moved = difference(&mut self.moved, activity.moved.get());
        let sent = difference(&mut self.sent, activity.sent.get());
        let taken = difference(&mut self.taken, activity.taken.get());
        let waits_for = activity.waits_for(limits);
        if moved > 0 || waits_for.is_none() {
            self.still_since = now;
        }
        let cause = waits_for?;
        if now.saturating_duration_since(self.still_since) >= limits.idle {
            return Some(cause);
        }
        let is_short = activity.place.borrow().as_ref().is_some_and(UploadPlace::is_short);
        let rate = limits.min_rate?.saturating_mul(if is_short { SHORT_FACTOR } else { 1 });
        let (bytes, cause) = match cause {
            Cause::ClientStalled => (taken, cause),
            // A service that has answered may talk with its client at any pace.
            Cause::ClientSilent(_) if activity.response.get() == Waiting::Not => {
                (sent, Cause::ClientSlow(rate))
            }
            _ => return None,
        };
        let longest = if is_short { RATE_GRACE } else { limits.idle.max(RATE_GRACE) };
        let earned = Duration::from_secs(bytes / rate) + Duration::from_secs(bytes % rate) / to_u32(rate);
        let patience = self.patience.min(longest).saturating_add(earned).min(longest).checked_sub(elapsed);
        self.patience = patience.unwrap_or_default();
        patience.is_none().then_some(cause)
    }
}

fn difference(known: &mut u64, now: u64) -> u64 {
    now.saturating_sub(std::mem::replace(known, now))
}

fn to_u32(rate: u64) -> u32 {
    u32::try_from(rate).unwrap_or(u32::MAX).max(1)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.table.0.borrow_mut().try_remove(self.key);
    }
}

/// Informational responses that wait for a stream's task: what a service sends in one turn of the event loop.
const INFORMATIONAL_MAX: usize = 16;
/// A client that is waited for may move nothing for this long, or for `timeout.idle` where that is more; then its rate
/// counts.
const RATE_GRACE: Duration = Duration::from_secs(10);
/// While places for uploads are short, a client must be this much faster, and may move nothing for [`RATE_GRACE`] at most:
/// 3.8 KB/s with the default, half of what a phone at the edge of its network sends.
const SHORT_FACTOR: u64 = 16;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::policy::concurrency::{ConcurrencyLimit, Places, ShareSettings};

    const SECOND: Duration = Duration::from_secs(1);

    /// Lets `step` happen every tenth of a second; how long it took until the exchange was ended, and why.
    fn run(limits: Limits, seconds: u32, mut step: impl FnMut(&Activity, u32)) -> Option<(Duration, Cause)> {
        let (table, activity) = (Rc::new(Activities::default()), Activity::new(None));
        activity.limit(limits);
        let began = crate::clock::now();
        let _watch = table.watch(&activity, began);
        for at in 0..seconds * 10 {
            step(&activity, at);
            let elapsed = SECOND / 10 * (at + 1);
            table.look(began + elapsed);
            if let Some(cause) = activity.ended() {
                return Some((elapsed, cause));
            }
        }
        None
    }

    fn limits(idle: u64, min_rate: Option<u64>) -> Limits {
        Limits { idle: Duration::from_secs(idle), min_rate }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_client_that_sends_nothing_is_waited_for_as_long_as_idle() {
        let ended = run(limits(2, None), 10, |activity, _| activity.waits_for_request(&cx()));
        assert_eq!(ended, Some((2 * SECOND, Cause::ClientSilent(2 * SECOND))));
    }

    #[test]
    fn a_byte_in_either_direction_counts_for_both() {
        let ended = run(limits(2, None), 20, |activity, at| {
            activity.waits_for_request(&cx());
            if at % 15 == 0 {
                activity.response_came(1);
                activity.response_goes(1);
            }
            activity.waits_for_response(&cx());
        });
        assert_eq!(ended, None);
        let ended = run(limits(2, None), 20, |activity, at| {
            activity.waits_for_response(&cx());
            if at % 15 == 0 {
                activity.request_came(1);
            }
            activity.waits_for_request(&cx());
        });
        assert_eq!(ended, None);
    }

    #[test]
    fn what_was_handed_over_is_not_what_was_taken() {
        let ended = run(limits(2, None), 10, |activity, at| {
            if at == 0 {
                activity.response_came(100);
                activity.response_goes(99);
                activity.response_is_over();
            }
        });
        assert_eq!(ended, Some((2 * SECOND + SECOND / 10, Cause::ClientStalled)));
    }

    #[test]
    fn a_client_that_takes_a_byte_a_second_is_too_slow() {
        let ended = run(limits(2, Some(240)), 30, |activity, at| {
            if at == 0 {
                activity.response_came(100_000);
            }
            activity.response_goes(usize::from(at % 10 == 0));
        });
        let (after, cause) = ended.unwrap();
        assert!(after > RATE_GRACE && after < RATE_GRACE + SECOND, "{after:?}");
        assert_eq!(cause, Cause::ClientStalled);
    }

    #[test]
    fn a_rate_at_the_minimum_is_not_too_slow_and_half_of_it_is() {
        for (bytes, is_slow) in [(24, false), (12, true)] {
            let ended = run(limits(2, Some(240)), 60, |activity, _| {
                activity.request_came(bytes);
                activity.waits_for_request(&cx());
            });
            assert_eq!(ended.is_some(), is_slow, "{ended:?}");
            assert!(ended.is_none_or(|(_, cause)| cause == Cause::ClientSlow(240)));
        }
    }

    #[test]
    fn while_places_are_short_a_client_must_be_faster() {
        let shares = ShareSettings { uploads: Some(1000), ..ShareSettings::default() };
        for (uploads, bytes, is_slow) in
            [(2, 24, false), (3, 24, true), (3, 190, true), (3, 390, false), (6, 800, false)]
        {
            let limit = ConcurrencyLimit::compile(6, shares, &Places::any(), None);
            let mut places: Vec<_> = (0..uploads).map(|_| limit.check_upload().unwrap()).collect();
            let mut mine = places.pop();
            let ended = run(limits(60, Some(240)), 120, |activity, _| {
                if let Some(mine) = mine.take() {
                    activity.hold(mine);
                }
                activity.request_came(bytes);
                activity.waits_for_request(&cx());
            });
            assert_eq!(ended.is_some(), is_slow, "{bytes} bytes beside {uploads}: {ended:?}");
            assert!(ended.is_none_or(|(_, cause)| cause == Cause::ClientSlow(16 * 240)));
            if bytes == 24 && is_slow {
                assert!(ended.is_some_and(|(after, _)| after < 12 * SECOND), "{ended:?}");
            }
        }
    }

    #[test]
    fn a_place_is_free_again_when_the_request_is_there() {
        let shares = ShareSettings { uploads: Some(1000), ..ShareSettings::default() };
        let limit = ConcurrencyLimit::compile(1, shares, &Places::any(), None);
        let activity = Activity::new(None);
        activity.hold(limit.check_upload().unwrap());
        assert!(limit.check_upload().is_err());
        activity.request_is_over();
        assert!(limit.check_upload().is_ok());
    }

    #[test]
    fn time_is_not_saved_up_beyond_the_longest_pause() {
        let ended = run(limits(15, Some(240)), 60, |activity, at| {
            if at == 0 {
                activity.request_came(100_000_000);
            }
            activity.request_came(usize::from(at % 10 == 0));
            activity.waits_for_request(&cx());
        });
        let (after, cause) = ended.unwrap();
        assert!(after > 15 * SECOND && after < 17 * SECOND, "{after:?}");
        assert_eq!(cause, Cause::ClientSlow(240));
    }

    #[test]
    fn what_waits_for_neither_side_is_left_alone() {
        assert_eq!(run(limits(1, Some(240)), 30, |_, _| {}), None);
        let ended = run(limits(1, Some(240)), 30, |activity, at| {
            if at == 0 {
                activity.request_came(1);
                activity.request_is_over();
            }
        });
        assert_eq!(ended, None, "the deadline of the request bounds the wait for its response");
    }

    #[test]
    fn a_service_that_takes_nothing_of_an_upload_is_silent() {
        let ended = run(limits(2, Some(240)), 30, |activity, at| {
            if at == 0 {
                activity.request_came(1000);
            }
        });
        assert_eq!(ended, Some((2 * SECOND + SECOND / 10, Cause::ServiceSilent)));
    }
}
