//! WebSocket on streams of HTTP/2 (RFC 8441), to services that speak HTTP/1.1.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    DEADLINE,
    backend::Backend,
    eventually,
    frames::{
        DATA, END_HEADERS, END_STREAM, FrameClient, Listeners, Outcome, PING, PROTOCOL_ERROR, RST_STREAM,
        SETTINGS, data, headers, ping, request, reset,
    },
    h2_stream::{connect, open},
    websocket::{EchoService, WebSocketClient},
};

/// `route` and `service` have further entries, each with a comma before it.
async fn listeners(service: SocketAddr, route: &str, of_service: &str) -> Listeners {
    let config = format!(
        "drain: {{timeout: 15s}}\naccess_log: {{format: json, file: access.log}}\n\
         routes: [{{path: /**, methods: GET, service: s{route}}}]\n\
         services: {{s: {{hosts: [\"{service}\"]{of_service}}}}}\n"
    );
    Listeners::start("", &config).await
}

fn logged(listeners: &Listeners) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(listeners.gateway.dir.path().join("access.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn websockets_share_a_connection_with_each_other_and_with_requests() {
    let service = EchoService::start().await;
    for over_tls in [false, true] {
        let listeners = listeners(service.addr, "", "").await;
        let stream = if over_tls { listeners.open_h2(true).await } else { listeners.open_h2(false).await };
        let mut client = connect(stream).await;
        let scheme = if over_tls { "https" } else { "http" };
        let mut sockets = Vec::new();
        for number in 0..3 {
            let fields = [
                ("sec-websocket-protocol", "chat"),
                // A client of HTTP/2 has no key (RFC 8441 §5); one that comes all the same is not passed on.
                ("sec-websocket-key", "AAAA"),
            ];
            let uri = format!("{scheme}://gw/chat/{number}");
            let (answer, stream) = open(&mut client, "websocket", &uri, &fields).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
                (200, &"chat".parse().unwrap())
            );
            for absent in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
                assert!(!answer.headers().contains_key(absent), "{absent}");
            }
            let (target, seen) = service.only_handshake();
            assert_eq!(target, format!("/chat/{number}"));
            assert_eq!(
                (&seen["via"], &seen["x-forwarded-proto"]),
                (&"2 millgate".parse().unwrap(), &scheme.parse().unwrap())
            );
            assert_eq!(seen.get_all("sec-websocket-key").iter().count(), 1);
            assert_ne!(seen["sec-websocket-key"], "AAAA");
            sockets.push(WebSocketClient::on(Box::new(stream)).await);
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            socket.echoes(&format!("socket {number}")).await;
        }
        let large = Message::binary(vec![3; 3_000_000]);
        sockets[1].send(large.clone()).await;
        assert!(sockets[1].next().await == Ok(large));
        for socket in sockets {
            socket.close(1000).await;
        }
        eventually("each is logged", || async { logged(&listeners).len() == 3 }).await;
        let line = &logged(&listeners)[0];
        assert_eq!(
            (&line["status"], &line["method"], &line["flags"]),
            (&200.into(), &"GET".into(), &"-".into())
        );
    }
}

