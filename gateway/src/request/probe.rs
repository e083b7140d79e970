//! Probes of ejected endpoints: the connects and requests that may end an ejection.
//!
//! If connects had failed, a connect decides. It is made in a task of its own: by the first request after the pause, or by
//! the worker if no request comes. If requests had failed, a request decides. A request that goes to another endpoint if it
//! fails may be the probe at once, and has half of its time for it. A request that would be lost may be the probe only when
//! the endpoint has waited for another one for as long as the pause was.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    picked::{OutlierProbe, Picked},
    verdict::{Deed, Verdict},
};
use crate::{
    metrics::Rare,
    policy::outlier::{OutlierState, Reason},
    upstream::connect::{ConnectError, connect},
    worker::WorkerState,
};

/// Whether a picked endpoint that is ejected may get this request. It may if the request is its probe, or if too few
/// endpoints are left. `outlasts_a_failure`: the request goes to another endpoint if this attempt fails. `deadline` is that
/// of a connect which begins now.
pub(super) fn admit_ejected(
    picked: &mut Picked<'_>,
    (now, worker): (Instant, &Rc<WorkerState>),
    outlasts_a_failure: impl Fn() -> bool,
    deadline: impl Fn() -> Instant,
) -> bool {
    let (shared, state) = (&picked.cluster.shared, &picked.endpoint.state);
    let may_risk = |over| shared.outlier.is_some_and(|outlier| outlier.may_risk(state.outlier(), over));
    let may = |reason, over| reason == Reason::Connect || outlasts_a_failure() || may_risk(over);
    match OutlierState::probe(state.clone(), now, may) {
        Some(probe) if probe.reason() == Reason::Connect => {
            by_connect(picked, probe, (now, deadline()), worker);
            false
        }
        Some(probe) => {
            picked.probe = Some(probe);
            true
        }
        None => {
            let is_panic = shared.health().is_panic(&shared.endpoints, now);
            if is_panic {
                worker.metrics.count(Rare::PanicPick, &shared.name, "");
            }
            is_panic
        }
    }
}

/// Endpoints whose connects had failed and that no request has been sent to since their pause was over: a service without
/// traffic would show them as ejected for ever, and its next request would find one endpoint less.
pub(crate) fn unasked(worker: &Rc<WorkerState>) {
    let (snapshot, now) = (worker.snapshot(), worker.clock.now());
    let with_detection = snapshot.clusters.iter().filter(|cluster| cluster.shared.outlier.is_some());
    let endpoints =
        with_detection.flat_map(|cluster| cluster.endpoints.iter().enumerate().map(move |at| (cluster, at)));
    let out = endpoints.filter(|(_, (_, endpoint))| !endpoint.state.outlier().is_in());
    let probes = out.filter_map(|(cluster, (index, endpoint))| {
        let probe = OutlierState::probe(endpoint.state.clone(), now, |reason, _| reason == Reason::Connect)?;
        Some((Picked { cluster, index, endpoint, permit: None, probe: None }, probe))
    });
    for (picked, probe) in probes.take(UNASKED_MAX) {
        by_connect(&picked, probe, (now, now + CONNECT_MAX), worker);
    }
}

/// Connects in a task of this worker, so that no request waits for an endpoint that is most likely still gone.
fn by_connect(
    picked: &Picked<'_>,
    probe: OutlierProbe,
    (now, deadline): (Instant, Instant),
    worker: &Rc<WorkerState>,
) {
    let (pool, worker) = (Rc::clone(&picked.endpoint.pool), Rc::clone(worker));
    let mut verdict = Verdict::new(Picked { probe: Some(probe), permit: None, ..*picked });
    tokio::task::spawn_local(async move {
        let connected = connect(&pool, None, deadline, now).await;
        let now = worker.clock.now();
        match connected {
            Ok(lease) => {
                verdict.witness.connected(now, &worker);
                lease.release(true);
            }
            // This machine lacks a resource; the endpoint stays ejected until its next probe.
            Err(ConnectError::Exhausted(_)) => {}
            Err(_) => verdict.record(Deed::ConnectFailed, now, &worker),
        }
    });
}

/// The largest number of connects that one worker begins in one look, once a second. The endpoints of a service without
/// traffic are probed within seconds, and a look is never a burst.
const UNASKED_MAX: usize = 16;
/// The deadline of a connect that belongs to no route: the default of `timeout.connect`.
const CONNECT_MAX: Duration = Duration::from_secs(1);
