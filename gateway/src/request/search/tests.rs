//! The endpoint of a request's next attempt, from the state of each endpoint.

use std::{path::Path, sync::Arc, time::Duration};

use http::Method;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::task::LocalSet;

use super::*;
use crate::{
    policy::{circuit_breaker::Outcome, outlier::Sign},
    testing::{self, Prepared},
    upstream::split::Split,
};

/// Two services stand for two subsets of one service: each compiles to a cluster.
fn routes() -> String {
    let policies = "outlier: {connect_failures: 1, gateway_failures: 1, pause: 5s, max: 100%, panic: 0%}, \
        breaker: {min: 1, errors: 100%, open: 5s}";
    format!(
        "version: 1\nroutes:\n  - {{path: /*, service: two}}\n  - {{path: /one, service: one}}\naccess_log: {{format: off}}\nservices:\n  \
         two: {{hosts: [\"127.0.0.1:9\", \"127.0.0.2:9\"], {policies}}}\n  \
         one: {{hosts: [\"127.0.0.3:9\"], {policies}}}\n"
    )
}

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fine,
    /// It is ejected for as long as the test lasts.
    Out,
    /// Its pause is over, and a request is its probe.
    Due,
    /// Its pause is over, and a connect is its probe.
    DueByConnect,
    /// Its breaker is open.
    Open,
}

use State::{Due, DueByConnect, Fine, Open, Out};

impl State {
    fn set(self, cluster: &LocalCluster, index: usize, now: Instant) {
        let (shared, state) = (&cluster.shared, &cluster.endpoints[index].state);
        let a_pause_ago = now.checked_sub(PAUSE).unwrap();
        let fails = |sign, at| {
            let outlier = shared.outlier.as_ref().unwrap();
            outlier.record(state.outlier(), state.outlier().began(), sign, at, || true).unwrap();
        };
        match self {
            Fine => {}
            Out => fails(Sign::GatewayFailed, now),
            Due => fails(Sign::GatewayFailed, a_pause_ago),
            DueByConnect => fails(Sign::ConnectFailed, a_pause_ago),
            Open => {
                let permit = shared.breaker.as_ref().unwrap().check(state.clone(), now, || 1).unwrap();
                permit.record(Outcome::Failure, now, || true).unwrap();
            }
        }
    }
}

/// The pause of the outlier detection.
const PAUSE: Duration = Duration::from_secs(5);

/// The result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The index of the endpoint, and whether the attempt is its probe.
    At(usize, bool),
    /// One of the two endpoints, not as a probe.
    Any,
    /// `breaker_open`, with a `Retry-After`.
    Broken,
    /// `no_healthy_endpoint`.
    Nothing,
}

use Found::{Any, At, Broken, Nothing};

