//! The verdict of the sweep on a connection, by its phase and its times.

use std::path::Path;

use super::*;
use crate::{downstream::ConnectionTable, metrics::Metrics, testing};

const SECOND: Duration = Duration::from_secs(1);

fn listen() -> ListenSettings {
    let routes = "version: 1\nroutes:\n  - {path: /*, service: items}\n\
        services: {items: {hosts: [\"192.0.2.1:80\"]}}\naccess_log: {format: off}\n";
    testing::compile(routes, Path::new("")).unwrap().0.listen
}

#[test]
fn a_silent_http2_client_gets_a_ping_and_one_that_does_not_answer_it_is_cut() {
    let listen = listen();
    let clock = Rc::new(Clock::new());
    let (table, metrics) = (ConnectionTable::default(), Metrics::default());
    for (answers, is_cut) in [(true, false), (false, true)] {
        let state = Rc::new(ConnectionState::new(Listener::cleartext(), &clock));
        state.is_http2_with(listen.http2, 100);
        state.request_began();
        let began = clock.now();
        let key = table.open.borrow_mut().insert(Rc::clone(&state));
        let mut pings = Vec::new();
        for second in 0..45 {
            table.sweep(began + SECOND * second, &listen, &metrics);
            if state.takes_ping() {
                pings.push(second);
                if answers {
                    state.client_lives();
                }
            }
            assert!(!state.kill.get() || second >= 30, "{second}");
        }
        assert_eq!(pings.first(), Some(&20));
        assert_eq!(pings.len(), if answers { 2 } else { 1 }, "{pings:?}");
        assert_eq!(state.kill.get(), is_cut);
        table.open.borrow_mut().remove(key);
    }
}

/// The state of a connection, with times in seconds before the sweep.
#[derive(Debug, Clone, Copy)]
struct Standing {
    phase: Phase,
    is_http2: bool,
    /// Requests that have begun on the connection.
    begun: u32,
    in_phase: f32,
    /// The client has taken nothing for this time.
    blocked: Option<f32>,
    /// No bytes have come for this time; HTTP/2 only.
    silent: f32,
    ping: Ping,
    is_parked: bool,
}

const NEW: Standing = Standing {
    phase: Phase::Opening,
    is_http2: false,
    begun: 0,
    in_phase: 0.0,
    blocked: None,
    silent: 0.0,
    ping: Ping::NotNeeded,
    is_parked: false,
};
const HEAD: Standing = Standing { phase: Phase::Head, begun: 1, ..NEW };
const BUSY: Standing = Standing { phase: Phase::Busy, begun: 1, ..NEW };
const IDLE: Standing = Standing { phase: Phase::Idle, begun: 1, ..NEW };
const PARKED: Standing = Standing { is_parked: true, ..IDLE };
const HTTP2: Standing = Standing { is_http2: true, ..IDLE };
const STREAMS: Standing = Standing { is_http2: true, ..BUSY };
const PREFACE: Standing = Standing { begun: 0, ..HTTP2 };

impl Standing {
    fn verdict(self, listen: &ListenSettings) -> Verdict {
        let clock = Rc::new(Clock::new());
        let state = ConnectionState::new(Listener::cleartext(), &clock);
        let now = clock.now() + 1000 * SECOND;
        let before = |seconds: f32| now.checked_sub(Duration::from_secs_f32(seconds)).unwrap();
        state.phase.set(self.phase);
        state.is_http2.set(self.is_http2);
        state.begun.set(self.begun);
        state.since.set(before(self.in_phase));
        state.blocked_since.set(self.blocked.map(before));
        state.silent_since.set(before(self.silent));
        state.ping.set(self.ping);
        state.is_parked.set(self.is_parked);
        state.verdict(now, listen)
    }
}

