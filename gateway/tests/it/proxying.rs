//! What reaches the service and what comes back.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    DEADLINE,
    backend::{Backend, RawBackend, closed_port},
    client::{Connection, get, header, http2, json, raw, request, send, status, text},
    eventually,
    gateway::TestGateway,
};

fn to(addr: std::net::SocketAddr, extra: &str) -> String {
    format!("routes:\n  - {{path: /**, service: one{extra}}}\nservices:\n  one: {{hosts: [\"{addr}\"]}}\n")
}

#[tokio::test]
async fn a_request_arrives_with_forwarding_headers_and_without_hop_by_hop_ones() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&to(backend.addr, "")).await;
    let mut sent = request("POST", "/a/b?c=d", "hello");
    for (name, value) in [
        ("connection", "x-private"),
        ("x-private", "secret"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-request-id", "mine"),
        ("x-kept", "yes"),
    ] {
        sent.headers_mut().append(name, value.parse().unwrap());
    }
    let reply = send(gateway.http, sent).await;
    assert_eq!((reply.status(), text(&reply)), (StatusCode::OK, "one"));
    let seen = backend.only_seen();
    assert_eq!((seen.method().as_str(), seen.uri().to_string().as_str()), ("POST", "/a/b?c=d"));
    assert_eq!(&seen.body()[..], b"hello");
    let field = |name: &str| seen.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(field("host"), Some("gw"));
    assert_eq!(field("x-kept"), Some("yes"));
    assert_eq!(field("x-forwarded-for"), Some("127.0.0.1"), "what an untrusted client says is dropped");
    assert_eq!(field("x-forwarded-proto"), Some("http"));
    assert_eq!(field("via"), Some("1.1 millgate"));
    for gone in ["x-private", "keep-alive", "te", "connection"] {
        assert_eq!(field(gone), None, "{gone}");
    }
    let id = field("x-request-id").unwrap();
    assert_ne!(id, "mine");
    assert_eq!(header(&reply, "x-request-id"), id, "client and service see the same id");
    assert_eq!(header(&reply, "via"), "1.1 millgate");
}

#[tokio::test]
async fn an_unknown_path_gets_a_problem_document() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&to(backend.addr, "").replace("/**", "/known")).await;
    let reply = send(gateway.http, get("/unknown")).await;
    assert_eq!(reply.status(), 404);
    assert_eq!(header(&reply, "content-type"), "application/problem+json");
    assert_eq!(header(&reply, "proxy-status"), "millgate; error=destination_not_found");
    assert_eq!(header(&reply, "server"), "millgate");
    let problem = json(&reply);
    assert_eq!(problem["code"], "route_not_found");
    assert_eq!(problem["status"], 404);
    assert_eq!(problem["instance"], format!("urn:uuid:{}", header(&reply, "x-request-id")));
    assert_eq!(backend.served(), 0);
}

#[tokio::test]
async fn a_known_path_with_another_method_says_which_are_allowed() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&to(backend.addr, "").replace("/**", "GET|POST /known")).await;
    let reply = send(gateway.http, request("DELETE", "/known", "")).await;
    assert_eq!(reply.status(), 405);
    let allow = header(&reply, "allow");
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    assert_eq!(json(&reply)["code"], "method_not_allowed");
}

#[tokio::test]
async fn a_prefix_is_stripped_and_another_added() {
    let backend = Backend::named("one").await;
    let gateway =
        TestGateway::start(&to(backend.addr, ", rewrite: {strip: /api, add: /v2}").replace("/**", "/api/**"))
            .await;
    assert_eq!(status(gateway.http, "/api/users?x=1").await, 200);
    assert_eq!(backend.only_seen().uri().to_string(), "/v2/users?x=1");
}

#[tokio::test]
async fn bodies_stream_while_they_are_being_sent() {
    // The service echoes each piece before the next is sent: nothing may be collected on the way.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let service = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let mut buffer = [0; 1024];
        loop {
            let n = stream.read(&mut buffer).await.unwrap();
            // Chunks in, chunks out.
            stream.write_all(&buffer[..n]).await.unwrap();
            if n == 0 || buffer[..n].ends_with(b"0\r\n\r\n") {
                return;
            }
        }
    });
    let gateway = TestGateway::start(&to(addr, ", body: stream")).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"POST /s HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    for piece in ["one", "two", "three"] {
        client.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        let came = async {
            while !answer.windows(piece.len()).any(|w| w == piece.as_bytes()) {
                answer.push(client.read_u8().await.unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(10), came).await.expect(piece);
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    service.await.unwrap();
}

#[tokio::test]
async fn content_of_unknown_length_reaches_the_service_whatever_the_method_is() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&to(backend.addr, "")).await;
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let fields =
            "host: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let sent = format!("{method} /x HTTP/1.1\r\n{fields}");
        let (answer, _) = raw(gateway.http, &[sent.as_bytes()], false, Duration::from_secs(5)).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{method}: {}", String::from_utf8_lossy(&answer));
        let seen = backend.only_seen();
        assert_eq!((seen.method().as_str(), &seen.body()[..]), (method, &b"hello"[..]));
        assert_eq!(seen.headers().get("transfer-encoding").unwrap(), "chunked", "{method}");
    }
}