impl Found {
    fn of(result: Result<Picked<'_>, Error>) -> Self {
        match result {
            Ok(picked) => At(picked.index, picked.probe.is_some()),
            Err(Error::BreakerOpen { retry_after }) => {
                assert!(retry_after <= Duration::from_secs(5));
                Broken
            }
            Err(Error::NoHealthyEndpoint(Absence::Tried)) => Nothing,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn is(self, result: Self) -> bool {
        self == result || (self == Any && matches!(result, At(_, false)))
    }
}

/// Runs `test` with a worker, and with a plan and an exchange for a request to the service `two`, or to both in these
/// shares.
fn with_plan(shares: Option<[u32; 2]>, test: impl FnOnce(&Plan<'_>, &mut Exchange, Instant)) {
    let (prepared, (_, own)) = (
        Prepared::new(&routes(), Path::new("")).unwrap(),
        testing::compile(&routes(), Path::new("")).unwrap(),
    );
    // A route that only this test has, and may change.
    let routes = Arc::into_inner(own.table).unwrap().routes;
    let mut route = routes.into_iter().find(|route| &*route.service == "two").unwrap();
    let index = |name: &str| own.clusters.iter().position(|cluster| &*cluster.name == name).unwrap();
    let parts = shares.map(|[two, one]| [(index("two"), two), (index("one"), one)]);
    Arc::get_mut(&mut route).unwrap().split = parts.and_then(|parts| Split::compile(&parts));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let worker = testing::worker_with_endpoints(&prepared.setup);
        // Later than the making of each cluster, so that failures can lie before it.
        let now = worker.clock.now() + 10 * PAUSE;
        let mut exchange = testing::exchange_of(&worker, now);
        let snapshot = worker.snapshot();
        test(&Plan { snapshot: &snapshot, route: &route, worker: &worker }, &mut exchange, now);
    });
}

/// Each row has the states of the two endpoints, the endpoints that were tried, whether the method is safe to repeat,
/// and the results for an attempt that is free and for one that is not.
#[test]
fn each_endpoint_is_tried_once_the_ejected_ones_last_and_those_with_an_open_breaker_never() {
    for (states, tried, is_safe, free, costly) in [
        ([Fine, Fine], &[][..], true, Any, Any),
        ([Fine, Fine], &[0], true, At(1, false), At(1, false)),
        ([Fine, Fine], &[1, 0], true, Nothing, Nothing),
        // An ejected endpoint is better than none if the attempt is free.
        ([Out, Fine], &[], true, At(1, false), At(1, false)),
        ([Fine, Out], &[0], true, At(1, false), Nothing),
        ([Out, Out], &[], true, Any, Nothing),
        ([Out, Out], &[1], true, At(0, false), Nothing),
        ([Out, Out], &[1, 0], true, Nothing, Nothing),
        // A request that goes to another endpoint if it fails is a probe; one that would be lost is not.
        ([Due, Out], &[], true, At(0, true), At(0, true)),
        ([Out, Due], &[0], false, At(1, false), Nothing),
        ([Due, Fine], &[], false, At(1, false), At(1, false)),
        // The probe is a connect beside the traffic, not this request.
        ([DueByConnect, Fine], &[], true, At(1, false), At(1, false)),
        ([DueByConnect, Out], &[1], true, At(0, false), Nothing),
        // An open breaker is never passed. The reply has a time to return if all breakers are open.
        ([Open, Fine], &[], true, At(1, false), At(1, false)),
        ([Open, Open], &[], true, Broken, Broken),
        ([Open, Out], &[], true, At(1, false), Nothing),
        ([Open, Out], &[1], true, Nothing, Nothing),
        ([Open, Fine], &[1], true, Nothing, Nothing),
        ([Open, Open], &[1], true, Broken, Broken),
        ([Open, Due], &[], true, At(1, true), At(1, true)),
    ] {
        for (is_free, expected) in [(true, free), (false, costly)] {
            with_plan(None, |plan, exchange, now| {
                exchange.request.method = if is_safe { Method::GET } else { Method::POST };
                let cluster = plan.cluster(exchange).unwrap();
                for (index, state) in states.into_iter().enumerate() {
                    state.set(cluster, index, now);
                }
                let mut search = Search::new(plan, cluster, None);
                for index in tried {
                    search.leave_out(*index);
                }
                let found = search.pick(is_free, now, exchange, &mut SmallRng::seed_from_u64(1));
                let found = Found::of(found);
                assert!(
                    expected.is(found),
                    "{states:?}, tried {tried:?}, safe: {is_safe}, free: {is_free}: {found:?} and not {expected:?}"
                );
            });
        }
    }
}

#[test]
fn first_attempts_take_turns_and_further_ones_take_none() {
    with_plan(None, |plan, exchange, now| {
        let rng = &mut SmallRng::seed_from_u64(1);
        let cluster = plan.cluster(exchange).unwrap();
        let mut first = || Search::new(plan, cluster, None).first(now, exchange, rng).unwrap().index;
        let turns = [first(), first(), first(), first()];
        assert_eq!(turns, [turns[0], 1 - turns[0], turns[0], 1 - turns[0]]);
        let rng = &mut SmallRng::seed_from_u64(1);
        for expected in [turns[0], 1 - turns[0], turns[0]] {
            let mut search = Search::new(plan, cluster, None);
            let first = search.first(now, exchange, rng).unwrap().index;
            assert_eq!(first, expected);
            search.leave_out(first);
            assert_eq!(search.pick(false, now, exchange, rng).unwrap().index, 1 - first, "the other one");
        }
    });
}

fn cluster<'a>(plan: &Plan<'a>, name: &str) -> &'a Rc<LocalCluster> {
    plan.snapshot.clusters.iter().find(|cluster| &*cluster.shared.name == name).unwrap()
}

#[test]
fn a_request_stays_in_its_subset_until_that_is_used_up_and_goes_to_one_with_a_share() {
    for (shares, expected) in [([1, 1], Ok("one")), ([100, 0], Err(Nothing))] {
        with_plan(Some(shares), |plan, exchange, now| {
            let rng = &mut SmallRng::seed_from_u64(1);
            let mut search = Search::new(plan, cluster(plan, "two"), None);
            for _ in 0..2 {
                let picked = search.pick(true, now, exchange, rng).unwrap();
                assert_eq!(&*picked.cluster.shared.name, "two");
                let index = picked.index;
                drop(picked);
                search.leave_out(index);
            }
            let elsewhere = search.pick(true, now, exchange, rng);
            let is =
                elsewhere.map(|picked| &*picked.cluster.shared.name).map_err(|error| Found::of(Err(error)));
            assert_eq!(is, expected, "{shares:?}");
            search.leave_out(0);
            assert_eq!(Found::of(search.pick(true, now, exchange, rng)), Nothing, "all of them are used up");
        });
    }
}

#[test]
fn a_subset_that_no_request_can_be_sent_to_leaves_its_share_to_the_other() {
    with_plan(Some([1, 99]), |plan, exchange, now| {
        let chosen = |exchange: &Exchange| &*plan.cluster(exchange).unwrap().shared.name;
        Out.set(cluster(plan, "one"), 0, now);
        for _ in 0..20 {
            assert_eq!(chosen(exchange), "two");
        }
        for (index, state) in [Open, Out].into_iter().enumerate() {
            state.set(cluster(plan, "two"), index, now);
        }
        assert_eq!(chosen(exchange), "two", "where none can take it, the route's own service says why");
    });
}
