//! WebSocket and other protocols through tunnels, over HTTP/1.1.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::{
    DEADLINE,
    backend::{Backend, RawBackend},
    client::{get, send},
    eventually,
    frames::Listeners,
    gateway::TestGateway,
    tokens,
    websocket::{EchoService, WebSocketClient},
};

/// A gateway before one service. `route` and `service` have further entries, each with a comma before it.
pub(crate) async fn gateway(service: std::net::SocketAddr, route: &str, of_service: &str) -> TestGateway {
    TestGateway::start(&config(service, route, of_service)).await
}

fn config(service: std::net::SocketAddr, route: &str, of_service: &str) -> String {
    format!(
        "workers: 1\ndrain: {{timeout: 10s}}\naccess_log: {{format: json, file: access.log}}\n\
         routes: [{{path: /**, service: s{route}}}]\n\
         services: {{s: {{hosts: [\"{service}\"]{of_service}}}}}\n"
    )
}

/// The lines of the access log.
pub(crate) fn logged(gateway: &TestGateway) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) async fn only_line(gateway: &TestGateway) -> serde_json::Value {
    eventually("the tunnel is logged", || async { logged(gateway).len() == 1 }).await;
    logged(gateway).remove(0)
}

#[tokio::test]
async fn messages_of_each_kind_and_size_pass_in_both_directions_and_the_tunnel_closes_as_its_ends_close() {
    let service = EchoService::start().await;
    let gateway = gateway(service.addr, "", "").await;
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let fields = [("sec-websocket-protocol", "soap, chat"), ("x-forwarded-for", "192.0.2.1")];
    let (mut client, answer) = WebSocketClient::open(Box::new(stream), "/chat?room=7", &fields).await;
    assert_eq!(answer["sec-websocket-protocol"], "chat");
    assert_eq!(
        (&answer["upgrade"], &answer["connection"]),
        (&"websocket".parse().unwrap(), &"upgrade".parse().unwrap())
    );
    assert!(answer.contains_key("x-request-id") && !answer.contains_key("content-length"));
    let (target, seen) = service.only_handshake();
    assert_eq!(target, "/chat?room=7");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1", "an untrusted client does not choose its address");
    assert_eq!(seen["via"], "1.1 millgate");

    client.echoes("first").await;
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let message = Message::binary(vec![7; bytes]);
        client.send(message.clone()).await;
        assert!(client.next().await == Ok(message), "{bytes} bytes");
    }
    client.send(Message::Ping(vec![1].into())).await;
    client.echoes("after a ping").await;
    assert!(gateway.shows("millgate_tunnels_open{service=\"s\"} 1").await);
    client.close(4001).await;
    eventually("the service sees the client's code", || async { service.ends() == [Ok(Some(4001))] }).await;
    let line = only_line(&gateway).await;
    assert_eq!((&line["status"], &line["flags"], &line["method"]), (&101.into(), &"-".into(), &"GET".into()));
    let (sent, got) = (line["bytes_in"].as_u64().unwrap(), line["bytes_out"].as_u64().unwrap());
    assert!(sent > 3_131_000 && got > 3_131_000, "{line}");
    assert!(gateway.shows("millgate_tunnels_open{service=\"s\"} 0").await);
    assert!(gateway.shows("millgate_tunnels_ended_total{service=\"s\",reason=\"closed\"} 1").await);
}

#[tokio::test]
async fn a_websocket_passes_over_tls() {
    let service = EchoService::start().await;
    let config = format!(
        "routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\naccess_log: {{format: off}}\n",
        service.addr
    );
    let listeners = Listeners::start("", &config).await;
    let (mut client, _) = WebSocketClient::open(listeners.open_http1(true).await, "/", &[]).await;
    client.echoes("over TLS").await;
    let large = Message::binary(vec![1; 1_000_000]);
    client.send(large.clone()).await;
    assert!(client.next().await == Ok(large));
    client.close(1000).await;
    eventually("the service sees the end", || async { service.ends() == [Ok(Some(1000))] }).await;
}

