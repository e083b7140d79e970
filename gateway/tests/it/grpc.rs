//! gRPC through the gateway: calls of all kinds, deadlines, and errors as gRPC has them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use crate::support::{
    DEADLINE, eventually,
    gateway::TestGateway,
    h2_service::{H2Service, collect, send},
    tokens,
};

/// One message of a call (gRPC over HTTP/2, "Length-Prefixed-Message").
fn message(content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[0][..], &length, content].concat().into()
}

/// A client's connection to the gateway.
async fn connect(gateway: &TestGateway) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn call(path: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://gw{path}")).body(()).unwrap();
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// Begins a call with one message. `ends`: it has no further one.
fn begin(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    ends: bool,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let (response, mut stream) = client.send_request(request, false).unwrap();
    stream.send_data(message(b"hello"), ends).unwrap();
    (response, stream)
}

/// Head, content and trailers of a unary call.
async fn unary(client: &mut SendRequest<Bytes>, request: Request<()>) -> (Response<()>, Vec<u8>, HeaderMap) {
    let (response, _stream) = begin(client, request, true);
    let (head, mut body) = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_parts();
    let (content, trailers) = collect(&mut body).await.unwrap();
    (Response::from_parts(head, ()), content, trailers.unwrap_or_default())
}

fn ok() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())])
}

fn respond(reply: &mut h2::server::SendResponse<Bytes>) -> SendStream<Bytes> {
    let response = Response::builder().header("content-type", "application/grpc+proto").body(()).unwrap();
    reply.send_response(response, false).unwrap()
}

/// Answers each message with the same one, as it comes, until the client has no more; then with trailers.
async fn echoing() -> (H2Service, Arc<Mutex<Vec<HeaderMap>>>) {
    let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let heads = Arc::clone(&seen);
    let service = H2Service::start(
        |_| {},
        move |request, mut reply| {
            heads.lock().unwrap().push(request.headers().clone());
            Box::pin(async move {
                let mut from: RecvStream = request.into_body();
                let mut to = respond(&mut reply);
                while let Some(Ok(data)) = from.data().await {
                    let _ = from.flow_control().release_capacity(data.len());
                    send(&mut to, data, false).await;
                }
                let _ = to.send_trailers(ok());
            })
        },
    )
    .await;
    (service, seen)
}

fn config(service: &H2Service, route: &str) -> String {
    format!(
        "workers: 1\naccess_log: {{format: json, file: access.log}}\n\
         routes: [{{path: /**, service: s{route}}}]\n\
         services: {{s: {{hosts: [\"{}\"], protocol: grpc}}}}\n",
        service.addr
    )
}

#[tokio::test]
async fn calls_of_all_four_kinds_pass_message_by_message() {
    let (service, seen) = echoing().await;
    // Neither the limit of bodies nor the wait for them is about messages.
    let gateway = TestGateway::start(&config(&service, ", body_limit: 1KiB")).await;
    let mut client = connect(&gateway).await;
    let (head, content, trailers) = unary(&mut client, call("/shop.Orders/Get", &[])).await;
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-type"]),
        (200, &"application/grpc+proto".parse().unwrap())
    );
    assert_eq!((content, &trailers["grpc-status"]), (message(b"hello").to_vec(), &"0".parse().unwrap()));
    assert_eq!(seen.lock().unwrap()[0]["te"], "trailers");

    // In both directions: each message is answered before the next one is sent.
    let (response, mut to) = begin(&mut client, call("/shop.Orders/Chat", &[]), false);
    let mut from = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_body();
    for turn in 0..100 {
        let data = tokio::time::timeout(DEADLINE, from.data()).await.unwrap().unwrap().unwrap();
        from.flow_control().release_capacity(data.len()).unwrap();
        assert_eq!(data, message(b"hello"), "turn {turn}");
        to.send_data(message(b"hello"), false).unwrap();
    }
    to.send_data(message(&[7; 5000]), true).unwrap();
    let (_, trailers) = collect(&mut from).await.unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

