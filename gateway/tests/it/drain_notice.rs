//! What HTTP/2 clients learn of a drain: GOAWAY, first as a notice and then with the last stream that is served (RFC 9113 §6.8).

use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::{
    backend::RawBackend,
    client::{Connection, get, header},
    eventually,
    frames::{ACK, DATA, END_STREAM, Frame, FrameClient, GOAWAY, HEADERS, NO_ERROR, PING, frame},
    gateway::TestGateway,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn gateway(service: &RawBackend) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\nroutes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    ))
    .await
}

/// The last stream that a GOAWAY names.
fn last_stream(goaway: &Frame) -> u32 {
    u32::from_be_bytes(goaway.payload[..4].try_into().unwrap())
}

#[tokio::test]
async fn streams_that_are_open_and_those_on_their_way_are_served_to_the_end_and_later_ones_never_begin() {
    let service = RawBackend::held(OK, false).await;
    let gateway = gateway(&service).await;
    let (http, mut client) = (gateway.http, FrameClient::open(gateway.http).await);
    client.send(&[client.get(1, "/a"), client.get(3, "/b")].concat()).await;
    eventually("both are at the service", || async { service.requests() == 2 }).await;
    let stopping = tokio::spawn(gateway.stop());
    let notice = client.until(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!((notice.error_code(), last_stream(&notice)), (Some(NO_ERROR), i32::MAX.cast_unsigned()));
    eventually("nothing more is accepted", || async { TcpStream::connect(http).await.is_err() }).await;
    // The request was sent before its client could have the number of the last stream, and is served as well.
    client.send(&client.get(5, "/c")).await;
    eventually("it is at the service", || async { service.requests() == 3 }).await;
    let ping = client.until(|frame| frame.kind == PING && frame.flags & ACK == 0).await.unwrap();
    client.send(&frame(PING, ACK, 0, &ping.payload)).await;
    let last = client.until(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!((last.error_code(), last_stream(&last)), (Some(NO_ERROR), 5));
    client.send(&client.get(7, "/d")).await;
    assert!(!stopping.is_finished(), "three streams are open");
    service.release();
    let (mut answered, mut ended) = (Vec::new(), Vec::new());
    while let Some(frame) = client.until(|frame| [HEADERS, DATA].contains(&frame.kind)).await {
        if frame.kind == HEADERS {
            answered.push(frame.stream);
        }
        if frame.flags & END_STREAM != 0 {
            ended.push(frame.stream);
        }
    }
    answered.sort_unstable();
    ended.sort_unstable();
    assert_eq!((&answered[..], &ended[..]), (&[1, 3, 5][..], &[1, 3, 5][..]));
    assert_eq!(stopping.await.unwrap(), 0, "no connection was cut");
    assert_eq!(service.requests(), 3, "stream 7 went nowhere: its client may send it again elsewhere");
}

#[tokio::test]
async fn connections_are_told_one_after_the_other_during_the_notice_and_none_loses_a_request() {
    let service = RawBackend::answering(OK, false).await;
    let gateway = TestGateway::start(&format!(
        "workers: 1\ndrain: {{notice: 2s}}\nroutes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    ))
    .await;
    let (http, mut open) = (gateway.http, Vec::new());
    for _ in 0..20 {
        let mut connection = Connection::open(http).await;
        connection.send(get("/")).await;
        open.push(connection);
    }
    let mut streams = FrameClient::open(http).await;
    let stopping = tokio::spawn(gateway.stop());
    // How many were open still, each time that one was told.
    let mut told = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while !open.is_empty() {
        pace.tick().await;
        let mut left = Vec::new();
        for mut connection in open {
            let reply = connection.send(get("/")).await;
            if header(&reply, "connection") == "close" {
                told.push((tokio::time::Instant::now(), connection));
            } else {
                left.push(connection);
            }
        }
        open = left;
    }
    let spread = told.last().unwrap().0 - told[0].0;
    assert!(spread > Duration::from_secs(1), "all within {spread:?}");
    assert!(streams.until(|frame| frame.kind == GOAWAY).await.is_some());
    assert_eq!(stopping.await.unwrap(), 0, "connections that were cut");
}

#[tokio::test]
async fn a_connection_without_streams_ends_with_its_notice() {
    let service = RawBackend::answering(OK, false).await;
    let gateway = gateway(&service).await;
    let mut client = FrameClient::open(gateway.http).await;
    client.send(&client.get(1, "/a")).await;
    client.next_where(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).await;
    let stopping = tokio::spawn(gateway.stop());
    let notice = client.until(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!(notice.error_code(), Some(NO_ERROR));
    let ping = client.until(|frame| frame.kind == PING && frame.flags & ACK == 0).await.unwrap();
    client.send(&frame(PING, ACK, 0, &ping.payload)).await;
    let last = client.until(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!((last.error_code(), last_stream(&last)), (Some(NO_ERROR), 1));
    assert_eq!(client.until(|_| true).await, None, "the connection's end");
    assert_eq!(stopping.await.unwrap(), 0);
}
