//! Outlier detection: an endpoint that cannot be reached, or that fails as a gateway does, is left out for a while.
//!
//! An endpoint is ejected after `connect_failures` connects in a row that failed, or after `gateway_failures`
//! requests in a row that ended in a reset, a timeout, a broken response or 502 to 504. One success ends a row. An endpoint
//! that hangs is detected before its requests time out: `unanswered` of them wait for far longer than usual, and since the
//! first of them was sent this endpoint has sent no response, while another endpoint has. Any response disproves that.
//!
//! An ejection lasts `pause`, doubled each time, at most [`PAUSE_MAX`]; after an endpoint has stayed in for as long as
//! its last pause, the next ejection lasts `pause` again. When the pause is over, one probe decides: one connect where
//! connects had failed, one request otherwise. A request that can be sent again elsewhere may be that probe at once. A
//! request that would be lost may be the probe only after as long a time again, so it rarely is. At most a share `max` of a
//! cluster's endpoints is out at once, and while fewer than `panic` of them are left, ejections are ignored and all are
//! tried (Envoy's panic threshold).
//!
//! The circuit breaker is a different policy: it needs a number of requests and a share of failures, which suits an
//! endpoint that responds with errors and is far too slow for an endpoint that is gone.
//!
//! One [`OutlierState`] per endpoint is shared by all workers and carried across snapshots. Its phase is one word, changed
//! by compare-and-swap only; zero is "in", so that a pick costs one load. Units: milliseconds since the state was made.
//! Compiled from `OutlierSettings`.

mod settings;
mod state;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use http::StatusCode;

pub use self::settings::OutlierSettings;
pub use self::state::{Began, OutlierState, Probe};
use self::state::{Word, millis};

/// The compiled parameters of one cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierDetector {
    connect_failures: u32,
    gateway_failures: u32,
    unanswered: u32,
    pause_ms: u64,
    max: f32,
    panic: f32,
}

/// Evidence about an endpoint from one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A new connection was made.
    Connected,
    /// A connect was refused, or was not answered in time.
    ConnectFailed,
    /// A response that shows a working endpoint.
    Answered,
    /// A reset, a timeout, a broken response, or a status that gateways send.
    GatewayFailed,
}

impl Sign {
    /// The sign of a status. Only statuses by which an endpoint reports that it could not do its work are failures: 502 to 504.
    pub fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Self::GatewayFailed
            }
            _ => Self::Answered,
        }
    }
}

/// The row of failures that led to an ejection. [`Reason::as_str`] is the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Connect,
    Gateway,
    /// The endpoint sends no responses.
    Silence,
}

impl Reason {
    /// The label of metrics, and the word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect_failures",
            Self::Gateway => "gateway_failures",
            Self::Silence => "unanswered_requests",
        }
    }
}

/// The change that a sign caused, for logs, events and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected {
        reason: Reason,
        /// Failures in a row.
        failures: u32,
        pause: Duration,
        /// Ejections without a calm time between them, this one included.
        ejections: u32,
    },
    /// The row is complete, but the largest permitted number of endpoints is out already.
    Spared {
        reason: Reason,
    },
    Returned {
        reason: Reason,
        proof: Proof,
    },
}

/// The evidence that an endpoint works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Probe,
    /// A response to a request that was sent during the ejection, since too few other endpoints were left.
    Attempt,
    /// The response to a request from before the ejection.
    LateAnswer,
}

impl Proof {
    /// The text for log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "a probe succeeded",
            Self::Attempt => "a request succeeded",
            Self::LateAnswer => "a late answer came",
        }
    }
}

/// Whether an endpoint gets requests, or why and until when it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    In,
    Ejected {
        reason: Reason,
        until: Instant,
    },
    /// The pause is over, and the endpoint waits for its probe.
    Due {
        reason: Reason,
        since: Instant,
    },
    /// A probe is in flight.
    Probing {
        reason: Reason,
    },
}

impl OutlierDetector {
    /// Compiles settings, which were checked when they were read, so this cannot fail.
    pub fn compile(settings: &OutlierSettings) -> Self {
        Self {
            connect_failures: settings.connect_failures.unwrap_or(u32::MAX),
            gateway_failures: settings.gateway_failures.unwrap_or(u32::MAX),
            unanswered: settings.unanswered.unwrap_or(u32::MAX),
            pause_ms: millis(settings.pause).clamp(1, millis(PAUSE_MAX)),
            max: settings.max.clamp(0.0, 1.0),
            panic: settings.panic.clamp(0.0, 1.0),
        }
    }

    /// The largest number of `endpoints` that may be out at once.
    #[expect(clippy::cast_precision_loss, reason = "no cluster has 16 million endpoints")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and `endpoints`")]
    pub fn out_max(&self, endpoints: usize) -> usize {
        (endpoints as f32 * self.max) as usize
    }

