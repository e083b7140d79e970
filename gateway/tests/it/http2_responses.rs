//! Responses of services that speak HTTP/2: informational and early ones, and trailers.

use bytes::Bytes;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    DEADLINE,
    client::{get, http2, send, text},
    gateway::TestGateway,
    h2_service::{H2Service, collect},
};

#[tokio::test]
async fn early_answers_and_informational_ones_arrive_before_the_request_has_ended() {
    let service = H2Service::start(
        |_| {},
        |request, mut reply| {
            Box::pin(async move {
                let hints = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
                reply.send_informational(hints).unwrap();
                let mut stream = reply.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"early"), false).unwrap();
                let (body, _) = collect(&mut request.into_body()).await.unwrap();
                stream.send_data(Bytes::from(format!(" and {} bytes", body.len())), true).unwrap();
            })
        },
    )
    .await;
    let gateway = TestGateway::start(&format!(
        "workers: 1\naccess_log: {{format: off}}\nroutes: [{{path: /**, service: s, body: stream}}]\n\
         services: {{s: {{hosts: [\"{}\"], protocol: h2c}}}}\n",
        service.addr
    ))
    .await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: 10\r\n\r\nhello")
        .await
        .unwrap();
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains("early") {
        assert_ne!(tokio::time::timeout(DEADLINE, client.read_buf(&mut got)).await.unwrap().unwrap(), 0);
    }
    assert!(got.starts_with(b"HTTP/1.1 103 Early Hints\r\n"));
    client.write_all(b"world").await.unwrap();
    tokio::time::timeout(DEADLINE, client.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&got).contains(" and 10 bytes"));
}

#[tokio::test]
async fn trailers_reach_clients_of_http2_without_what_belongs_to_the_head() {
    let service = H2Service::start(
        |_| {},
        |_, mut reply| {
            Box::pin(async move {
                let mut stream = reply.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"content"), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                for (name, value) in [
                    ("grpc-status", "0"),
                    ("x-checksum", "7"),
                    ("content-length", "99"),
                    ("set-cookie", "a=b"),
                    ("x-request-id", "of the service"),
                    ("x-secret", "1"),
                ] {
                    trailers.insert(name, value.parse().unwrap());
                }
                stream.send_trailers(trailers).unwrap();
            })
        },
    )
    .await;
    let gateway = TestGateway::start(&format!(
        "workers: 1\naccess_log: {{format: off}}\nroutes:\n\
         \x20 - {{path: /**, service: s, headers: {{response: {{remove: [X-Secret]}}}}}}\n\
         services: {{s: {{hosts: [\"{}\"], protocol: h2c}}}}\n",
        service.addr
    ))
    .await;
    let mut client = http2::<http_body_util::Empty<Bytes>>(gateway.http).await;
    let request =
        http::Request::get("http://gw/").header("te", "trailers").body(http_body_util::Empty::new()).unwrap();
    let response = client.send_request(request).await.unwrap();
    let collected = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    let trailers = collected.trailers().unwrap().clone();
    assert_eq!(
        (trailers.len(), &trailers["grpc-status"], &trailers["x-checksum"]),
        (2, &"0".parse().unwrap(), &"7".parse().unwrap())
    );
    assert_eq!(collected.to_bytes(), "content");
    // HTTP/1.1 without `TE: trailers`.
    assert_eq!(text(&send(gateway.http, get("/")).await), "content");
}
