//! One connection of HTTP/2 to an endpoint, which many requests share.
//!
//! One task drives it until it is closed, and looks after it once a second, whether or not its pool still does. It takes new requests
//! as long as the service does: until GOAWAY, until it is as old as `pool.max_age`, or until a service that has said nothing for a while
//! does not answer a PING (RFC 9113 §6.7). Streams that have begun go on in any case.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Ping, PingPong, client};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::MissedTickBehavior,
};

use super::{
    Requests,
    observed::{CountedFrames, Inbound},
};
use crate::{
    downstream::budget::FrameBudget, file_account::Place, listen::Http2Settings, message::Scheme,
    proxy_protocol::Hop,
};

pub(in crate::upstream) struct SharedConnection {
    requests: RefCell<Requests>,
    scheme: Scheme,
    /// The client whose address stands in front of the connection; its requests only.
    pub(in crate::upstream) client: Option<Hop>,
    pub(in crate::upstream) opened: Instant,
    state: Rc<State>,
    /// Requests that have ever had a place on it.
    served: Cell<u64>,
    /// Since when none has a place on it.
    idle_since: Cell<Instant>,
    /// The place in the account of files. `None`: it is not a socket.
    _place: Option<Place>,
}

/// What the connection's task and its users tell each other.
struct State {
    inbound: Rc<Inbound>,
    closed: Cell<bool>,
    /// Requests that have a place on it.
    streams: Cell<usize>,
}

/// What is known of a service that may be gone. Numbers are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// It was heard so long ago, or the connection was opened then.
    Heard(u32),
    /// It owes the answer to a PING for so long.
    Asked(u32),
    /// It has answered a PING so long ago, and sends nothing else.
    Answered(u32),
    /// It has not answered.
    Gone,
}

/// What a service did in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// It sent a frame other than the answer to a PING.
    Heard,
    /// It answered a PING.
    Ponged,
    Nothing,
}