    /// Whether so few of `endpoints` are left that ejections are ignored.
    #[expect(clippy::cast_precision_loss, reason = "no cluster has 16 million endpoints")]
    pub fn is_panic(&self, left: usize, endpoints: usize) -> bool {
        (left as f32) < endpoints as f32 * self.panic
    }

    /// Records the sign of an attempt, which began when the state's word was `began`. `may_eject` says whether one more
    /// endpoint may be out; it is called only when the row is complete.
    pub fn record(
        &self,
        state: &OutlierState,
        began: Began,
        sign: Sign,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<Change> {
        let (row, needed, reason) = match sign {
            Sign::Connected => {
                end_row(&state.connect_failures);
                let by_connect = |reason| reason == Reason::Connect;
                return state.come_back(began, by_connect, now);
            }
            Sign::Answered => {
                end_row(&state.connect_failures);
                end_row(&state.gateway_failures);
                return state.come_back(began, |_| true, now);
            }
            Sign::ConnectFailed => (&state.connect_failures, self.connect_failures, Reason::Connect),
            Sign::GatewayFailed => (&state.gateway_failures, self.gateway_failures, Reason::Gateway),
        };
        if began.is_judged(state) {
            return None;
        }
        let failures = row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        match Word::unpack(state.word.load(Ordering::Acquire)) {
            Word::In if failures >= needed => {
                if !may_eject() {
                    // The row begins anew, so that `Spared` is reported once for each row and not for each failure.
                    row.store(0, Ordering::Relaxed);
                    return Some(Change::Spared { reason });
                }
                self.eject(state, Word::In, reason, failures, now)
            }
            // The probe failed. Other attempts began before it, so their failures are not new evidence.
            probing @ Word::Probing { .. } if began.word == probing.pack() => {
                self.eject(state, probing, reason, failures, now)
            }
            Word::In | Word::Out { .. } | Word::Probing { .. } => None,
        }
    }

    /// Records that a request, sent at `asked`, has waited for longer than usual. `is_new` is true the first time that this
    /// request is recorded. `may_eject` says whether another endpoint has responded meanwhile, and one more may be out.
    pub fn suspect(
        &self,
        state: &OutlierState,
        (asked, is_new): (Instant, bool),
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<Change> {
        if state.has_answered_since(asked) {
            return None;
        }
        let waiting = state.unanswered(is_new);
        if waiting < self.unanswered || !state.is_in() || !may_eject() {
            return None;
        }
        self.eject(state, Word::In, Reason::Silence, waiting, now)
    }

    /// Takes an endpoint back that was ejected for silence, because it has responded to an earlier request.
    pub fn acquit(&self, state: &OutlierState, now: Instant) -> Option<Change> {
        match state.come_back(state.began(), |reason| reason == Reason::Silence, now)? {
            Change::Returned { reason, .. } => Some(Change::Returned { reason, proof: Proof::LateAnswer }),
            other => Some(other),
        }
    }

    fn eject(
        &self,
        state: &OutlierState,
        seen: Word,
        reason: Reason,
        failures: u32,
        now: Instant,
    ) -> Option<Change> {
        let now_ms = state.ms(now);
        let level = state.level.load(Ordering::Relaxed);
        let calm = now_ms.saturating_sub(state.returned_ms.load(Ordering::Relaxed)) >= self.pause(level);
        let level = if calm && seen == Word::In { 1 } else { level.saturating_add(1) };
        let pause_ms = self.pause(level);
        let out = Word::Out { until_ms: now_ms + pause_ms, reason };
        state.word.compare_exchange(seen.pack(), out.pack(), Ordering::AcqRel, Ordering::Relaxed).ok()?;
        state.level.store(level, Ordering::Relaxed);
        if reason == Reason::Silence {
            state.silences.fetch_add(1, Ordering::Relaxed);
        }
        let pause = Duration::from_millis(pause_ms);
        Some(Change::Ejected { reason, failures, pause, ejections: level })
    }

    /// Whether a request that cannot be sent again may be the probe of an endpoint whose pause has been over for `over`.
    pub fn may_risk(&self, state: &OutlierState, over: Duration) -> bool {
        millis(over) >= self.pause(state.ejections())
    }

    /// Pause of the ejection with this number, in milliseconds.
    fn pause(&self, level: u32) -> u64 {
        let doublings = level.saturating_sub(1).min(DOUBLINGS_MAX);
        (self.pause_ms << doublings).min(millis(PAUSE_MAX))
    }
}

fn end_row(failures: &AtomicU32) {
    // Nearly always the row is empty: then there is a load, which leaves the cache line shared, and no store.
    if failures.load(Ordering::Relaxed) != 0 {
        failures.store(0, Ordering::Relaxed);
    }
}

/// The longest pause. An endpoint that works again gets a probe within about this time.
pub const PAUSE_MAX: Duration = Duration::from_mins(1);
/// After this many doublings the pause is [`PAUSE_MAX`] for any value of `pause`.
const DOUBLINGS_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use super::{
        state::{IN, MS_MAX},
        *,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn detector() -> OutlierDetector {
        OutlierDetector::compile(&OutlierSettings {
            connect_failures: Some(3),
            gateway_failures: Some(5),
            unanswered: Some(5),
            pause: 5 * SECOND,
            max: 0.5,
            panic: 0.5,
        })
    }

    fn record(state: &OutlierState, sign: Sign, now: Instant) -> Option<Change> {
        detector().record(state, state.began(), sign, now, || true)
    }

    fn ejected(now: Instant) -> OutlierState {
        let state = OutlierState::new(now);
        assert_eq!([1, 2].map(|_| record(&state, Sign::ConnectFailed, now)), [None, None]);
        let reason = Reason::Connect;
        let third = Change::Ejected { reason, failures: 3, pause: 5 * SECOND, ejections: 1 };
        assert_eq!(record(&state, Sign::ConnectFailed, now), Some(third));
        state
    }

    #[test]
    fn failures_of_requests_from_before_an_ejection_do_not_eject_again() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        let before = state.began();
        for _ in 0..3 {
            record(&state, Sign::ConnectFailed, now);
        }
        let later = now + 6 * SECOND;
        let probe = OutlierState::probe(&state, later, any).unwrap();
        assert!(detector().record(&state, probe.began(), Sign::Answered, later, || true).is_some());
        let late = (0..10).find_map(|_| {
            detector().record(&state, before, Sign::GatewayFailed, later + 9 * SECOND, || true)
        });
        assert_eq!(late, None, "they timed out after it was proved good");
        let anew = (0..5).find_map(|_| record(&state, Sign::GatewayFailed, later + 9 * SECOND));
        assert!(matches!(anew, Some(Change::Ejected { failures: 5, .. })), "{anew:?}");
    }

    fn any(_: Reason, _: Duration) -> bool {
        true
    }

    #[test]
    fn only_failures_in_a_row_eject() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        for _ in 0..10 {
            for _ in 0..2 {
                assert_eq!(record(&state, Sign::ConnectFailed, now), None);
            }
            for _ in 0..4 {
                assert_eq!(record(&state, Sign::GatewayFailed, now), None);
            }
            assert_eq!(record(&state, Sign::Answered, now), None);
        }
        assert!(state.is_in());
        for _ in 0..4 {
            record(&state, Sign::GatewayFailed, now);
        }
        // A connection is not evidence that the endpoint responds.
        record(&state, Sign::Connected, now);
        assert!(matches!(
            record(&state, Sign::GatewayFailed, now),
            Some(Change::Ejected { failures: 5, .. })
        ));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_calm_time() {
        let mut now = Instant::now();
        let state = ejected(now);
        let mut pauses = Vec::new();
        for pause in [5, 10, 20, 40, 60, 60] {
            assert!(!state.is_due(now + (pause - 1) * SECOND), "not before {pause} s");
            now += pause * SECOND;
            let probe = OutlierState::probe(&state, now, any).expect("the pause is over");
            let failed = detector().record(&state, probe.began(), Sign::ConnectFailed, now, || false);
            let Some(Change::Ejected { pause, .. }) = failed else { panic!("{failed:?}") };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 60, 60, 60]);
        now += 60 * SECOND;
        let probe = OutlierState::probe(&state, now, any).unwrap();
        let back = detector().record(&state, probe.began(), Sign::Connected, now, || false);
        assert_eq!(back, Some(Change::Returned { reason: Reason::Connect, proof: Proof::Probe }));
        let eject = |now| {
            let last =
                [1, 2, 3].map(|_| record(&state, Sign::ConnectFailed, now)).into_iter().flatten().last();
            let Some(Change::Ejected { pause, ejections, .. }) = last else { panic!("{last:?}") };
            (pause.as_secs(), ejections)
        };
        assert_eq!(eject(now + SECOND), (60, 8), "still the same trouble");
        now += 61 * SECOND;
        let probe = OutlierState::probe(&state, now, any).unwrap();
        let _ = detector().record(&state, probe.began(), Sign::Connected, now, || false);
        assert_eq!(eject(now + 61 * SECOND), (5, 1));
    }

