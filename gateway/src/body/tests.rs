//! The bytes that attempts get from one upload. The client is an HTTP/1.1 connection in memory.

use std::{cell::RefCell, path::Path, rc::Rc};

use bytes::Bytes;
use http::{Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    sync::oneshot,
    task::LocalSet,
};

use super::{Activity, BodyError, ClientBody, RequestBody, Surroundings, Upload, UploadLimits};
use crate::testing::{self, Prepared};

const ROUTES: &str = "version: 1\nroutes:\n  - {path: /*, service: items}\n\
    services: {items: {hosts: [\"192.0.2.1:80\"]}}\naccess_log: {format: off}\n";

/// The body of a request with this framing, and the client that sends it.
async fn client(framing: &str) -> (DuplexStream, Incoming) {
    let (mut client, ours) = duplex(1 << 20);
    let (sender, receiver) = oneshot::channel();
    let sender = RefCell::new(Some(sender));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let _ = sender.borrow_mut().take().unwrap().send(request.into_body());
        // hyper keeps reading for as long as the request is being served.
        std::future::pending::<Result<Response<Empty<Bytes>>, std::io::Error>>()
    });
    tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(ours), service));
    let head = format!("POST / HTTP/1.1\r\nhost: gw\r\n{framing}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    (client, receiver.await.unwrap())
}

/// Runs `test` with a client, the body for its first attempt, and the upload behind it.
fn with_upload<F>(framing: &'static str, keep_max: u64, test: F)
where
    F: AsyncFnOnce(DuplexStream, RequestBody, Rc<Upload>),
{
    let prepared = Prepared::new(ROUTES, Path::new("")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let worker = testing::worker_with_endpoints(&prepared.setup);
        let connection = testing::connection_of(&worker);
        let surroundings = Surroundings {
            clock: Rc::clone(&worker.clock),
            metrics: Rc::clone(&worker.metrics),
            held: [Rc::clone(&worker.held_bytes), connection.state.held_bytes()],
        };
        let (client, body) = client(framing).await;
        let limits = UploadLimits { bytes_max: None, keep_max, trailers: None };
        let activity = Activity::new(Some(Rc::clone(&connection.state)));
        let body = ClientBody::Http1(body);
        let upload = Upload::new(body, Version::HTTP_11, limits, surroundings, activity);
        test(client, RequestBody::of(Rc::clone(&upload)), upload).await;
        assert_eq!(worker.held_bytes.get(), 0, "all that was held is given back");
    });
}

async fn next(body: &mut RequestBody) -> Option<Result<Bytes, BodyError>> {
    let frame = body.frame().await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn another_attempt_begins_at_the_first_byte_and_the_one_before_gets_nothing_more() {
    with_upload("transfer-encoding: chunked", 100, async |mut client, mut first, upload| {
        client.write_all(b"3\r\none\r\n").await.unwrap();
        assert_eq!(next(&mut first).await, Some(Ok(bytes("one"))));
        let mut second = upload.replay().unwrap();
        // The first attempt waits for the client, as a connection does that is about to be closed.
        client.write_all(b"3\r\ntwo\r\n").await.unwrap();
        assert_eq!(next(&mut first).await, Some(Err(BodyError::Replaced)));
        assert_eq!(next(&mut second).await, Some(Ok(bytes("one"))));
        assert_eq!(next(&mut second).await, Some(Ok(bytes("two"))));
        assert!(!upload.complete.get());
        client.write_all(b"0\r\n\r\n").await.unwrap();
        assert_eq!(next(&mut second).await, None);
        assert!(upload.complete.get() && upload.received.get().is_some());
        let mut third = upload.replay().unwrap();
        assert!(!upload.complete.get(), "the third attempt has sent nothing yet");
        let whole = third.collect().await.unwrap().to_bytes();
        assert_eq!(whole, "onetwo");
        third = upload.replay().unwrap();
        assert_eq!(http_body::Body::size_hint(&third).exact(), Some(6), "it is known by now");
        assert_eq!(upload.bytes.get(), 6, "as many as came from the client");
    });
}

#[test]
fn content_that_was_not_sent_after_all_comes_again() {
    with_upload("content-length: 9", 0, async |mut client, mut body, upload| {
        client.write_all(b"12345").await.unwrap();
        for _ in 0..2 {
            assert_eq!(next(&mut body).await, Some(Ok(bytes("12345"))));
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(4));
            body.put_back(bytes("12345"));
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(9));
        }
        client.write_all(b"6789").await.unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(bytes("12345"))));
        assert_eq!(next(&mut body).await, Some(Ok(bytes("6789"))));
        assert!(http_body::Body::is_end_stream(&body) && upload.complete.get());
        body.put_back(bytes("6789"));
        assert!(!http_body::Body::is_end_stream(&body), "the last of it is still to be sent");
        assert_eq!(next(&mut body).await, Some(Ok(bytes("6789"))));
        assert_eq!(next(&mut body).await, None);
    });
}

#[test]
fn past_the_limit_a_body_is_sent_once() {
    with_upload("content-length: 9", 5, async |mut client, mut body, upload| {
        client.write_all(b"12345").await.unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(bytes("12345"))));
        assert!(upload.can_replay(), "as many as the limit");
        client.write_all(b"6789").await.unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(bytes("6789"))));
        assert!(!upload.can_replay() && upload.replay().is_none());
        assert_eq!(next(&mut body).await, None, "and the one that sends it goes on");
        assert!(upload.complete.get());
    });
}

#[test]
fn what_was_gathered_is_sent_even_where_nothing_is_held_for_a_retry() {
    with_upload("content-length: 9", 0, async |mut client, body, upload| {
        client.write_all(b"123456789").await.unwrap();
        upload.gather().await.unwrap();
        assert!(upload.replay().is_none());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "123456789");
    });
}

#[test]
fn a_response_releases_what_was_held() {
    with_upload("content-length: 9", 100, async |mut client, mut body, upload| {
        client.write_all(b"12345").await.unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(bytes("12345"))));
        upload.release();
        assert!(upload.replay().is_none());
        client.write_all(b"6789").await.unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(bytes("6789"))));
    });
}

#[test]
fn a_client_that_breaks_off_leaves_nothing_to_replay() {
    for (framing, piece) in
        [("content-length: 9", &b"12345"[..]), ("transfer-encoding: chunked", b"5\r\n12345\r\n")]
    {
        with_upload(framing, 100, async |mut client, mut body, upload| {
            client.write_all(piece).await.unwrap();
            assert_eq!(next(&mut body).await, Some(Ok(bytes("12345"))));
            drop(client);
            assert_eq!(next(&mut body).await, Some(Err(BodyError::Gone)));
            assert_eq!(upload.failure.get(), Some(BodyError::Gone));
            assert!(upload.replay().is_none());
        });
    }
}

#[test]
fn a_body_that_is_not_valid_is_no_client_that_left() {
    with_upload("transfer-encoding: chunked", 100, async |mut client, mut body, upload| {
        client.write_all(b"not a size\r\n").await.unwrap();
        assert_eq!(next(&mut body).await, Some(Err(BodyError::Broken)));
        assert!(upload.received.get().is_none());
    });
}
