//! Bodies that are gathered before an instance is chosen, and sent again when an attempt fails.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    backend::{Backend, closed_port},
    client::{get, raw, send, status, text},
    eventually,
    frames::{FrameClient, HEADERS, WINDOW_UPDATE, data},
    gateway::TestGateway,
    recorder::Recorder,
};

async fn gateway(service: SocketAddr, route: &str, service_fields: &str) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\nroutes: [{{path: /**, service: s{route}}}]\n\
         services: {{s: {{hosts: [\"{service}\"]{service_fields}}}}}\n"
    ))
    .await
}

const HEAD: &[u8] = b"POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 1000\r\n\r\nx";

/// Peers: nginx buffers requests by default; before, four such clients were enough for a 503.
#[tokio::test]
async fn clients_that_drip_their_bodies_take_nothing_of_a_service() {
    let service = Backend::named("one").await;
    let gateway = gateway(service.addr, "", ", max_inflight: 4").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        client.write_all(HEAD).await.unwrap();
        clients.push(client);
    }
    let mut client = FrameClient::open(gateway.http).await;
    for at in 0..20 {
        let head = client.head(2 * at + 1, "POST", "/x", &[]);
        client.send(&[head, data(2 * at + 1, 0, b"x")].concat()).await;
    }
    // Its answer comes behind everything that was sent before.
    client.send(&client.get(101, "/x")).await;
    client.next_where(|frame| frame.stream == 101 && frame.kind == HEADERS).await;
    for _ in 0..10 {
        assert_eq!(status(gateway.http, "/x").await, 200);
    }
    assert_eq!(service.connections(), 1, "no connection is open for a body that is not there");
    // And each of them is served when it has sent the rest.
    for mut client in clients {
        client.write_all(&[b'y'; 999]).await.unwrap();
        let mut answer = [0; 15];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn a_route_that_streams_takes_its_slot_with_the_head() {
    let service = Recorder::silent().await;
    let gateway = gateway(service.addr, ", body: stream", "").await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(HEAD).await.unwrap();
    eventually("the piece arrives", || async {
        service.connections().iter().any(|connection| connection.ends_with(b"\r\n\r\nx"))
    })
    .await;
}

#[tokio::test]
async fn a_long_body_is_sent_on_when_its_first_part_is_there() {
    let service = Recorder::silent().await;
    let gateway = gateway(service.addr, "", "").await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    client.write_all(&vec![b'x'; 64 * 1024 - 1]).await.unwrap();
    assert_eq!(status(gateway.admin(), "/livez").await, 200);
    assert_eq!(service.received(), 0, "one byte is missing");
    client.write_all(b"x").await.unwrap();
    eventually("the first part arrives", || async { service.received() > 64 * 1024 }).await;
    client.write_all(&vec![b'x'; 1_000_000 - 64 * 1024]).await.unwrap();
    eventually("the rest arrives", || async { service.received() > 1_000_000 }).await;
}

/// The service invites the client, or a policy refuses the request before that (`expectations`).
#[tokio::test]
async fn a_client_that_expects_a_100_gets_it() {
    let service = Backend::with(|request| Response::new(request.body().clone())).await;
    let gateway = gateway(service.addr, ", body_limit: 1KiB", "").await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let head = b"POST /x HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut answer = [0; 25];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nbody") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0);
    }
    let head = b"POST /x HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 4000\r\n\r\n";
    let (answer, _) = raw(gateway.http, &[head], true, Duration::from_secs(5)).await;
    assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
}

/// A connection may hold 1 MiB of bodies; bytes beyond that go on at once.
#[tokio::test]
async fn one_connection_holds_no_more_than_its_part() {
    let service = Recorder::silent().await;
    let gateway = gateway(service.addr, "", "").await;
    let mut client = FrameClient::open(gateway.http).await;
    client.next_where(|frame| frame.kind == WINDOW_UPDATE).await;
    let piece = vec![b'x'; 16_000];
    for at in 0..24 {
        let stream = 2 * at + 1;
        client.send(&client.head(stream, "POST", "/x", &[])).await;
        for _ in 0..4 {
            client.send(&data(stream, 0, &piece)).await;
        }
    }
    eventually("some are sent on", || async {
        let metrics = send(gateway.admin(), get("/metrics")).await;
        text(&metrics).contains("millgate_bodies_not_gathered_total{limit=\"connection\"}")
    })
    .await;
    eventually("and arrive", || async { service.received() > 64_000 }).await;
    // Of 24, thirteen wait with 64,000 bytes and 16 KiB for themselves.
    assert!(service.connections().len() <= 13, "the others wait: {}", service.connections().len());
    drop(client);
    eventually("all is given back", || async { service.all_closed() }).await;
}

/// A request that waits for its client costs memory beside its bytes, and takes no slot.
#[tokio::test]
async fn requests_that_wait_with_nothing_but_their_heads_are_bounded_too() {
    let service = Recorder::silent().await;
    let gateway = gateway(service.addr, "", "").await;
    let mut client = FrameClient::open(gateway.http).await;
    for at in 0..80 {
        client.send(&client.head(2 * at + 1, "POST", "/x", &[])).await;
    }
    eventually("some go on to slots", || async {
        let metrics = send(gateway.admin(), get("/metrics")).await;
        text(&metrics).contains("millgate_bodies_not_gathered_total{limit=\"connection\"}")
    })
    .await;
    eventually("and to the service", || async { !service.connections().is_empty() }).await;
    drop(client);
    eventually("all is given back", || async { service.all_closed() }).await;
}

/// An instance that is not there, and one that is: the same bytes go to the second.
#[tokio::test]
async fn a_body_reaches_the_instance_that_is_there() {
    let service = Backend::with(|request| {
        let mut response = Response::new(Bytes::from(request.body().len().to_string()));
        *response.status_mut() = StatusCode::CREATED;
        response
    })
    .await;
    let closed = closed_port();
    let gateway = TestGateway::start(&format!(
        "workers: 1\nroutes: [{{path: /**, service: s, retry: {{attempts: 1, budget: 100%}}}}]\n\
         services: {{s: {{hosts: [\"{closed}\", \"{}\"], breaker: off}}}}\n",
        service.addr
    ))
    .await;
    for bytes in [1, 1000, 60_000, 300_000] {
        for _ in 0..2 {
            let body = vec![b'x'; bytes];
            let head = format!(
                "POST /x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
            );
            let pieces: [&[u8]; 2] = [head.as_bytes(), &body];
            let (answer, _) = raw(gateway.http, &pieces, false, Duration::from_secs(10)).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                answer.starts_with("HTTP/1.1 201 ") && answer.ends_with(&format!("\r\n\r\n{bytes}")),
                "{answer}"
            );
        }
    }
}

/// Only its end shows that a body of unknown length has no content. The service then gets none, in the form that its method asks
/// for: some refuse a GET with chunks.
#[tokio::test]
async fn a_body_that_turns_out_empty_is_sent_as_none() {
    for (method, length) in [("GET", None), ("DELETE", None), ("POST", Some("0")), ("PUT", Some("0"))] {
        let service = Recorder::silent().await;
        let gateway = gateway(service.addr, "", "").await;
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        let head = format!("{method} /x HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(b"0\r\n\r\n").await.unwrap();
        let mut client = FrameClient::open(gateway.http).await;
        let head = client.head(1, method, "/x", &[]);
        client.send(&[head, data(1, 1, b"")].concat()).await;
        eventually("both requests arrive", || async {
            let heads = service.connections();
            heads.len() == 2 && heads.iter().all(|bytes| bytes.ends_with(b"\r\n\r\n"))
        })
        .await;
        for recorded in service.connections() {
            let text = String::from_utf8(recorded.bytes).unwrap();
            assert!(!text.contains("transfer-encoding"), "{text}");
            let stated = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            assert_eq!(stated, length, "{text}");
        }
    }
}