impl SharedConnection {
    /// Starts HTTP/2 over `io`.
    ///
    /// # Errors
    /// The endpoint has closed the connection already.
    pub(in crate::upstream) async fn open<I>(
        io: I,
        scheme: Scheme,
        (place, client): (Option<Place>, Option<Hop>),
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
        let state = Rc::new(State { inbound, closed: Cell::new(false), streams: Cell::new(0) });
        let pings = connection.ping_pong();
        let driven = Rc::clone(&state);
        tokio::task::spawn_local(async move { driven.drive(Box::pin(connection), pings).await });
        Ok(Rc::new(Self {
            requests: RefCell::new(requests),
            scheme,
            client,
            opened: now,
            state,
            served: Cell::new(0),
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
        self.state.closed.get() || self.is_going_away()
    }

    /// h2 refuses requests after a GOAWAY, and says so when it is asked.
    fn is_going_away(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.requests.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Takes no further request.
    pub(super) fn retire(&self) {
        self.state.closed.set(true);
    }

    /// Whether the service allows another stream now.
    pub(in crate::upstream) fn has_room(&self) -> bool {
        self.streams() < self.requests.borrow().current_max_send_streams().min(STREAMS_MAX)
    }

    pub(in crate::upstream) fn streams(&self) -> usize {
        self.state.streams.get()
    }

    /// Whether it has served a request before.
    pub(in crate::upstream) fn has_served(&self) -> bool {
        self.served.get() > 0
    }

    pub(super) fn stream_began(&self) {
        self.state.streams.set(self.streams() + 1);
    }

    pub(super) fn stream_ended(&self) {
        self.state.streams.set(self.streams().saturating_sub(1));
        self.served.set(self.served.get() + 1);
    }

    /// Notes that it is in use, once a second.
    pub(in crate::upstream) fn note_use(&self, now: Instant) {
        if self.streams() > 0 {
            self.idle_since.set(now);
        }
    }

    /// The time since which no request uses it; `None`: some request does.
    pub(in crate::upstream) fn idle_since(&self) -> Option<Instant> {
        (self.streams() == 0).then(|| self.idle_since.get())
    }

    /// What is known of the frames that have come.
    pub(super) fn inbound(&self) -> &Rc<Inbound> {
        &self.state.inbound
    }
}

impl State {
    /// Drives the connection until it is closed, or the service is gone.
    async fn drive<I>(
        &self,
        mut connection: Pin<Box<client::Connection<I, Bytes>>>,
        mut pings: Option<PingPong>,
    ) where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let mut seconds = tokio::time::interval(SECOND);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Silence::Heard(0);
        let mut has_ponged = false;
        let ended = poll_fn(|cx| {
            has_ponged |= pings.as_mut().is_some_and(|pings| pings.poll_pong(cx).is_ready());
            while seconds.poll_tick(cx).is_ready() {
                silence = silence.after_a_second(self.sign(&mut has_ponged), self.streams.get() > 0);
                if silence == Silence::Asked(0)
                    && let Some(pings) = &mut pings
                {
                    // Fails only while another one is under way.
                    let _ = pings.send_ping(Ping::opaque());
                }
            }
            match silence {
                Silence::Gone => Poll::Ready(Ok(())),
                _ => connection.as_mut().poll(cx),
            }
        })
        .await;
        self.closed.set(true);
        if silence == Silence::Gone {
            tracing::debug!("a service does not answer PING; its connection is closed");
        } else if let Err(error) = ended {
            tracing::debug!(%error, flood = self.inbound.flood.get(), "connection to a service has ended");
        }
    }

    /// What the service did in the second that ends now.
    fn sign(&self, has_ponged: &mut bool) -> Sign {
        self.inbound.budget.second_passed();
        match (self.inbound.heard.take(), std::mem::take(has_ponged)) {
            (true, _) => Sign::Heard,
            (false, true) => Sign::Ponged,
            (false, false) => Sign::Nothing,
        }
    }
}

impl Silence {
    /// `owes`: some request waits for the service. Without one it may say nothing for as long as it likes.
    fn after_a_second(self, sign: Sign, owes: bool) -> Self {
        match (self, sign) {
            (Self::Gone, _) => Self::Gone,
            (_, Sign::Heard) => Self::Heard(0),
            (_, Sign::Ponged) => Self::Answered(0),
            (Self::Asked(seconds), _) if seconds + 1 >= PING_SECONDS_MAX => Self::Gone,
            (Self::Asked(seconds), _) => Self::Asked(seconds + 1),
            (Self::Heard(seconds), _) if owes && seconds + 1 >= PING_AFTER_SECONDS => Self::Asked(0),
            (Self::Answered(seconds), _) if owes && seconds + 1 >= PING_AGAIN_AFTER_SECONDS => Self::Asked(0),
            (Self::Heard(seconds), _) => Self::Heard(seconds.saturating_add(1)),
            (Self::Answered(seconds), _) => Self::Answered(seconds.saturating_add(1)),
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
const SECOND: Duration = Duration::from_secs(1);
/// Silence of a service that owes an answer.
const PING_AFTER_SECONDS: u32 = 20;
/// And of one that has answered a PING meanwhile: gRPC servers close a connection with more than one in five minutes of silence.
const PING_AGAIN_AFTER_SECONDS: u32 = 300;
const PING_SECONDS_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds after which a PING is sent, for a service that does the same in each second.
    fn asked_after(mut silence: Silence, owes: bool) -> Option<u32> {
        (1..1000).find(|_| {
            silence = silence.after_a_second(Sign::Nothing, owes);
            silence == Silence::Asked(0)
        })
    }

    #[test]
    fn a_service_that_owes_an_answer_is_asked_and_one_that_owes_nothing_is_not() {
        assert_eq!(asked_after(Silence::Heard(0), true), Some(20));
        assert_eq!(asked_after(Silence::Answered(0), true), Some(300));
        assert_eq!(asked_after(Silence::Heard(0), false), None);
        // A request after a long silence: the connection may have died meanwhile.
        assert_eq!(asked_after(Silence::Heard(500), true), Some(1));
    }

    #[test]
    fn one_that_does_not_answer_in_ten_seconds_is_gone_and_any_frame_is_an_answer() {
        let asked = |sign, at: u32| {
            (1..=30).try_fold(Silence::Asked(0), |silence, second| {
                let sign = if second == at { sign } else { Sign::Nothing };
                match silence.after_a_second(sign, true) {
                    Silence::Gone => Err(second),
                    silence => Ok(silence),
                }
            })
        };
        assert_eq!(asked(Sign::Nothing, 0), Err(10));
        assert_eq!(asked(Sign::Ponged, 9), Ok(Silence::Answered(21)));
        assert_eq!(asked(Sign::Heard, 9), Err(9 + 20 + 10).or(Ok::<_, u32>(Silence::Asked(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_service_is_gone_takes_no_requests() {
        let tasks = tokio::task::LocalSet::new();
        tasks
            .run_until(async {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                let now = crate::clock::now();
                let opened = SharedConnection::open(ours, Scheme::Http, (None, None), now)
                    .await
                    .expect("a connection");
                opened.stream_began();
                let closed_after = async |seconds| {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    opened.is_closed()
                };
                assert!(!closed_after(28).await);
                assert!(closed_after(4).await, "after 20 seconds of silence and 10 more");
                drop(theirs);
            })
            .await;
    }
}
