//! How tunnels end: by a drain, by one of their sides, and by a side that takes nothing.

use std::{io::ErrorKind, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    support::{
        DEADLINE, eventually,
        frames::Listeners,
        gateway::TestGateway,
        websocket::{EchoService, WebSocketClient},
    },
    tunnels::{HANDSHAKE, KEY, gateway, logged, only_line},
};

#[tokio::test]
async fn a_drain_closes_tunnels_with_1001_on_both_sides() {
    let service = EchoService::start().await;
    let config = format!(
        "drain: {{timeout: 15s}}\nroutes: [{{path: /**, service: s}}]\n\
         services: {{s: {{hosts: [\"{}\"]}}}}\naccess_log: {{format: off}}\n",
        service.addr
    );
    let listeners = Listeners::start("", &config).await;
    let mut clients = Vec::new();
    for over_tls in [false, true] {
        let (mut client, _) = WebSocketClient::open(listeners.open_http1(over_tls).await, "/", &[]).await;
        client.echoes("open").await;
        clients.push(client);
    }
    let draining = tokio::spawn(listeners.gateway.stop());
    for client in clients {
        assert_eq!(client.closed_with().await, 1001);
    }
    eventually("the service learns it, too", || async { service.ends() == [Ok(Some(1001)), Ok(Some(1001))] })
        .await;
    assert_eq!(draining.await.unwrap(), 0, "connections that were cut");
}

/// A service that switches to WebSocket and then leaves the connection to the test.
async fn raw_service() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Both ends of a tunnel, as bytes.
async fn raw_tunnel(gateway: &TestGateway, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client
        .write_all(format!("GET /a HTTP/1.1\r\nHost: gw\r\n{HANDSHAKE}{KEY}\r\n").as_bytes())
        .await
        .unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    read_head(&mut service).await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    service.write_all(answer.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    (client, service)
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut byte)).await.unwrap().unwrap();
        head.push(byte[0]);
    }
}

#[tokio::test]
async fn a_frame_that_is_under_way_when_the_drain_begins_is_finished_first() {
    let (listener, addr) = raw_service().await;
    let gateway = gateway(addr, "", "").await;
    let (mut client, mut service) = raw_tunnel(&gateway, &listener).await;
    // 4 of 8 bytes of a message; and half of a ping in the other direction.
    service.write_all(b"\x82\x08abcd").await.unwrap();
    client.write_all(b"\x89\x84\0\0").await.unwrap();
    let mut got = [0; 6];
    client.read_exact(&mut got).await.unwrap();
    let http = gateway.http;
    let draining = tokio::spawn(gateway.stop());
    eventually("it accepts no connection any more", || async {
        matches!(TcpStream::connect(http).await, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
    // The rest of the frame and the beginning of the next one, in one segment.
    service.write_all(b"efgh\x82\x02zz").await.unwrap();
    let mut rest = [0; 8];
    tokio::time::timeout(DEADLINE, client.read_exact(&mut rest)).await.unwrap().unwrap();
    assert_eq!(&rest, b"efgh\x88\x02\x03\xe9", "the frame ends, and the Close frame follows at once");
    client.write_all(b"\0\0ping").await.unwrap();
    let mut seen = [0; 18];
    tokio::time::timeout(DEADLINE, service.read_exact(&mut seen)).await.unwrap().unwrap();
    assert_eq!(&seen, b"\x89\x84\0\0\0\0ping\x88\x82\0\0\0\0\x03\xe9");
    // Both answer, and the gateway closes.
    client.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
    service.write_all(b"\x88\x02\x03\xe9").await.unwrap();
    let mut end = Vec::new();
    tokio::time::timeout(DEADLINE, client.read_to_end(&mut end)).await.unwrap().unwrap();
    assert_eq!(end, b"");
    assert_eq!(draining.await.unwrap(), 0);
}

#[tokio::test]
async fn each_direction_ends_when_its_sender_ends_it_and_the_other_one_goes_on() {
    let (listener, addr) = raw_service().await;
    let gateway = gateway(addr, "", "").await;
    let (mut client, mut service) = raw_tunnel(&gateway, &listener).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut seen = Vec::new();
    tokio::time::timeout(DEADLINE, service.read_to_end(&mut seen)).await.unwrap().unwrap();
    assert_eq!(seen, b"last words");
    service.write_all(b"a late answer").await.unwrap();
    drop(service);
    let mut got = Vec::new();
    tokio::time::timeout(DEADLINE, client.read_to_end(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, b"a late answer");
    let line = only_line(&gateway).await;
    assert_eq!(
        (&line["flags"], &line["bytes_in"], &line["bytes_out"]),
        (&"-".into(), &10.into(), &13.into())
    );
}

#[tokio::test]
async fn a_side_that_vanishes_takes_the_other_one_with_it() {
    let (listener, addr) = raw_service().await;
    let gateway = gateway(addr, "", "").await;
    let (client, mut service) = raw_tunnel(&gateway, &listener).await;
    client.set_zero_linger().unwrap();
    drop(client);
    let mut space = [0; 16];
    let read = tokio::time::timeout(DEADLINE, service.read(&mut space)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    let (mut client, service) = raw_tunnel(&gateway, &listener).await;
    service.set_zero_linger().unwrap();
    drop(service);
    let read = tokio::time::timeout(DEADLINE, client.read(&mut space)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    eventually("both are logged with their side", || async {
        let lines = logged(&gateway);
        lines.len() == 2 && lines[0]["flags"] == "client_gone" && lines[1]["flags"] == "upstream_truncated"
    })
    .await;
}

#[tokio::test]
async fn a_side_that_takes_nothing_stops_the_other_one_after_a_bounded_number_of_bytes() {
    let (listener, addr) = raw_service().await;
    let gateway = gateway(addr, ", timeout: {tunnel: 1s}", "").await;
    let (client, mut service) = raw_tunnel(&gateway, &listener).await;
    let block = vec![0; 64 * 1024];
    let mut sent = 0;
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(300), service.write_all(&block)).await {
        sent += block.len();
        assert!(sent < 64 << 20, "some buffer grows without a limit");
    }
    // The client is stalled, and its tunnel ends although the service would go on.
    let line = only_line(&gateway).await;
    assert_eq!(line["flags"], "tunnel_stalled");
    drop(client);
}