    #[test]
    fn one_probe_is_made_at_a_time_and_one_that_is_dropped_may_be_made_again() {
        let now = Instant::now();
        let state = ejected(now);
        assert!(OutlierState::probe(&state, now, any).is_none(), "during the pause");
        let later = now + 5 * SECOND;
        let probe = OutlierState::probe(&state, later, any).unwrap();
        assert!(OutlierState::probe(&state, later, any).is_none() && !state.is_due(later));
        assert_eq!(state.standing(later), Standing::Probing { reason: Reason::Connect });
        drop(probe);
        assert!(state.is_due(later) && OutlierState::probe(&state, later, any).is_some());
    }

    #[test]
    fn an_attempt_from_before_the_ejection_brings_nothing_back() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        let began = state.began();
        for _ in 0..3 {
            record(&state, Sign::ConnectFailed, now);
        }
        assert_eq!(detector().record(&state, began, Sign::Answered, now, || true), None);
        assert!(!state.is_in(), "its connection was there before");
        // While all endpoints are tried, an endpoint that responds is taken back.
        assert!(matches!(record(&state, Sign::Answered, now), Some(Change::Returned { .. })));
    }

    #[test]
    fn a_connection_is_no_proof_for_an_endpoint_whose_answers_had_failed() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        for _ in 0..5 {
            record(&state, Sign::GatewayFailed, now);
        }
        let later = now + 5 * SECOND;
        let probe = OutlierState::probe(&state, later, any).unwrap();
        assert_eq!(probe.reason(), Reason::Gateway);
        assert_eq!(detector().record(&state, probe.began(), Sign::Connected, later, || true), None);
        let answered = detector().record(&state, probe.began(), Sign::Answered, later, || true);
        assert_eq!(answered, Some(Change::Returned { reason: Reason::Gateway, proof: Proof::Probe }));
    }

    #[test]
    fn an_endpoint_that_answers_nothing_is_out_before_its_requests_time_out_and_back_with_any_answer() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        let wait = |ms: u32, is_new: bool, others: bool| {
            let (asked, told) = (now + ms * MILLISECOND, now + (ms + 1_000) * MILLISECOND);
            detector().suspect(&state, (asked, is_new), told, || others)
        };
        assert_eq!([10, 20, 30, 40].map(|ms| wait(ms, true, true)), [None; 4]);
        // A response in between begins the row anew, and earlier requests no longer count.
        state.answered(now + 45 * MILLISECOND);
        assert_eq!(wait(40, true, true), None);
        assert_eq!([50, 51, 52, 53].map(|ms| wait(ms, true, true)), [None; 4]);
        assert_eq!(wait(53, false, true), None, "the same request twice");
        assert_eq!(wait(54, true, false), None, "all endpoints are as slow");
        let out = wait(54, false, true);
        assert!(matches!(out, Some(Change::Ejected { reason: Reason::Silence, failures: 5, .. })), "{out:?}");
        assert_eq!(wait(55, true, true), None, "it is out");
        let back = detector().acquit(&state, now + 2 * SECOND);
        assert_eq!(back, Some(Change::Returned { reason: Reason::Silence, proof: Proof::LateAnswer }));
        assert_eq!(detector().acquit(&state, now + 2 * SECOND), None);
        for _ in 0..3 {
            record(&state, Sign::ConnectFailed, now);
        }
        assert_eq!(
            detector().acquit(&state, now + 2 * SECOND),
            None,
            "that is no answer to a failed connect"
        );
    }

    #[test]
    fn an_endpoint_is_quick_while_its_last_answer_was_none_that_was_waited_for() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        let at = |ms: u32| now + ms * MILLISECOND;
        assert!(!state.is_quick_since(now));
        state.answered(at(1_000));
        assert!(state.is_quick_since(at(900)) && !state.is_quick_since(at(1_001)));
        state.answered_late(at(1_500));
        state.answered(at(1_501));
        assert!(!state.is_quick_since(at(900)), "that one was waited for");
        state.answered(at(1_700));
        assert!(state.is_quick_since(at(900)));
    }

    #[test]
    fn shares_are_rounded_to_the_careful_side() {
        let detector = detector();
        assert_eq!([1, 2, 3, 4, 10].map(|count| detector.out_max(count)), [0, 1, 1, 2, 5]);
        assert!(!detector.is_panic(1, 2) && detector.is_panic(1, 3) && detector.is_panic(0, 1));
        let now = Instant::now();
        let state = OutlierState::new(now);
        let spared = [1, 2, 3].map(|_| {
            let began = state.began();
            detector.record(&state, began, Sign::ConnectFailed, now, || false)
        });
        assert_eq!(spared, [None, None, Some(Change::Spared { reason: Reason::Connect })]);
        assert!(state.is_in());
    }

    #[test]
    fn every_word_survives_packing() {
        for reason in [Reason::Connect, Reason::Gateway, Reason::Silence] {
            for word in
                [Word::In, Word::Out { until_ms: MS_MAX, reason }, Word::Probing { since_ms: 7, reason }]
            {
                assert_eq!(Word::unpack(word.pack()), word);
            }
        }
        assert_ne!(Word::Out { until_ms: 0, reason: Reason::Connect }.pack(), IN);
    }
}