/// Each client can send the content type of gRPC: what ends at it ends for everybody.
#[tokio::test]
async fn the_content_type_of_grpc_opens_no_limit_of_a_service_that_is_none_of_grpc() {
    let (service, seen) = echoing().await;
    let text = config(&service, ", body_limit: 1KiB").replace("protocol: grpc", "protocol: h2c");
    let gateway = TestGateway::start(&text).await;
    let mut client = connect(&gateway).await;
    let (response, mut to) = begin(&mut client, call("/too/large", &[]), false);
    to.send_data(message(&[7; 5000]), true).unwrap();
    let head = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap();
    assert_eq!(head.headers()["grpc-status"], "8");
    assert!(seen.lock().unwrap().is_empty(), "the service gets nothing of it");

    // It waits for its client without an instance, also when other requests come and go.
    let (waiting, mut to) = begin(&mut client, call("/waits", &[("x-name", "waits")]), false);
    for _ in 0..10 {
        let (head, _, _) = unary(&mut client, call("/a", &[("x-name", "whole")])).await;
        assert_eq!(head.status(), 200);
    }
    assert!(seen.lock().unwrap().iter().all(|head| head["x-name"] == "whole"));
    to.send_data(message(b"the end"), true).unwrap();
    let head = tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert_eq!((head.status().as_u16(), seen.lock().unwrap().len()), (200, 11));
}

#[tokio::test]
async fn a_client_that_cancels_its_call_cancels_it_at_the_service() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&cancelled);
    let service = H2Service::start(
        |_| {},
        move |_request, mut reply| {
            let count = Arc::clone(&count);
            Box::pin(async move {
                let mut stream = respond(&mut reply);
                stream.send_data(message(b"first"), false).unwrap();
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                if reason.is_ok_and(|reason| reason == h2::Reason::CANCEL) {
                    count.fetch_add(1, SeqCst);
                }
            })
        },
    )
    .await;
    let gateway = TestGateway::start(&config(&service, "")).await;
    let mut client = connect(&gateway).await;
    let (response, mut stream) = begin(&mut client, call("/a.B/Watch", &[]), true);
    let mut from = response.await.unwrap().into_body();
    assert_eq!(from.data().await.unwrap().unwrap(), message(b"first"));
    stream.send_reset(h2::Reason::CANCEL);
    eventually("the service sees it", || async { cancelled.load(SeqCst) == 1 }).await;
}

#[tokio::test]
async fn the_deadline_of_the_client_ends_a_call_and_its_service_gets_what_is_left() {
    let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let heads = Arc::clone(&seen);
    let service = H2Service::start(
        |_| {},
        move |request, mut reply| {
            heads.lock().unwrap().push(request.headers().clone());
            Box::pin(async move {
                let _ = std::future::poll_fn(|cx| reply.poll_reset(cx)).await;
            })
        },
    )
    .await;
    let gateway = TestGateway::start(&config(&service, "")).await;
    let mut client = connect(&gateway).await;
    for ends in [true, false] {
        let began = Instant::now();
        let (response, _stream) = begin(&mut client, call("/a.B/Slow", &[("grpc-timeout", "400m")]), ends);
        let response = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap();
        let took = began.elapsed();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["grpc-status"]),
            (200, &"4".parse().unwrap())
        );
        assert!(response.body().is_end_stream(), "a head alone");
        assert!(took >= Duration::from_millis(395) && took < Duration::from_millis(600), "{took:?}");
    }
    for head in seen.lock().unwrap().iter() {
        let left: u64 = head["grpc-timeout"].to_str().unwrap().strip_suffix('m').unwrap().parse().unwrap();
        assert!((300..=400).contains(&left), "{left}");
    }
}

/// Sends a message, and then nothing, or one each 10 ms; until the call is reset. Keeps the codes of resets.
async fn unending() -> (H2Service, Arc<Mutex<Vec<h2::Reason>>>) {
    let resets = Arc::<Mutex<Vec<h2::Reason>>>::default();
    let kept = Arc::clone(&resets);
    let service = H2Service::start(
        |_| {},
        move |request, mut reply| {
            let kept = Arc::clone(&kept);
            Box::pin(async move {
                let mut to = respond(&mut reply);
                let pours = request.uri().path().ends_with("Pours");
                let ends = request.uri().path().ends_with("Ends");
                let mut pace = tokio::time::interval(Duration::from_millis(10));
                to.send_data(message(b"first"), false).unwrap();
                if ends {
                    to.send_trailers(ok()).unwrap();
                    return;
                }
                loop {
                    tokio::select! {
                        reason = std::future::poll_fn(|cx| to.poll_reset(cx)) => {
                            kept.lock().unwrap().push(reason.unwrap());
                            return;
                        }
                        _ = pace.tick(), if pours => send(&mut to, message(b"more"), false).await,
                    }
                }
            })
        },
    )
    .await;
    (service, resets)
}

