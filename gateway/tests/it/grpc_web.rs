//! gRPC-Web, binary and text, from clients of HTTP/1.1 to a gRPC service.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;

use crate::support::{
    client::{header, send},
    gateway::TestGateway,
    h2_service::{H2Service, collect},
};

fn message(content: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

/// Answers the message that it gets, in two pieces, and adds a status.
async fn service() -> H2Service {
    H2Service::start(
        |_| {},
        |request, mut reply| {
            Box::pin(async move {
                let kind = request.headers()["content-type"].clone();
                assert!(!request.headers().contains_key("content-length"));
                let (body, _) = collect(&mut request.into_body()).await.unwrap();
                let mut response = Response::new(());
                response.headers_mut().insert("content-type", kind);
                let mut stream = reply.send_response(response, false).unwrap();
                let (first, second) = body.split_at(body.len() / 2);
                stream.send_data(Bytes::copy_from_slice(first), false).unwrap();
                stream.send_data(Bytes::copy_from_slice(second), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("grpc-message", "all%20well".parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            })
        },
    )
    .await
}

async fn gateway(service: &H2Service) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\naccess_log: {{format: off}}\nroutes: [{{path: /shop.Orders/*, service: s}}]\n\
         services: {{s: {{hosts: [\"{}\"], protocol: grpc}}}}\n",
        service.addr
    ))
    .await
}

fn call(kind: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let request = Request::post("/shop.Orders/Get").header("host", "gw").header("content-type", kind);
    request.header("x-grpc-web", "1").body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn calls_of_both_forms_are_translated_and_their_trailers_end_the_body() {
    let service = service().await;
    let gateway = gateway(&service).await;
    let sent = message(&(0..=255).collect::<Vec<u8>>());
    let lines = b"grpc-status: 0\r\ngrpc-message: all%20well\r\n";
    let trailers = [&[0x80][..], &u32::try_from(lines.len()).unwrap().to_be_bytes(), lines].concat();
    let expected = [&sent[..], &trailers].concat();

    let reply = send(gateway.http, call("application/grpc-web+proto", sent.clone())).await;
    assert_eq!(
        (reply.status().as_u16(), header(&reply, "content-type")),
        (200, "application/grpc-web+proto")
    );
    assert_eq!(reply.body(), &expected);

    // The client may pad each piece that it encodes.
    let (a, b) = sent.split_at(100);
    let text = [BASE64.encode(a), BASE64.encode(b)].concat().into_bytes();
    let reply = send(gateway.http, call("application/grpc-web-text", text)).await;
    assert_eq!(header(&reply, "content-type"), "application/grpc-web-text");
    let mut decoded = Vec::new();
    let mut rest = &reply.body()[..];
    while !rest.is_empty() {
        let padded = rest.chunks(4).position(|group| group.ends_with(b"="));
        let (piece, more) = rest.split_at(padded.map_or(rest.len(), |group| (group + 1) * 4));
        decoded.extend(BASE64.decode(piece).unwrap());
        rest = more;
    }
    assert_eq!(decoded, expected);
}

#[tokio::test]
async fn errors_have_the_form_of_grpc_web_and_text_that_is_none_is_refused() {
    let service = service().await;
    let gateway = gateway(&service).await;
    let mut elsewhere = call("application/grpc-web+proto", message(b""));
    *elsewhere.uri_mut() = "/none.S/M".parse().unwrap();
    let reply = send(gateway.http, elsewhere).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "grpc-status")), (200, "12"));
    assert_eq!(header(&reply, "content-type"), "application/grpc-web");
    let reply = send(gateway.http, call("application/grpc-web-text", b"no base64!".to_vec())).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "grpc-status")), (200, "13"));
}

#[tokio::test]
async fn a_deadline_in_the_middle_of_a_response_is_its_last_message() {
    let service = H2Service::start(
        |_| {},
        |_request, mut reply| {
            Box::pin(async move {
                let response =
                    Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut stream = reply.send_response(response, false).unwrap();
                stream.send_data(message(b"first").into(), false).unwrap();
                let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            })
        },
    )
    .await;
    let gateway = gateway(&service).await;
    for kind in ["application/grpc-web", "application/grpc-web-text"] {
        let is_text = kind.ends_with("text");
        let sent = if is_text { BASE64.encode(message(b"hello")).into_bytes() } else { message(b"hello") };
        let mut request = call(kind, sent);
        request.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());
        let reply = send(gateway.http, request).await;
        let body = if is_text {
            // Each piece was encoded by itself.
            let (first, last) = reply.body().split_at(BASE64.encode(message(b"first")).len());
            [BASE64.decode(first).unwrap(), BASE64.decode(last).unwrap()].concat()
        } else {
            reply.body().to_vec()
        };
        let trailers = body.strip_prefix(&message(b"first")[..]).unwrap();
        assert_eq!(trailers[0], 0x80, "{kind}");
        let lines = std::str::from_utf8(&trailers[5..]).unwrap();
        assert!(
            lines.contains("grpc-status: 4\r\n") && lines.contains("grpc-message: the deadline"),
            "{lines}"
        );
    }
}
