//! The blame for an endpoint that was tried when most of the time was gone.

use std::{net::SocketAddr, time::Duration};

use tokio::io::AsyncWriteExt;

use crate::support::{
    backend::RawBackend,
    client::{get, json, send, status},
    eventually,
    gateway::TestGateway,
};

async fn breaker(gateway: &TestGateway, addr: SocketAddr) -> String {
    let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
    let endpoints = services["services"][0]["endpoints"].as_array().unwrap();
    let one = endpoints.iter().find(|one| one["address"] == addr.to_string()).unwrap();
    one["breaker"].as_str().unwrap().to_owned()
}

/// The second attempt has the time that the first one left.
#[tokio::test]
async fn an_endpoint_that_was_tried_late_is_not_blamed_for_the_time_that_was_gone() {
    let silent = RawBackend::answering(b"", false).await;
    let slow = slow_answer(Duration::from_millis(400)).await;
    let route = ", timeout: {total: 1s, try: 700ms}, retry: {budget: 100%, backoff: 1ms..1ms}";
    let service = ", breaker: {min: 1, errors: 100%, open: 5m}, outlier: off";
    let gateway = TestGateway::start(&format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s{route}}}\nservices:\n  \
         s: {{hosts: [\"{}\", \"{slow}\"]{service}}}\n",
        silent.addr
    ))
    .await;
    // Either may be first. A request that begins at the silent one leaves 300 ms for the slow one.
    eventually("the silent one's breaker is open", || async {
        let _ = status(gateway.http, "/x").await;
        breaker(&gateway, silent.addr).await != "closed"
    })
    .await;
    assert_eq!(breaker(&gateway, slow).await, "closed");
}

/// A service that answers each request after a pause.
async fn slow_answer(pause: Duration) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let _ = client
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                    .await;
                let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
            });
        }
    });
    addr
}
