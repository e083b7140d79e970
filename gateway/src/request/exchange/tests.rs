//! Results of a request's facts: its status, its flag, the owner of its slot, and whether its connection can go on.

use std::{net::IpAddr, path::Path, time::Duration};

use tokio::task::LocalSet;

use super::*;
use crate::testing::{self, Prepared};

const ROUTES: &str = "version: 1\nroutes:\n  - {path: /*, service: items}\naccess_log: {format: off}\n\
    services: {items: {hosts: [\"192.0.2.1:80\"]}}\n";

fn with_worker(test: impl FnOnce(&Rc<WorkerState>)) {
    let prepared = Prepared::new(ROUTES, Path::new("")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        test(&testing::worker_with_endpoints(&prepared.setup));
    });
}

fn exchange(worker: &Rc<WorkerState>) -> Box<Exchange> {
    testing::exchange_of(worker, worker.clock.now())
}

/// The requests that were counted without a route: method, status, and how many.
fn counted(worker: &WorkerState) -> Vec<(&'static str, u16, u64)> {
    worker.unmatched.borrow().requests.clone()
}

fn clients_gone(worker: &WorkerState) -> u64 {
    let sample = worker.metrics.sample();
    sample.rare.iter().filter(|((what, ..), _)| *what == Rare::ClientGone).map(|(_, times)| *times).sum()
}

#[test]
fn however_a_request_ends_its_drop_counts_it_once_and_a_client_that_left_beside_it() {
    with_worker(|worker| {
        for (at, (status, is_complete, shown, gone)) in [
            (Some(StatusCode::OK), true, 200, 0),
            (Some(StatusCode::BAD_GATEWAY), true, 502, 0),
            // The client left in the middle of a response, or before it began.
            (Some(StatusCode::NOT_FOUND), false, 404, 1),
            (None, false, CLIENT_CLOSED_REQUEST, 1),
        ]
        .into_iter()
        .enumerate()
        {
            let before = clients_gone(worker);
            let mut exchange = exchange(worker);
            (exchange.status, exchange.complete) = (status, is_complete);
            drop(exchange);
            assert_eq!(counted(worker).len(), at + 1, "{status:?}");
            assert_eq!(counted(worker)[at], ("GET", shown, 1), "{status:?}");
            assert_eq!(clients_gone(worker) - before, gone, "{status:?}, complete: {is_complete}");
        }
    });
}

#[test]
fn what_ended_an_exchange_is_said_and_the_client_is_named_last() {
    with_worker(|worker| {
        let silence = Duration::from_secs(1);
        for (ended, flag, is_out_of_time, expected) in [
            (None, flags::NONE, false, flags::CLIENT_GONE),
            (None, flags::NONE, true, flags::DRAIN_TIMEOUT),
            (None, flags::UPSTREAM_TRUNCATED, false, flags::UPSTREAM_TRUNCATED),
            (None, flags::UPSTREAM_TRUNCATED, true, flags::UPSTREAM_TRUNCATED),
            (Some(Cause::ClientStalled), flags::NONE, false, flags::CLIENT_STALLED),
            (Some(Cause::ClientStalled), flags::UPSTREAM_TRUNCATED, true, flags::CLIENT_STALLED),
            (Some(Cause::ClientSilent(silence)), flags::NONE, false, flags::REQUEST_TIMEOUT),
            (Some(Cause::ClientSlow(240)), flags::NONE, false, flags::REQUEST_TIMEOUT),
            (Some(Cause::ServiceSilent), flags::NONE, false, flags::BODY_TIMEOUT),
        ] {
            worker.is_out_of_time.set(is_out_of_time);
            let mut exchange = exchange(worker);
            exchange.flag = flag;
            if let Some(cause) = ended {
                exchange.activity().end(cause);
            }
            assert_eq!(
                exchange.why_incomplete(),
                expected,
                "{ended:?}, {flag}, out of time: {is_out_of_time}"
            );
        }
    });
}

#[test]
fn a_connection_goes_on_after_a_request_of_which_nothing_is_left_or_a_little_that_nothing_has_begun_to_read()
{
    use DeclaredBody::{Long, None, Short};
    with_worker(|worker| {
        for (version, body, is_unread, must_close) in [
            (Version::HTTP_11, None, false, false),
            (Version::HTTP_11, Short, true, false),
            (Version::HTTP_11, Long, true, true),
            (Version::HTTP_10, Long, true, true),
            (Version::HTTP_2, Short, true, false),
            (Version::HTTP_2, Long, true, false),
        ] {
            let mut exchange = exchange(worker);
            (exchange.request.version, exchange.request.body) = (version, body);
            let is = (exchange.has_unread_body(), exchange.must_close());
            assert_eq!(is, (is_unread, must_close), "{version:?}, {body:?}");
        }
    });
}

#[test]
fn a_share_is_a_connections_or_a_clients_where_that_is_one_clients_alone() {
    let (peer, behind) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([203, 0, 113, 7]));
    with_worker(|worker| {
        for (version, is_trusted, client, connection, expected) in [
            (Version::HTTP_11, false, peer, false, Some(peer)),
            (Version::HTTP_2, false, peer, true, Some(peer)),
            // A proxy carries many clients: each client that it names has a share of its own, and the others have none.
            (Version::HTTP_2, true, behind, false, Some(behind)),
            (Version::HTTP_2, true, peer, false, None),
            (Version::HTTP_11, true, peer, false, None),
        ] {
            let mut exchange = exchange(worker);
            let facts = &mut exchange.request;
            (facts.version, facts.peer_is_trusted, facts.client) = (version, is_trusted, client);
            let holder = exchange.holder();
            let is = (holder.connection.is_some(), holder.client);
            assert_eq!(is, (connection, expected), "{version:?}, trusted: {is_trusted}, {client}");
        }
    });
}
