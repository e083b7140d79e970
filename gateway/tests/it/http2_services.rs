//! Services that speak HTTP/2: `protocol: h2c`, `h2` and `auto`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use millgate_registry::ServiceRegistration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::{
    discovery::Registry,
    support::{
        DEADLINE,
        authority::Authority,
        backend::Backend,
        client::{Connection, get, header, request, send, text},
        eventually,
        frame_service::FrameService,
        frames::{
            END_STREAM, FrameClient, HEADERS, MAX_CONCURRENT_STREAMS, Outcome, RST_STREAM, headers, settings,
        },
        gateway::TestGateway,
        h2_service::{self, H2Service},
    },
};

/// A gateway with one worker before services at these addresses. `service` has further entries, each with a comma before it.
async fn gateway(hosts: &[SocketAddr], protocol: &str, service: &str) -> TestGateway {
    let hosts: Vec<String> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
    TestGateway::start(&format!(
        "workers: 1\naccess_log: {{format: off}}\nroutes: [{{path: /**, service: s}}]\n\
         services: {{s: {{hosts: [{}], protocol: {protocol}{service}}}}}\n",
        hosts.join(", ")
    ))
    .await
}

#[tokio::test]
async fn requests_share_one_connection_and_arrive_as_http2_has_them() {
    let (service, seen) = H2Service::echoing(|_| {}).await;
    let gateway = gateway(&[service.addr], "h2c", "").await;
    let reply = send(gateway.http, get("/a?b=1")).await;
    assert_eq!((reply.status(), header(&reply, "x-service")), (StatusCode::OK, "h2"));
    assert_eq!(header(&reply, "via"), "2 millgate");
    let posted = send(gateway.http, request("POST", "/up", "some content")).await;
    assert_eq!(text(&posted), "some content");
    let (get, post) = {
        let seen = seen.lock().unwrap();
        (seen[0].clone(), seen[1].clone())
    };
    assert_eq!(get.head.uri().path_and_query().unwrap(), "/a?b=1");
    assert_eq!((get.head.uri().scheme_str(), get.head.method().as_str()), (Some("http"), "GET"));
    assert!(get.head.uri().authority().is_some());
    assert_eq!(get.head.headers()["x-forwarded-for"], "127.0.0.1");
    for absent in ["host", "connection", "transfer-encoding", "content-length"] {
        assert!(!get.head.headers().contains_key(absent), "{absent}");
    }
    assert_eq!((post.head.headers()["content-length"].to_str().unwrap(), post.body.len()), ("12", 12));
    let mut all = tokio::task::JoinSet::new();
    for number in 0..50 {
        let http = gateway.http;
        all.spawn(
            async move { send(http, super::support::client::get(&format!("/{number}"))).await.status() },
        );
    }
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn a_burst_at_the_start_opens_one_connection_for_all() {
    let (service, seen) = H2Service::echoing(|_| {}).await;
    let gateway = gateway(&[service.addr], "h2c", "").await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let http = gateway.http;
        all.spawn(async move { send(http, get("/")).await.status() });
    }
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!((service.connections(), seen.lock().unwrap().len()), (1, 60));
}

/// Each stream waits until it is told to answer.
async fn waiting(configure: fn(&mut h2::server::Builder)) -> (H2Service, Arc<Notify>, Arc<AtomicUsize>) {
    let (go_on, waits) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (told, count) = (Arc::clone(&go_on), Arc::clone(&waits));
    let service = H2Service::start(configure, move |_request, mut reply| {
        let (told, count) = (Arc::clone(&told), Arc::clone(&count));
        Box::pin(async move {
            count.fetch_add(1, SeqCst);
            told.notified().await;
            let _ = reply.send_response(Response::new(()), true);
        })
    })
    .await;
    (service, go_on, waits)
}

#[tokio::test]
async fn where_the_limit_of_streams_is_reached_another_connection_is_opened() {
    let (service, go_on, waits) = waiting(|builder| {
        builder.max_concurrent_streams(2);
    })
    .await;
    let gateway = gateway(&[service.addr], "h2c", "").await;
    let mut all = tokio::task::JoinSet::new();
    for number in 1..=5 {
        let http = gateway.http;
        all.spawn(async move { send(http, get("/")).await.status() });
        eventually("each one is at the service", || async { waits.load(SeqCst) == number }).await;
    }
    assert_eq!(service.connections(), 3, "two streams on each");
    let shows = async |connections: usize, streams: usize| {
        let line =
            |what: &str, number: usize| format!("millgate_upstream_http2_{what}{{service=\"s\"}} {number}");
        gateway.shows(&line("connections", connections)).await
            && gateway.shows(&line("streams", streams)).await
    };
    eventually("an operator sees it", || shows(3, 5)).await;
    while !all.is_empty() {
        go_on.notify_waiters();
        if let Ok(status) = tokio::time::timeout(Duration::from_millis(20), all.join_next()).await {
            assert_eq!(status.unwrap().unwrap(), StatusCode::OK);
        }
    }
    eventually("the connections stay for others", || shows(3, 0)).await;
}