/// Status and code of the answer to a handshake with these fields.
async fn answer(gateway: &TestGateway, method: &str, fields: &str, behind: &str) -> (u16, String) {
    let head = format!("{method} /a HTTP/1.1\r\nHost: gw\r\n{fields}\r\n{behind}");
    let (answer, closed) =
        crate::support::client::raw(gateway.http, &[head.as_bytes()], false, Duration::from_secs(10)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(closed, "{answer}");
    let code = answer.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    (answer[9..12].parse().unwrap(), code.unwrap_or_default().to_owned())
}

pub(crate) const HANDSHAKE: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
pub(crate) const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn of_a_handshake_that_is_not_valid_no_byte_goes_to_the_service() {
    let service = EchoService::start().await;
    let gateway = gateway(service.addr, "", "").await;
    let rows: [(&str, String, &str); 9] = [
        ("GET", String::new(), ""),
        ("GET", "Sec-WebSocket-Key:\r\n".to_owned(), ""),
        ("GET", "Sec-WebSocket-Key: c2hvcnQ=\r\n".to_owned(), ""),
        ("GET", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n".to_owned(), ""),
        ("GET", KEY.repeat(2), ""),
        ("GET", format!("{KEY}Content-Length: 1\r\n"), "x"),
        ("GET", format!("{KEY}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
        ("POST", format!("{KEY}Content-Length: 0\r\n"), ""),
        ("HEAD", KEY.to_owned(), ""),
    ];
    for (method, fields, behind) in rows {
        let got = answer(&gateway, method, &format!("{HANDSHAKE}{fields}"), behind).await;
        let expected = if method == "HEAD" { "" } else { "upgrade_invalid" };
        assert_eq!(got, (400, expected.to_owned()), "{method} {fields}");
    }
    assert_eq!(service.handshakes(), 0);
    assert_eq!(service.ends().len(), 0);
}

#[tokio::test]
async fn a_route_decides_which_protocols_it_lets_through() {
    let service = EchoService::start().await;
    let config = format!(
        "workers: 1\naccess_log: {{format: off}}\ndefaults: {{upgrade: off}}\nroutes:\n\
         \x20 - {{path: /off, service: s}}\n\
         \x20 - {{path: /on, service: s, upgrade: websocket}}\n\
         \x20 - {{path: /other, service: s, upgrade: [echo/1]}}\n\
         services: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    );
    let gateway = TestGateway::start(&config).await;
    let open = async |path: &str| {
        let stream = Box::new(TcpStream::connect(gateway.http).await.unwrap());
        match WebSocketClient::try_open(stream, path, &[]).await {
            Ok(_) => 101,
            Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((open("/off").await, open("/on").await, open("/other").await), (501, 101, 501));
}

#[tokio::test]
async fn another_protocol_passes_if_the_route_allows_it() {
    let service = RawBackend::answering(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo/1\r\nX-A: 1\r\n\r\nhello",
        false,
    )
    .await;
    let gateway = gateway(service.addr, ", upgrade: [echo/1]", "").await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let head = "GET / HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\nUpgrade: ECHO/1\r\n\r\nearly";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert_ne!(tokio::time::timeout(DEADLINE, client.read_buf(&mut got)).await.unwrap().unwrap(), 0);
    }
    assert!(String::from_utf8(got).unwrap().contains("x-a: 1\r\n"));
    eventually("the bytes behind the handshake arrive", || async {
        service.received.lock().unwrap().ends_with(b"\r\n\r\nearly")
    })
    .await;
}

#[tokio::test]
async fn what_a_service_answers_instead_of_101_is_an_ordinary_response() {
    let backend = Backend::named("one").await;
    let gateway = gateway(backend.addr, "", "").await;
    let handshake = format!("GET /a HTTP/1.1\r\nHost: gw\r\n{HANDSHAKE}{KEY}\r\n");
    // Bytes that a client takes for the beginning of its tunnel are the next request, with all that belongs to one.
    let next = "GET /admin HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n";
    let parts = [handshake.as_bytes(), next.as_bytes()];
    let (answer, closed) =
        crate::support::client::raw(gateway.http, &parts, false, Duration::from_secs(10)).await;
    assert!(closed && String::from_utf8(answer).unwrap().matches("HTTP/1.1 200").count() == 2);
    let seen = backend.take_seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].headers().contains_key("upgrade"));
    assert!(!seen[1].headers().contains_key("upgrade"));
    assert!(seen[1].headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn a_101_that_does_not_answer_the_handshake_is_502() {
    const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let head = |fields: &str| -> &'static [u8] {
        Box::leak(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n").into_bytes().into_boxed_slice())
    };
    for (fields, status) in [
        (format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPT}"), 101),
        (format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPT}Content-Length: 0\r\n"), 101),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n".to_owned(), 502),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n".to_owned(), 502),
        (format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{ACCEPT}"), 502),
        (format!("Upgrade: websocket\r\n{ACCEPT}"), 502),
        (format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPT}Content-Length: 5\r\n"), 502),
        (format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPT}Transfer-Encoding: chunked\r\n"), 502),
    ] {
        let service = RawBackend::answering(head(&fields), false).await;
        let gateway = gateway(service.addr, "", "").await;
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        client
            .write_all(format!("GET /a HTTP/1.1\r\nHost: gw\r\n{HANDSHAKE}{KEY}\r\n").as_bytes())
            .await
            .unwrap();
        let mut got = vec![0; 12];
        tokio::time::timeout(DEADLINE, client.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), format!("HTTP/1.1 {status}"), "{fields}");
    }
    // A service that switches although nothing was asked.
    let service = RawBackend::answering(head("Connection: Upgrade\r\nUpgrade: websocket\r\n"), false).await;
    let gateway = gateway(service.addr, "", "").await;
    assert_eq!(send(gateway.http, get("/")).await.status(), 502);
}

#[tokio::test]
async fn an_instance_that_answers_another_handshake_is_taken_for_broken() {
    let answer: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    let service = RawBackend::answering(answer, false).await;
    let gateway = gateway(service.addr, "", ", breaker: {min: 1, errors: 50%, open: 5m}, outlier: off").await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        let request = format!("GET /a HTTP/1.1\r\nHost: gw\r\n{HANDSHAKE}{KEY}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut got = vec![0; 12];
        tokio::time::timeout(DEADLINE, client.read_exact(&mut got)).await.unwrap().unwrap();
        statuses.push(String::from_utf8(got).unwrap());
    }
    assert_eq!(statuses, ["HTTP/1.1 502", "HTTP/1.1 503"], "the breaker is open then");
}

#[tokio::test]
async fn policies_act_on_the_handshake() {
    let service = EchoService::start().await;
    let config = format!(
        "workers: 1\naccess_log: {{format: off}}\n\
         auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\nroutes:\n\
         \x20 - {{path: /closed, service: s, auth: main}}\n\
         \x20 - {{path: /limited, service: s, auth: none, rate_limit: 1/h per ip}}\n\
         services: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    );
    let gateway = TestGateway::start_in(tokens::folder(), &config).await;
    let open = async |path: &str, fields: &[(&'static str, &str)]| {
        let stream = Box::new(TcpStream::connect(gateway.http).await.unwrap());
        match WebSocketClient::try_open(stream, path, fields).await {
            Ok(_) => 101,
            Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(open("/closed", &[]).await, 401);
    let token = format!("Bearer {}", tokens::token(gateway.dir.path(), tokens::GOOD, "ann"));
    assert_eq!(open("/closed", &[("authorization", &token)]).await, 101);
    assert_eq!((open("/limited", &[]).await, open("/limited", &[]).await), (101, 429));
    assert_eq!(open("/none", &[]).await, 404);
}

#[tokio::test]
async fn a_browsers_token_may_be_a_subprotocol_which_the_service_does_not_see() {
    let service = EchoService::start().await;
    let config = format!(
        "workers: 1\naccess_log: {{format: off}}\n\
         auth: {{main: {{hs256_secret_file: secret.key, audience: api, from: [bearer, 'subprotocol:bearer.']}}}}\n\
         routes: [{{path: /, service: s, auth: main}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    );
    let gateway = TestGateway::start_in(tokens::folder(), &config).await;
    let token = |key| format!("chat, bearer.{}", tokens::token(gateway.dir.path(), key, "ann"));
    let open = async |offered: &str| {
        let stream = Box::new(TcpStream::connect(gateway.http).await.unwrap());
        WebSocketClient::try_open(stream, "/", &[("sec-websocket-protocol", offered)]).await
    };
    let (mut client, answer) = open(&token(tokens::GOOD)).await.unwrap();
    client.echoes("as ann").await;
    assert_eq!(answer["sec-websocket-protocol"], "chat");
    assert_eq!(service.only_handshake().1["sec-websocket-protocol"], "chat");
    for refused in [token(tokens::WRONG), "chat".to_owned(), format!("{0}, {0}x", token(tokens::GOOD))] {
        let Err(tungstenite::Error::Http(response)) = open(&refused).await else { panic!("{refused}") };
        assert!(response.status().is_client_error());
    }
    assert_eq!(service.handshakes(), 0);
}

/// Cross-site WebSocket hijacking: CORS does not apply to WebSocket, and a browser sends cookies with the handshake of any page.
#[tokio::test]
async fn a_page_of_another_site_opens_no_websocket_with_a_users_cookies() {
    let service = EchoService::start().await;
    let cors = "cors: {origins: ['https://app.example'], credentials: true}";
    let config = format!(
        "workers: 1\naccess_log: {{format: off}}\n\
         auth: {{main: {{hs256_secret_file: secret.key, audience: api, from: [bearer, 'cookie:session']}}}}\nroutes:\n\
         \x20 - {{path: /, service: s, auth: main, {cors}}}\n\
         \x20 - {{path: /any, service: s, auth: main, cors: '*'}}\n\
         \x20 - {{path: /open, service: s, auth: none}}\n\
         services: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    );
    let gateway = TestGateway::start_in(tokens::folder(), &config).await;
    let cookie = format!("session={}", tokens::token(gateway.dir.path(), tokens::GOOD, "ann"));
    for (path, origin, expected) in [
        ("/", "", 101),
        ("/", "http://gw", 101),
        // A proxy in front may end TLS.
        ("/", "https://GW", 101),
        ("/", "https://app.example", 101),
        ("/", "https://evil.example", 403),
        ("/", "http://gw:8080", 403),
        ("/", "https://gw.evil.example", 403),
        ("/", "null", 403),
        ("/any", "https://evil.example", 403),
        ("/open", "https://evil.example", 101),
    ] {
        let stream = Box::new(TcpStream::connect(gateway.http).await.unwrap());
        let fields = [("cookie", &*cookie), ("origin", origin)];
        let fields = if origin.is_empty() { &fields[..1] } else { &fields[..] };
        let status = match WebSocketClient::try_open(stream, path, fields).await {
            Ok(_) => 101,
            Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(status, expected, "{path} from {origin}");
    }
}

#[tokio::test]
async fn tunnels_take_no_slot_of_requests_and_have_a_limit_of_their_own() {
    let service = EchoService::start().await;
    let gateway = gateway(service.addr, "", ", max_inflight: 1, max_tunnels: 3").await;
    let mut open = Vec::new();
    for number in 0..3 {
        let mut client = WebSocketClient::open_at(gateway.http, "/").await;
        client.echoes(&number.to_string()).await;
        open.push(client);
    }
    let stream = Box::new(TcpStream::connect(gateway.http).await.unwrap());
    let Err(tungstenite::Error::Http(full)) = WebSocketClient::try_open(stream, "/", &[]).await else {
        panic!("the fourth is refused");
    };
    assert_eq!((full.status().as_u16(), &full.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    open.pop().unwrap().close(1000).await;
    eventually("its place is free", || async {
        let stream = Box::new(TcpStream::connect(gateway.http).await.unwrap());
        WebSocketClient::try_open(stream, "/", &[]).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_ends_and_a_ping_keeps_it() {
    let service = EchoService::start().await;
    let gateway = gateway(service.addr, ", timeout: {tunnel: 600ms}", "").await;
    let mut pinging = WebSocketClient::open_at(gateway.http, "/").await;
    let mut silent = WebSocketClient::open_at(gateway.http, "/").await;
    silent.echoes("one").await;
    let idle = tokio::spawn(async move {
        let began = std::time::Instant::now();
        silent.next().await.unwrap_err();
        began.elapsed()
    });
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    while !idle.is_finished() {
        pace.tick().await;
        pinging.send(Message::Ping(vec![].into())).await;
    }
    let took = idle.await.unwrap();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    pinging.echoes("still open").await;
    let line = only_line(&gateway).await;
    assert_eq!(line["flags"], "tunnel_idle");
    assert!(gateway.shows("millgate_tunnels_ended_total{service=\"s\",reason=\"tunnel_idle\"} 1").await);
}

#[tokio::test]
async fn a_tunnel_outlives_every_reload_on_the_endpoint_that_it_has() {
    let (old, new) = (EchoService::start().await, EchoService::start().await);
    let gateway = gateway(old.addr, "", "").await;
    let mut client = WebSocketClient::open_at(gateway.http, "/").await;
    client.echoes("before").await;
    gateway.rewrite(&config(new.addr, ", upgrade: off", ""));
    gateway.reload().await.unwrap();
    client.echoes("its endpoint is gone").await;
    gateway.rewrite(&config(new.addr, "", "").replace("/**", "/new"));
    gateway.reload().await.unwrap();
    client.echoes("and its route").await;
    let mut other = WebSocketClient::open_at(gateway.http, "/new").await;
    other.echoes("on the new one").await;
    assert_eq!((old.handshakes(), new.handshakes()), (1, 1));
    client.close(1000).await;
}