#[tokio::test]
async fn the_deadline_ends_a_call_in_the_middle_of_its_response_and_blames_nobody() {
    let (service, resets) = unending().await;
    let gateway = TestGateway::start(&config(&service, "")).await;
    let mut client = connect(&gateway).await;
    let mut calls = 0;
    for method in ["Stalls", "Pours", "Stalls", "Pours", "Stalls", "Pours"] {
        // Whether the client has said all or could go on.
        for ends in [true, false] {
            let began = Instant::now();
            let request = call(&format!("/a.B/{method}"), &[("grpc-timeout", "300m")]);
            let (response, _stream) = begin(&mut client, request, ends);
            let mut body = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_body();
            let (content, trailers) =
                tokio::time::timeout(DEADLINE, collect(&mut body)).await.unwrap().unwrap();
            let (took, trailers) = (began.elapsed(), trailers.unwrap());
            assert!(took >= Duration::from_millis(295) && took < Duration::from_millis(500), "{took:?}");
            assert!(content.starts_with(&message(b"first")));
            assert_eq!(content.len() > 10, method == "Pours");
            assert_eq!(trailers["grpc-status"], "4");
            assert!(trailers["grpc-message"].to_str().unwrap().contains("deadline"));
            calls += 1;
        }
    }
    eventually("the service learns each", || async { resets.lock().unwrap().len() == calls }).await;
    assert!(resets.lock().unwrap().iter().all(|reason| *reason == h2::Reason::CANCEL));
    // Twelve failures would eject it, and open its breaker.
    let (head, _, trailers) = unary(&mut client, call("/a.B/Ends", &[("grpc-timeout", "300m")])).await;
    assert_eq!((head.status().as_u16(), &trailers["grpc-status"]), (200, &"0".parse().unwrap()));
    let line = format!("millgate_grpc_failures_total{{service=\"s\",grpc_status=\"4\"}} {calls}");
    eventually("they are counted", || gateway.shows(&line)).await;
    let log = gateway.dir.path().join("access.log");
    eventually("and logged", || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let late = text.lines().filter(|line| line.contains("\"flags\":\"call_deadline\""));
        late.filter(|line| line.contains("\"grpc_status\":4")).count() == calls
    })
    .await;
}

#[tokio::test]
async fn errors_of_the_gateway_are_statuses_of_grpc() {
    let (service, _) = echoing().await;
    let config = format!(
        "workers: 1\naccess_log: {{format: json, file: access.log}}\n\
         auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\nroutes:\n\
         \x20 - {{path: /closed.S/M, service: s, auth: main}}\n\
         \x20 - {{path: /role.S/M, service: s, auth: main, require: {{scope: orders}}}}\n\
         \x20 - {{path: /limited.S/M, service: s, auth: none, rate_limit: 1/h per ip}}\n\
         \x20 - {{path: /down.S/M, service: down, auth: none}}\n\
         services:\n\x20 s: {{hosts: [\"{}\"], protocol: grpc}}\n\
         \x20 down: {{hosts: [\"{}\"], protocol: grpc}}\n",
        service.addr,
        crate::support::backend::closed_port()
    );
    let gateway = TestGateway::start_in(tokens::folder(), &config).await;
    let mut client = connect(&gateway).await;
    let token = format!("Bearer {}", tokens::token(gateway.dir.path(), tokens::GOOD, "ann"));
    for (path, fields, status, logged) in [
        ("/closed.S/M", &[][..], "16", 401),
        ("/role.S/M", &[("authorization", &*token)], "7", 403),
        ("/limited.S/M", &[], "0", 200),
        ("/limited.S/M", &[], "8", 429),
        ("/down.S/M", &[], "14", 502),
        ("/none.S/M", &[], "12", 404),
    ] {
        let (head, content, trailers) = unary(&mut client, call(path, fields)).await;
        let got = head.headers().get("grpc-status").or(trailers.get("grpc-status")).unwrap();
        assert_eq!((head.status().as_u16(), got.to_str().unwrap()), (200, status), "{path}");
        if status != "0" {
            assert!(content.is_empty() && head.headers()["content-type"] == "application/grpc");
            assert!(
                !head.headers()["grpc-message"].is_empty() && head.headers().contains_key("x-request-id")
            );
        }
        let log = gateway.dir.path().join("access.log");
        eventually("the log has the status that a client of HTTP would get", || async {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().any(|line| line.contains(path) && line.contains(&format!("\"status\":{logged},")))
        })
        .await;
    }
}

