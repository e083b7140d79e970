//! One connection of HTTP/2 to an endpoint, which many requests share.
//!
//! One task drives it until it is closed. It takes new requests as long as the service does: until GOAWAY, until it is as old as
//! `pool.max_age`, or until a service that has said nothing for a while does not answer a PING (RFC 9113 §6.7). Streams that have
//! begun go on in any case.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use h2::{Ping, PingPong, client};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Requests,
    observed::{CountedFrames, Inbound},
};
use crate::{downstream::budget::FrameBudget, file_account::Place, listen::Http2Settings, message::Scheme};

pub(in crate::upstream) struct SharedConnection {
    requests: RefCell<Requests>,
    scheme: Scheme,
    pub(in crate::upstream) opened: Instant,
    state: Rc<State>,
    /// Requests that have a place on it.
    streams: Cell<usize>,
    /// Requests that have ever had one.
    served: Cell<u64>,
    silence: Cell<Silence>,
    /// Since when none has a place on it.
    idle_since: Cell<Instant>,
    /// The place in the account of files. `None`: it is not a socket.
    _place: Option<Place>,
}

/// What the connection's task and its users tell each other.
struct State {
    inbound: Rc<Inbound>,
    closed: Cell<bool>,
    /// The connection is to be cut.
    cut: Cell<bool>,
    /// A PING is to be sent.
    pings: Cell<bool>,
    /// The last PING was answered.
    ponged: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// What is known of a service that may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// It was heard at this time, or the connection was opened.
    Heard(Instant),
    /// It owes the answer to a PING since then.
    Asked(Instant),
    /// It has answered a PING, and sends nothing else.
    Answered(Instant),
}

impl SharedConnection {
    /// Starts HTTP/2 over `io`.
    ///
    /// # Errors
    /// The endpoint has closed the connection already.
    pub(in crate::upstream) async fn open<I>(
        io: I,
        scheme: Scheme,
        place: Option<Place>,
        now: Instant,
    ) -> Result<Rc<Self>, h2::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let budget = FrameBudget::new();
        let frames = Http2Settings { frames_per_second: Some(CONTROL_FRAMES_PER_SECOND), resets: None };
        budget.limit(frames, super::RESPONSE_LINES_MAX + PSEUDO_FIELDS);
        let inbound = Rc::new(Inbound { budget, heard: Cell::new(false), flood: Cell::new(None) });
        let (requests, mut connection) = builder().handshake(CountedFrames::new(io, &inbound)).await?;
        let state = Rc::new(State {
            inbound,
            closed: Cell::new(false),
            cut: Cell::new(false),
            pings: Cell::new(false),
            ponged: Cell::new(false),
            waker: RefCell::default(),
        });
        let mut pings = connection.ping_pong();
        let driven = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            let mut connection = Box::pin(connection);
            let ended = std::future::poll_fn(|cx| {
                *driven.waker.borrow_mut() = Some(cx.waker().clone());
                if driven.cut.get() {
                    return Poll::Ready(Ok(()));
                }
                if let Some(pings) = &mut pings {
                    driven.keep_alive(pings, cx);
                }
                connection.as_mut().poll(cx)
            })
            .await;
            driven.closed.set(true);
            if let Err(error) = ended {
                let flood = driven.inbound.flood.get();
                tracing::debug!(%error, flood, "connection to a service has ended");
            }
        });
        Ok(Rc::new(Self {
            requests: RefCell::new(requests),
            scheme,
            opened: now,
            state,
            streams: Cell::new(0),
            served: Cell::new(0),
            silence: Cell::new(Silence::Heard(now)),
            idle_since: Cell::new(now),
            _place: place,
        }))
    }

    pub(super) fn requests(&self) -> Requests {
        self.requests.borrow().clone()
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// No request can begin on it.
    pub(in crate::upstream) fn is_closed(&self) -> bool {
        self.state.closed.get() || self.state.cut.get() || self.is_going_away()
    }

    /// h2 refuses requests after a GOAWAY, and says so when it is asked.
    fn is_going_away(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.requests.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether the service allows another stream now.
    pub(in crate::upstream) fn has_room(&self) -> bool {
        self.streams.get() < self.requests.borrow().current_max_send_streams().min(STREAMS_MAX)
    }

    pub(in crate::upstream) fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Whether it has served a request before.
    pub(in crate::upstream) fn has_served(&self) -> bool {
        self.served.get() > 0
    }

    pub(super) fn stream_began(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    pub(super) fn stream_ended(&self) {
        self.streams.set(self.streams.get().saturating_sub(1));
        self.served.set(self.served.get() + 1);
    }

    /// The time since which no request uses it; `None`: some request does.
    pub(in crate::upstream) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.idle_since.get())
    }

    /// Looks after the connection, once a second: a service that owes an answer and is silent gets a PING, and one that does not answer
    /// it is gone.
    pub(in crate::upstream) fn sweep(&self, now: Instant) {
        let state = &self.state;
        state.inbound.budget.second_passed();
        if self.streams.get() > 0 {
            self.idle_since.set(now);
        }
        let (silence, ponged) = (self.silence.get(), state.ponged.take());
        let is_owing = self.streams.get() > 0;
        let lasts = |since: Instant, longest| now.saturating_duration_since(since) >= longest;
        let next = match silence {
            _ if state.inbound.heard.take() => Silence::Heard(now),
            Silence::Asked(_) if ponged => Silence::Answered(now),
            Silence::Asked(since) if lasts(since, PING_TIMEOUT) => {
                state.cut.set(true);
                silence
            }
            Silence::Heard(since) if is_owing && lasts(since, PING_AFTER) => Silence::Asked(now),
            Silence::Answered(since) if is_owing && lasts(since, PING_AGAIN) => Silence::Asked(now),
            same => same,
        };
        self.silence.set(next);
        if next == Silence::Asked(now) {
            state.pings.set(true);
        }
        if state.pings.get() || state.cut.get() {
            state.wake();
        }
    }
}

impl State {
    fn keep_alive(&self, pings: &mut PingPong, cx: &mut Context<'_>) {
        if pings.poll_pong(cx).is_ready() {
            self.ponged.set(true);
        }
        if self.pings.get() && pings.send_ping(Ping::opaque()).is_ok() {
            self.pings.set(false);
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

fn builder() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_max_send_streams(STREAMS_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}

/// What a service may send before the client has taken it: so much is held for a client that stops reading. At half a millisecond to the
/// service that is 384 MB/s for each stream.
const STREAM_WINDOW: u32 = 192 * 1024;
/// Each stream has its own bound, and streams of clients that read must not wait for those that do not. So the connection has none of its
/// own: its streams together hold no more than as many connections of HTTP/1.1 would.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The largest head of a response, as with HTTP/1.1, and what RFC 9113 §6.5.2 adds for each field.
const HEADER_LIST_BYTES_MAX: u32 = 32 * 1024 + 32 * 100;
/// What h2 may buffer of one request's content.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Streams of one connection, also where the service allows more: the default limit of most servers, and as many wait at most if one
/// connection is lost.
pub(in crate::upstream) const STREAMS_MAX: usize = 100;
/// `:status`.
const PSEUDO_FIELDS: usize = 1;
/// As many as a client may send (`listen.http2.frames_per_second`).
const CONTROL_FRAMES_PER_SECOND: u32 = 1000;
/// Silence of a service that owes an answer.
const PING_AFTER: Duration = Duration::from_secs(20);
/// And of one that has answered a PING meanwhile: gRPC servers close a connection with more than one in five minutes of silence.
const PING_AGAIN: Duration = Duration::from_mins(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