#[tokio::test]
async fn one_upstream_connection_serves_many_requests() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&format!("workers: 1\n{}", to(backend.addr, ""))).await;
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..20 {
        assert_eq!(client.send(get("/x")).await.status(), 200);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_its_length_and_by_its_bytes() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&to(backend.addr, ", body_limit: 10B")).await;
    assert_eq!(send(gateway.http, request("POST", "/x", "0123456789")).await.status(), 200);
    backend.take_seen();
    let reply = send(gateway.http, request("POST", "/x", "0123456789a")).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (413, Some("body_too_large")));
    let chunked =
        b"POST /x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n";
    let (answer, _) = raw(gateway.http, &[chunked], false, DEADLINE).await;
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(backend.take_seen().iter().filter(|seen| seen.body().len() > 10).count(), 0);
}

#[tokio::test]
async fn a_refused_connection_is_502_and_a_silent_service_504() {
    let free = closed_port();
    let gateway = TestGateway::start(&to(free, "")).await;
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (502, Some("connect_failed")));
    assert_eq!(header(&reply, "proxy-status"), "millgate; error=connection_refused");

    let silent = RawBackend::answering(b"", false).await;
    let gateway = TestGateway::start(&to(silent.addr, ", timeout: 200ms")).await;
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (504, Some("response_timeout")));
}

#[tokio::test]
async fn broken_answers_are_502_and_their_connections_are_not_used_again() {
    for (answer, code) in [
        (&b"hello world\r\n\r\n"[..], "upstream_protocol_error"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "upstream_protocol_error"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
            "upstream_protocol_error",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "upstream_protocol_error",
        ),
    ] {
        let backend = RawBackend::answering(answer, false).await;
        let gateway = TestGateway::start(&to(backend.addr, ", retry: off")).await;
        for n in 1..=2 {
            let reply = send(gateway.http, get("/x")).await;
            let case = String::from_utf8_lossy(answer);
            assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (502, Some(code)), "{case}");
            assert_eq!(backend.connections(), n, "{case}");
        }
    }
    let closing = RawBackend::answering(b"", true).await;
    let gateway = TestGateway::start(&to(closing.addr, ", retry: off")).await;
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (502, Some("upstream_reset")));
}

#[tokio::test]
async fn both_framings_in_an_answer_keep_the_chunks_and_lose_the_connection() {
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let backend = RawBackend::answering(answer, false).await;
    let gateway = TestGateway::start(&format!("workers: 1\n{}", to(backend.addr, ", retry: off"))).await;
    for n in 1..=2 {
        let reply = send(gateway.http, get("/x")).await;
        assert_eq!((reply.status().as_u16(), text(&reply)), (200, "hello"));
        assert_eq!(header(&reply, "content-length"), "");
        assert_eq!(backend.connections(), n);
    }
}

#[tokio::test]
async fn an_old_service_is_answered_for_in_our_version() {
    let backend = RawBackend::answering(b"HTTP/1.0 200 OK\r\n\r\nold", true).await;
    let gateway = TestGateway::start(&to(backend.addr, "")).await;
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!((reply.version(), text(&reply)), (http::Version::HTTP_11, "old"));
    assert_eq!(header(&reply, "via"), "1.0 millgate");
}

#[tokio::test]
async fn head_keeps_the_length_and_has_no_body() {
    let backend = Backend::with(|request| {
        let mut response = Response::new(Bytes::new());
        if request.method() == "HEAD" {
            response.headers_mut().insert("content-length", "5".parse().unwrap());
        }
        response
    })
    .await;
    let gateway = TestGateway::start(&to(backend.addr, "")).await;
    let mut client = Connection::open(gateway.http).await;
    let reply = client.send(request("HEAD", "/x", "")).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "content-length")), (200, "5"));
    assert_eq!(client.send(get("/x")).await.status(), 200, "the connection is still in step");
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_on_the_cleartext_listener() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&to(backend.addr, "")).await;
    let mut sender = http2(gateway.http).await;
    let request = http::Request::get(format!("http://gw:{}/x", gateway.http.port()))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let reply = sender.send_request(request).await.unwrap();
    assert_eq!((reply.status(), reply.version()), (StatusCode::OK, http::Version::HTTP_2));
    let seen = backend.only_seen();
    assert_eq!(seen.headers()["cookie"], "a=1; b=2", "RFC 9113 §8.2.3");
    assert_eq!(seen.headers()["via"], "2 millgate");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_upstream_request_with_it() {
    let silent = RawBackend::answering(b"", false).await;
    let gateway = TestGateway::start(&format!("workers: 1\n{}", to(silent.addr, ""))).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    eventually("the service has the request", || async { !silent.received.lock().unwrap().is_empty() }).await;
    let in_flight = || async {
        let services = send(gateway.admin(), get("/api/v1/services")).await;
        json(&services)["services"][0]["in_flight"].as_u64()
    };
    assert_eq!(in_flight().await, Some(1));
    drop(client);
    eventually("nothing is in flight", || async { in_flight().await == Some(0) }).await;
}