#[tokio::test]
async fn a_status_of_the_service_counts_for_retries_and_breaker() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let unavailable = H2Service::start(
        |_| {},
        move |_request, mut reply| {
            let count = Arc::clone(&count);
            Box::pin(async move {
                count.fetch_add(1, SeqCst);
                let head = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "14");
                let _ = reply.send_response(head.body(()).unwrap(), true);
            })
        },
    )
    .await;
    let (good, _) = echoing().await;
    let gateway = TestGateway::start(&format!(
        "workers: 1\naccess_log: {{format: off}}\nroutes:\n\
         \x20 - {{path: /**, service: s, retry: {{on: [unavailable], methods: [POST], budget: 100%, body: 64KiB}}}}\n\
         services: {{s: {{hosts: [\"{}\", \"{}\"], protocol: grpc, outlier: off}}}}\n",
        unavailable.addr, good.addr
    ))
    .await;
    let mut client = connect(&gateway).await;
    for _ in 0..10 {
        let (_, content, trailers) = unary(&mut client, call("/a.B/C", &[])).await;
        assert_eq!((content, &trailers["grpc-status"]), (message(b"hello").to_vec(), &"0".parse().unwrap()));
    }
    assert!(served.load(SeqCst) > 0);
    let line = format!(
        "millgate_endpoint_requests_total{{service=\"s\",instance=\"{}\",code=\"503\"}} {}",
        unavailable.addr,
        served.load(SeqCst)
    );
    assert!(gateway.shows(&line).await);
}

/// Most services send a head first, and their status in trailers, also when they fail.
#[tokio::test]
async fn a_status_in_trailers_counts_for_the_breaker_as_one_in_the_head() {
    for (status, opens) in [("14", true), ("5", false), ("0", false)] {
        let service = H2Service::start(
            |_| {},
            move |_request, mut reply| {
                Box::pin(async move {
                    let mut stream = respond(&mut reply);
                    stream.send_data(message(b"first"), false).unwrap();
                    let trailers =
                        HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
                    stream.send_trailers(trailers).unwrap();
                })
            },
        )
        .await;
        let gateway = TestGateway::start(&format!(
            "workers: 1\naccess_log: {{format: json, file: access.log}}\nroutes: [{{path: /**, service: s}}]\n\
             services: {{s: {{hosts: [\"{}\"], protocol: grpc, outlier: off, \
             breaker: {{min: 1, errors: 50%, open: 5m, max_by_status: 100%}}}}}}\n",
            service.addr
        ))
        .await;
        let mut client = connect(&gateway).await;
        let (_, content, trailers) = unary(&mut client, call("/a.B/First", &[])).await;
        assert_eq!(
            (content, &trailers["grpc-status"]),
            (message(b"first").to_vec(), &status.parse().unwrap())
        );
        let (head, ..) = unary(&mut client, call("/a.B/Second", &[])).await;
        let is_open =
            head.headers().get("grpc-message").is_some_and(|text| text.to_str().unwrap().contains("breaker"));
        assert_eq!(is_open, opens, "{status}");
        let log = gateway.dir.path().join("access.log");
        eventually("each line has its status", || async {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let second = if opens { "14" } else { status };
            text.lines().count() == 2
                && text.lines().next().unwrap().contains(&format!("\"grpc_status\":{status},"))
                && text.lines().nth(1).unwrap().contains(&format!("\"grpc_status\":{second},"))
        })
        .await;
        let metric = format!("millgate_grpc_failures_total{{service=\"s\",grpc_status=\"{status}\"}}");
        assert_eq!(gateway.shows(&format!("{metric} 1")).await, status == "14", "{status}");
        assert_eq!(gateway.shows(&format!("{metric} 2")).await, status == "5", "{status}");
    }
}