#[tokio::test]
async fn a_limit_of_streams_that_a_service_lowers_holds_from_then_on() {
    let service = FrameService::start(&[], |frame, number| match frame.kind {
        HEADERS if number == 1 => {
            let lowered = settings(&[(MAX_CONCURRENT_STREAMS, 1)]);
            [lowered, headers(frame.stream, END_STREAM, &[(b":status", b"200")])].concat()
        }
        _ => Vec::new(),
    })
    .await;
    let gateway = gateway(&[service.addr], "h2c", "").await;
    assert_eq!(send(gateway.http, get("/")).await.status(), StatusCode::OK);
    let mut all = tokio::task::JoinSet::new();
    for number in 2..=3 {
        let http = gateway.http;
        all.spawn(async move { send(http, get("/")).await.status() });
        eventually("it is at the service", || async { service.requests() == number }).await;
    }
    assert_eq!(service.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn what_a_service_refuses_goes_to_the_next_instance_whatever_its_method_is() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let refusing = H2Service::start(
        |_| {},
        move |_request, mut reply| {
            let count = Arc::clone(&count);
            Box::pin(async move {
                count.fetch_add(1, SeqCst);
                reply.send_reset(h2::Reason::REFUSED_STREAM);
            })
        },
    )
    .await;
    let (taking, seen) = H2Service::echoing(|_| {}).await;
    let gateway = gateway(&[refusing.addr, taking.addr], "h2c", ", outlier: off, breaker: off").await;
    let mut connection = Connection::open(gateway.http).await;
    for method in ["GET", "POST", "DELETE", "GET", "POST", "DELETE"] {
        let reply = connection.send(request(method, "/x", "")).await;
        assert_eq!(reply.status(), StatusCode::OK, "{method}");
    }
    assert!(refused.load(SeqCst) >= 2);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 6);
    assert!(
        seen.iter()
            .all(|seen| seen.head.uri().path() == "/x" && seen.head.headers().contains_key("x-request-id"))
    );
}

#[tokio::test]
async fn a_connection_that_goes_away_takes_no_new_requests_and_loses_none() {
    let (service, seen) = H2Service::echoing(|_| {}).await;
    // A service that says GOAWAY after each request.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let leaving = listener.local_addr().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_request, mut reply))) = connection.accept().await {
                    let _ = reply.send_response(Response::new(()), true);
                    connection.graceful_shutdown();
                }
            });
        }
    });
    let gateway = gateway(&[leaving], "h2c", "").await;
    for _ in 0..20 {
        assert_eq!(send(gateway.http, request("POST", "/", "")).await.status(), StatusCode::OK);
    }
    assert!(opened.load(SeqCst) > 1);
    assert!(seen.lock().unwrap().is_empty());
    drop(service);
}