#[test]
fn each_timeout_ends_what_it_is_for_and_not_before_its_time() {
    let listen = listen();
    assert_eq!((listen.header_timeout, listen.idle_timeout), (10 * SECOND, 60 * SECOND));
    let kill = Verdict::Kill;
    for (standing, expected) in [
        // A head, or the time before it.
        (Standing { in_phase: 9.9, ..NEW }, Verdict::Keep),
        (Standing { in_phase: 10.0, ..NEW }, kill(HEADER_TIMEOUT)),
        (Standing { in_phase: 9.9, ..HEAD }, Verdict::Keep),
        (Standing { in_phase: 10.0, ..HEAD }, kill(HEADER_TIMEOUT)),
        (Standing { in_phase: 9.9, ..PREFACE }, Verdict::Keep),
        (Standing { in_phase: 10.0, ..PREFACE }, kill(HEADER_TIMEOUT)),
        // A request may take as long as its route allows.
        (Standing { in_phase: 900.0, ..BUSY }, Verdict::Keep),
        (Standing { in_phase: 900.0, ..STREAMS }, Verdict::Keep),
        // Between requests.
        (Standing { in_phase: 0.9, ..IDLE }, Verdict::Keep),
        (Standing { in_phase: 1.0, ..IDLE }, Verdict::Park),
        (Standing { in_phase: 59.9, ..IDLE }, Verdict::Park),
        (Standing { in_phase: 59.9, begun: 0, ..IDLE }, Verdict::Keep),
        (Standing { in_phase: 59.9, ..PARKED }, Verdict::Keep),
        (Standing { in_phase: 60.0, ..IDLE }, Verdict::Close),
        (Standing { in_phase: 60.0, ..PARKED }, Verdict::Close),
        (Standing { in_phase: 64.9, ..PARKED }, Verdict::Close),
        (Standing { in_phase: 65.0, ..PARKED }, kill("close_timeout")),
        (Standing { in_phase: 59.9, ..HTTP2 }, Verdict::Keep),
        (Standing { in_phase: 60.0, ..HTTP2 }, Verdict::Close),
        (Standing { in_phase: 65.0, ..HTTP2 }, kill("close_timeout")),
        // The client takes nothing of its responses.
        (Standing { blocked: Some(59.9), ..BUSY }, Verdict::Keep),
        (Standing { blocked: Some(60.0), ..BUSY }, kill("write_timeout")),
        (Standing { blocked: Some(60.0), ..STREAMS }, kill("write_timeout")),
        (Standing { blocked: Some(60.0), in_phase: 70.0, ..IDLE }, kill("write_timeout")),
        // The client may be gone.
        (Standing { silent: 19.9, ..STREAMS }, Verdict::Keep),
        (Standing { silent: 20.0, ..STREAMS }, Verdict::Ping),
        (Standing { silent: 20.0, ..HTTP2 }, Verdict::Ping),
        (Standing { silent: 29.0, ping: Ping::Due, ..STREAMS }, Verdict::Keep),
        (Standing { silent: 29.9, ping: Ping::Sent, ..STREAMS }, Verdict::Keep),
        (Standing { silent: 30.0, ping: Ping::Sent, ..STREAMS }, kill("timeout")),
        (Standing { silent: 30.0, ping: Ping::Sent, ..HTTP2 }, kill("timeout")),
        (Standing { silent: 900.0, ..BUSY }, Verdict::Keep),
        (Standing { silent: 900.0, ..PARKED }, Verdict::Keep),
        // With two reasons, the verdict has the one that describes the connection.
        (Standing { in_phase: 10.0, blocked: Some(60.0), ..HEAD }, kill(HEADER_TIMEOUT)),
        (Standing { in_phase: 65.0, silent: 30.0, ping: Ping::Sent, ..HTTP2 }, kill("timeout")),
        (Standing { in_phase: 60.0, silent: 20.0, ..HTTP2 }, Verdict::Close),
    ] {
        assert_eq!(standing.verdict(&listen), expected, "{standing:?}");
    }
}

#[test]
fn a_connection_is_parked_only_where_nothing_is_under_way_in_either_direction() {
    let clock = Rc::new(Clock::new());
    for (phase, is_blocked, is_parked) in [
        (Phase::Idle, false, true),
        (Phase::Idle, true, false),
        (Phase::Head, false, false),
        (Phase::Busy, false, false),
    ] {
        let state = ConnectionState::new(Listener::cleartext(), &clock);
        state.enter(phase);
        state.blocked_since.set(is_blocked.then(|| clock.now()));
        assert!(!state.takes_parking(), "the sweep has not asked");
        state.park.set(true);
        assert_eq!(state.takes_parking(), is_parked, "{phase:?}, blocked: {is_blocked}");
        assert!(!state.takes_parking(), "once");
    }
    let state = ConnectionState::new(Listener::cleartext(), &clock);
    state.park.set(true);
    state.request_began();
    state.request_ended(false);
    assert!(!state.takes_parking(), "a request has begun since the sweep asked");
}