#[tokio::test]
async fn a_silent_client_is_closed_by_the_header_timeout() {
    let backend = Backend::named("one").await;
    let listen =
        "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", header_timeout: 1s, idle_timeout: 1s}\n";
    let gateway = TestGateway::start(&format!("{listen}{}", to(backend.addr, ""))).await;
    let (_, closed) = raw(gateway.http, &[b"GET / HT"], false, Duration::from_secs(10)).await;
    assert!(closed, "a head that never ends");
    let (answer, closed) =
        raw(gateway.http, &[b"GET / HTTP/1.1\r\nhost: gw\r\n\r\n"], false, Duration::from_secs(10)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200") && closed, "an idle connection");
}

#[tokio::test]
async fn a_service_is_called_by_its_own_name_where_the_route_says_so() {
    let up = Backend::named("up").await;
    // Bound and not listening: a connect is refused.
    let refusing = TcpSocket::new_v4().unwrap();
    refusing.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let down = refusing.local_addr().unwrap();
    let config = format!(
        "workers: 1\nroutes:\n\
         \x20 - {{path: /as-asked, service: s}}\n\
         \x20 - {{path: /named, service: s, rewrite: {{host: \"orders.internal:80\"}}}}\n\
         \x20 - {{path: /instance, service: s, rewrite: {{host: \"{{instance}}\"}}}}\n\
         services: {{s: {{hosts: [\"{down}\", \"{}\"]}}}}\n",
        up.addr
    );
    let gateway = TestGateway::start(&config).await;
    let own = up.addr.to_string();
    for (path, host) in [("/as-asked", "gw"), ("/named", "orders.internal:80"), ("/instance", &own)] {
        // Twice: one of them goes to the instance that is down first, and is tried again.
        for _ in 0..2 {
            assert_eq!(status(gateway.http, path).await, 200);
            let seen = up.only_seen();
            assert_eq!(seen.headers().get_all("host").iter().collect::<Vec<_>>(), [host], "{path}");
            assert_eq!(seen.headers()["x-forwarded-host"], "gw", "{path}");
        }
    }
}

#[tokio::test]
async fn a_route_can_send_the_client_elsewhere_without_a_service() {
    let gateway = TestGateway::start(
        "routes:\n\
         \x20 - {path: /old/**, redirect: \"https://new.test{path}\", rewrite: {strip: /old}, rate_limit: 2/m per route}\n\
         \x20 - {path: GET /moved, redirect: {to: /there, status: 301}, headers: {response: {set: {X-Moved: \"yes\"}}}}\n\
         \x20 - {path: /same, redirect: {to: \"https://{host}{path}\", status: 307}}\n",
    )
    .await;
    for (method, path, status, location) in [
        ("GET", "/old/a/b?x=1", 308, "https://new.test/a/b?x=1"),
        ("POST", "/old", 308, "https://new.test/"),
        ("HEAD", "/moved?x=1", 301, "/there"),
        ("PUT", "/same?x=%2F", 307, "https://gw/same?x=%2F"),
    ] {
        let reply = send(gateway.http, request(method, path, "")).await;
        assert_eq!(
            (reply.status().as_u16(), header(&reply, "location")),
            (status, location),
            "{method} {path}"
        );
        assert!(reply.body().is_empty() && !header(&reply, "x-request-id").is_empty());
        assert_eq!(reply.headers().contains_key("ratelimit"), path.starts_with("/old"));
        assert_eq!(reply.headers().contains_key("x-moved"), path.starts_with("/moved"));
    }
    assert_eq!(status(gateway.http, "/old").await, 429, "its policies count");
    assert_eq!(send(gateway.http, request("PUT", "/moved", "")).await.status(), 405);
    let routes = json(&send(gateway.admin(), get("/api/v1/routes")).await);
    assert_eq!(routes["routes"][0]["redirect"], "301 /there", "{routes}");
}