#[tokio::test]
async fn bodies_of_both_directions_pass_at_the_pace_of_the_slower_side() {
    let (service, _) = H2Service::echoing(|_| {}).await;
    let gateway = gateway(&[service.addr], "h2c", "").await;
    let body = vec![b'x'; 5_000_000];
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let (mut reader, mut writer) = client.split();
    let sending = async {
        writer
            .write_all(
                b"POST / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await
            .unwrap();
        for piece in body.chunks(50_000) {
            writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
            writer.write_all(piece).await.unwrap();
            writer.write_all(b"\r\n").await.unwrap();
        }
        writer.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(sending, reader.read_to_end(&mut got)) };
    tokio::time::timeout(DEADLINE, both).await.unwrap().1.unwrap();
    assert!(got.starts_with(b"HTTP/1.1 200"));
    let chunked = String::from_utf8(got).unwrap();
    assert!(chunked.ends_with("0\r\n\r\n") && chunked.matches('x').count() >= body.len());
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_a_bounded_part_and_no_other_request() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let service = H2Service::start(
        |_| {},
        move |request, mut reply| {
            let count = Arc::clone(&count);
            Box::pin(async move {
                let endless = request.uri().path() == "/endless";
                let Ok(mut stream) = reply.send_response(Response::new(()), !endless) else { return };
                if !endless {
                    return;
                }
                loop {
                    let piece = Bytes::from(vec![0; 16 * 1024]);
                    stream.reserve_capacity(piece.len());
                    let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                        return;
                    };
                    let piece = piece.slice(..room.min(piece.len()));
                    count.fetch_add(piece.len(), SeqCst);
                    if stream.send_data(piece, false).is_err() {
                        return;
                    }
                }
            })
        },
    )
    .await;
    let gateway = gateway(&[service.addr], "h2c", "").await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut client = FrameClient::open_with(gateway.http, &[(4, 1000)]).await;
        client.send(&client.get(1, "/endless")).await;
        assert_eq!(client.outcome(1).await, Outcome::Status(200));
        stalled.push(client);
    }
    let mut before = 0;
    eventually("the service can send no more", || {
        let now = sent.load(SeqCst);
        let same = now == before && now > 0;
        before = now;
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            same
        }
    })
    .await;
    assert!(sent.load(SeqCst) <= 4 * 300 * 1024, "{}", sent.load(SeqCst));
    assert_eq!(send(gateway.http, get("/")).await.status(), StatusCode::OK);
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_and_a_service_that_resets_breaks_off_its_response() {
    let (reset, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let got_head = Arc::new(Notify::new());
    let (count, comes, may_break) = (Arc::clone(&reset), Arc::clone(&asked), Arc::clone(&got_head));
    let service = H2Service::start(
        |_| {},
        move |request, mut reply| {
            let (count, comes, may_break) = (Arc::clone(&count), Arc::clone(&comes), Arc::clone(&may_break));
            Box::pin(async move {
                if request.uri().path() == "/breaks" {
                    let mut stream = reply.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"some"), false).unwrap();
                    may_break.notified().await;
                    return stream.send_reset(h2::Reason::INTERNAL_ERROR);
                }
                comes.notify_one();
                let reason = std::future::poll_fn(|cx| reply.poll_reset(cx)).await;
                assert_eq!(reason.unwrap(), h2::Reason::CANCEL);
                count.fetch_add(1, SeqCst);
            })
        },
    )
    .await;
    let gateway = gateway(&[service.addr], "h2c", "").await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /hangs HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    tokio::time::timeout(DEADLINE, asked.notified()).await.expect("it is at the service");
    drop(client);
    eventually("the service learns that nothing is wanted any more", || async { reset.load(SeqCst) == 1 })
        .await;
    let mut client = FrameClient::open(gateway.http).await;
    client.send(&client.get(1, "/breaks")).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    got_head.notify_one();
    client.next_where(|frame| frame.kind == RST_STREAM && frame.stream == 1).await;
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn by_alpn_a_service_proves_http2_or_chooses() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let seen = Arc::default();
    let config = |alpn: &[&[u8]]| {
        let mut config = authority.server("localhost");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    };
    let h2 = H2Service::over_tls(config(&[b"h2"]), h2_service::echo(&seen)).await;
    let http1 = Backend::over_tls("one", config(&[b"http/1.1"])).await;
    let tls = "tls: {ca_file: ca.pem, server_name: localhost}";
    let text = format!(
        "workers: 1\naccess_log: {{format: off}}\nroutes:\n\
         \x20 - {{path: /h2, service: h2}}\n  - {{path: /no, service: 'no'}}\n\
         \x20 - {{path: /auto2, service: auto2}}\n  - {{path: /auto1, service: auto1}}\nservices:\n\
         \x20 h2: {{hosts: [\"{0}\"], protocol: h2, {tls}}}\n\
         \x20 no: {{hosts: [\"{1}\"], protocol: h2, {tls}}}\n\
         \x20 auto2: {{hosts: [\"{0}\"], protocol: auto, {tls}}}\n\
         \x20 auto1: {{hosts: [\"{1}\"], protocol: auto, {tls}}}\n",
        h2.addr, http1.addr
    );
    let gateway = TestGateway::start_in(dir, &text).await;
    for (path, status) in [("/h2", 200), ("/no", 502), ("/auto2", 200), ("/auto1", 200)] {
        for _ in 0..2 {
            assert_eq!(send(gateway.http, get(path)).await.status().as_u16(), status, "{path}");
        }
    }
    assert_eq!((h2.connections(), seen.lock().unwrap().len()), (2, 4));
    assert_eq!(seen.lock().unwrap()[0].head.uri().scheme_str(), Some("https"));
    assert_eq!(http1.served(), 2);
}

crate::discovery::scenarios![a_tag_says_that_its_instances_speak_http2];

async fn a_tag_says_that_its_instances_speak_http2(registry: Registry) {
    let (service, seen) = H2Service::echoing(|_| {}).await;
    let registration = ServiceRegistration::http("chat", "chat-1", "127.0.0.1", service.addr.port())
        .tags(["urlprefix-/shop.Chat/ proto=grpc"])
        .ttl(Duration::from_mins(1));
    let client = registry.client();
    client.register(&registration).await.unwrap();
    client.check_pass(&registration.ttl_check_id()).await.unwrap();
    let gateway = TestGateway::start(&format!(
        "discovery: {{consul: {{address: \"{}\", auto_routes: {{sources: [fabio], allow_hosts: \"*\", allow_paths: /**}}}}}}\n\
         routes: []\naccess_log: {{format: off}}\n",
        registry.url()
    ))
    .await;
    eventually("the tag's route is there", || async {
        send(gateway.http, get("/shop.Chat/Say")).await.status() == StatusCode::OK
    })
    .await;
    assert_eq!(seen.lock().unwrap()[0].head.version(), http::Version::HTTP_2);
}