#[tokio::test]
async fn a_handshake_that_is_refused_ends_its_stream_and_no_other() {
    let service = EchoService::start().await;
    let listeners = listeners(service.addr, "", "").await;
    let mut client = FrameClient::open(listeners.gateway.http).await;
    let connect = |stream: u32, protocol: &'static [u8], flags: u8| {
        let mut fields = request("http", "CONNECT", "/a");
        fields.push((b":protocol", protocol));
        headers(stream, END_HEADERS | flags, &fields)
    };
    let settings = client.until(|frame| frame.kind == SETTINGS).await.unwrap();
    assert!(
        settings.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]),
        "ENABLE_CONNECT_PROTOCOL"
    );
    for (stream, protocol, flags, expected) in [
        (1, &b"connect-udp"[..], 0, Outcome::Status(501)),
        (3, b"websocket", END_STREAM, Outcome::Status(400)),
    ] {
        client.send(&connect(stream, protocol, flags)).await;
        assert_eq!(client.outcome(stream).await, expected);
    }
    // The field of HTTP/1, and the pseudo-field without CONNECT, are malformed (RFC 9113 §8.2.2, RFC 8441 §4).
    let mut fields = request("http", "GET", "/a");
    fields.push((b"upgrade", b"websocket"));
    client.send(&headers(5, END_HEADERS | END_STREAM, &fields)).await;
    assert_eq!(client.outcome(5).await, Outcome::Reset(PROTOCOL_ERROR));
    let mut fields = request("http", "GET", "/a");
    fields.push((b":protocol", b"websocket"));
    client.send(&headers(7, END_HEADERS | END_STREAM, &fields)).await;
    assert_eq!(client.outcome(7).await, Outcome::Reset(PROTOCOL_ERROR));
    assert_eq!(service.handshakes(), 0);
    let mut fields = request("http", "CONNECT", "/a");
    fields.extend([(&b":protocol"[..], &b"websocket"[..]), (b"sec-websocket-version", b"13")]);
    client.send(&headers(9, END_HEADERS, &fields)).await;
    assert_eq!(client.outcome(9).await, Outcome::Status(200));
}

#[tokio::test]
async fn what_a_service_answers_instead_of_101_is_an_ordinary_response() {
    let backend = Backend::named("one").await;
    let listeners = listeners(backend.addr, "", "").await;
    let mut client = connect(listeners.open_h2(false).await).await;
    let (answer, mut stream) = open(&mut client, "websocket", "http://gw/a", &[]).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut content = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut content)).await.unwrap().unwrap();
    assert!(!content.is_empty());
    let seen = backend.only_seen();
    assert_eq!((seen.method().as_str(), &seen.headers()["upgrade"]), ("GET", &"websocket".parse().unwrap()));
}

#[tokio::test]
async fn a_reset_stream_closes_the_connection_to_its_service_and_a_reset_connection_the_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = listeners(listener.local_addr().unwrap(), ", upgrade: [echo]", "").await;
    let mut client = FrameClient::open(listeners.gateway.http).await;
    let mut fields = request("http", "CONNECT", "/a");
    fields.push((b":protocol", b"echo"));
    for stream in [1, 3] {
        client.send(&headers(stream, END_HEADERS, &fields)).await;
        let (mut service, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            service.read_buf(&mut head).await.unwrap();
        }
        service
            .write_all(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
            .await
            .unwrap();
        assert_eq!(client.outcome(stream).await, Outcome::Status(200));
        let hello = client.next_where(|frame| frame.kind == DATA && frame.stream == stream).await;
        assert_eq!(hello.payload, b"hello");
        client.send(&data(stream, 0, b"up")).await;
        let mut got = [0; 2];
        tokio::time::timeout(DEADLINE, service.read_exact(&mut got)).await.unwrap().unwrap();
        if stream == 1 {
            client.send(&reset(stream, 8)).await;
            let read = tokio::time::timeout(DEADLINE, service.read(&mut got)).await.unwrap();
            assert!(matches!(read, Ok(0) | Err(_)));
        } else {
            service.set_zero_linger().unwrap();
            drop(service);
            let end = client.next_where(|frame| frame.kind == RST_STREAM && frame.stream == stream).await;
            assert_eq!(end.error_code(), Some(8), "CANCEL");
        }
    }
    eventually("both are logged with their side", || async {
        let lines = logged(&listeners);
        lines.len() == 2 && lines[0]["flags"] == "client_gone" && lines[1]["flags"] == "upstream_truncated"
    })
    .await;
}

