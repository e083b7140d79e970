//! The guard around a request: a panic ends that request only, and the end of the drain ends the request at once.

use std::{
    cell::Cell,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use super::error::Error;

/// A panic inside one request.
pub(super) struct Panicked;

/// Runs a request's future so that a panic ends that request only; the worker and its other requests go on. A request without
/// a response at the end of the drain's time gets a local reply.
pub(super) fn guarded<T>(
    is_out_of_time: &Cell<bool>,
    mut future: Pin<&mut impl Future<Output = Result<T, Error>>>,
) -> impl Future<Output = Result<Result<T, Error>, Panicked>> {
    std::future::poll_fn(move |cx: &mut Context<'_>| {
        if is_out_of_time.get() {
            return Poll::Ready(Ok(Err(Error::DrainTimeout)));
        }
        // Unwind safety: after a panic the future is never polled again, and the values that it borrowed are plain data.
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{path::Path, pin::pin, rc::Rc};

    use http::{Request, Response};
    use http_body_util::{BodyExt, Empty};
    use hyper::{body::Incoming, client::conn::http1};
    use hyper_util::rt::TokioIo;
    use tokio::{io::duplex, task::LocalSet};

    use super::*;
    use crate::{
        connection,
        metrics::Rare,
        testing::{self, MESSAGE_BYTES_MAX, Prepared},
        worker::WorkerState,
    };

    #[tokio::test]
    async fn a_panic_ends_its_own_future_only() {
        let in_time = Cell::new(false);
        let caught = guarded::<()>(&in_time, pin!(async { panic!("on purpose") })).await;
        assert!(caught.is_err());
        assert!(matches!(guarded(&in_time, pin!(async { Ok(7) })).await, Ok(Ok(7))));
    }

    /// A service with one slot, which a request that panics must give back. The peer is trusted, so that its id is used as
    /// the request's and no random number is needed for one.
    const ROUTES: &str = "version: 1\nlisten: {http: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}\n\
        routes:\n  - {path: /*, service: items}\naccess_log: {format: off}\n\
        services: {items: {hosts: [\"192.0.2.1:80\"], max_inflight: 1}}\n";

    fn request() -> Request<Empty<bytes::Bytes>> {
        let request = Request::get("http://gw/7").header("host", "gw").header("x-request-id", "mine");
        request.body(Empty::new()).unwrap()
    }

    /// Status and content. With `panics`, the test borrows the worker's random numbers, as a bug of the gateway could, and
    /// the request panics when it needs them.
    async fn answer<F>(worker: &WorkerState, panics: bool, response: F) -> (u16, String)
    where
        F: Future<Output = hyper::Result<Response<Incoming>>>,
    {
        let taken = panics.then(|| worker.rng.borrow_mut());
        let response = response.await.unwrap();
        drop(taken);
        let status = response.status().as_u16();
        let content = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(content.to_vec()).unwrap())
    }

    fn with_worker<F: AsyncFnOnce(Rc<WorkerState>, TokioIo<tokio::io::DuplexStream>)>(test: F) {
        let prepared = Prepared::new(ROUTES, Path::new("")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let worker = testing::worker_with_endpoints(&prepared.setup);
            let (client, ours) = duplex(MESSAGE_BYTES_MAX);
            connection::spawn_cleartext(ours, ([127, 0, 0, 1], 40_000).into(), Rc::clone(&worker));
            test(Rc::clone(&worker), TokioIo::new(client)).await;
            let sample = worker.metrics.sample();
            let panics = sample.rare.iter().filter(|((what, ..), _)| *what == Rare::Panic);
            assert_eq!(panics.map(|(_, times)| times).sum::<u64>(), 2);
            let (_, counted) = sample.routes.iter().find(|((_, service), _)| &**service == "items").unwrap();
            assert_eq!(counted.requests, [("GET", 200, 3), ("GET", 500, 2)]);
        });
    }

    fn assert_panicked((status, content): &(u16, String)) {
        assert_eq!(*status, 500, "{content}");
        let problem: serde_json::Value = serde_json::from_str(content).unwrap();
        assert_eq!((&problem["code"], &problem["request_id"]), (&"internal_error".into(), &"mine".into()));
    }

    #[test]
    fn a_request_that_panics_is_answered_and_its_http1_connection_serves_the_next_one() {
        with_worker(async |worker, io| {
            let (mut client, connection) = http1::handshake(io).await.unwrap();
            tokio::task::spawn_local(connection);
            for panics in [false, true, false, true, false] {
                client.ready().await.unwrap();
                let answer = answer(&worker, panics, client.send_request(request())).await;
                if panics {
                    assert_panicked(&answer);
                } else {
                    assert_eq!(answer.0, 200, "{}", answer.1);
                }
            }
        });
    }

    #[test]
    fn a_stream_that_panics_is_answered_and_its_connection_serves_the_next_one() {
        #[derive(Clone)]
        struct Local;
        impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
            fn execute(&self, future: F) {
                tokio::task::spawn_local(future);
            }
        }
        with_worker(async |worker, io| {
            let (mut client, connection) = hyper::client::conn::http2::handshake(Local, io).await.unwrap();
            tokio::task::spawn_local(connection);
            for panics in [false, true, false, true, false] {
                let answer = answer(&worker, panics, client.send_request(request())).await;
                if panics {
                    assert_panicked(&answer);
                } else {
                    assert_eq!(answer.0, 200, "{}", answer.1);
                }
            }
        });
    }
}