#[tokio::test]
async fn the_last_words_of_a_service_and_its_end_arrive_whoever_ends_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = listeners(listener.local_addr().unwrap(), ", upgrade: [echo]", "").await;
    for over_tls in [false, true] {
        let mut client = listeners.open(over_tls).await;
        let mut fields = request(client.scheme, "CONNECT", "/a");
        fields.push((b":protocol", b"echo"));
        for (stream, client_is_first) in [(1, true), (3, false)] {
            client.send(&headers(stream, END_HEADERS, &fields)).await;
            let mut service = accept(&listener).await;
            assert_eq!(client.outcome(stream).await, Outcome::Status(200));
            if client_is_first {
                client.send(&data(stream, END_STREAM, b"bye")).await;
                let mut bye = Vec::new();
                tokio::time::timeout(DEADLINE, service.read_to_end(&mut bye)).await.unwrap().unwrap();
                assert_eq!(bye, b"bye");
            }
            service.write_all(&vec![b'w'; 30_000]).await.unwrap();
            service.shutdown().await.unwrap();

            let mut words = 0;
            loop {
                let frame = client.next_where(|frame| frame.stream == stream).await;
                assert_eq!(frame.kind, DATA, "{:?}", frame.error_code());
                words += frame.payload.len();
                if frame.flags & END_STREAM != 0 {
                    break;
                }
            }
            assert_eq!(words, 30_000);
            if !client_is_first {
                client.send(&data(stream, END_STREAM, b"bye")).await;
                let mut bye = Vec::new();
                tokio::time::timeout(DEADLINE, service.read_to_end(&mut bye)).await.unwrap().unwrap();
                assert_eq!(bye, b"bye");
            }
            client.send(&ping()).await;
            let next = client.next_where(|frame| frame.stream == stream || frame.kind == PING).await;
            assert_eq!((next.kind, next.error_code()), (PING, None), "nothing comes behind the end");
        }
    }
    eventually("each ended well", || async {
        let lines = logged(&listeners);
        lines.len() == 4 && lines.iter().all(|line| line["flags"] == "-")
    })
    .await;
}

/// The next handshake, which is answered.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut service, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        service.read_buf(&mut head).await.unwrap();
    }
    service.write_all(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
    service
}

#[tokio::test]
async fn a_drain_closes_each_websocket_of_a_connection_with_1001() {
    let service = EchoService::start().await;
    let listeners = listeners(service.addr, "", "").await;
    let mut client = connect(listeners.open_h2(true).await).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let (_, stream) = open(&mut client, "websocket", "https://gw/", &[]).await.unwrap();
        sockets.push(WebSocketClient::on(Box::new(stream)).await);
    }
    sockets[0].echoes("open").await;
    let draining = tokio::spawn(listeners.gateway.stop());
    for socket in sockets {
        assert_eq!(socket.closed_with().await, 1001);
    }
    eventually("the service learns it, too", || async { service.ends() == [Ok(Some(1001)), Ok(Some(1001))] })
        .await;
    assert_eq!(draining.await.unwrap(), 0, "connections that were cut");
}

#[tokio::test]
async fn a_stream_without_room_holds_a_bounded_number_of_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = ", upgrade: [echo], timeout: {tunnel: 1s}";
    let listeners = listeners(listener.local_addr().unwrap(), route, "").await;
    let mut client = connect(listeners.open_h2(false).await).await;
    let (opened, mut service) = tokio::join!(open(&mut client, "echo", "http://gw/", &[]), accept(&listener));
    let (_, stream) = opened.unwrap();
    let (block, mut sent) = (vec![0; 64 * 1024], 0);
    let patience = std::time::Duration::from_millis(300);
    while let Ok(Ok(())) = tokio::time::timeout(patience, service.write_all(&block)).await {
        sent += block.len();
        assert!(sent < 64 << 20, "some buffer grows without a limit");
    }
    eventually("the tunnel ends", || async { logged(&listeners).len() == 1 }).await;
    assert_eq!(logged(&listeners)[0]["flags"], "tunnel_stalled");
    drop(stream);
}
