//! Balancers that learn from the responses of endpoints.

use std::{net::SocketAddr, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    backend::Backend,
    client::{get, send, text},
    gateway::TestGateway,
};

/// A service that answers each request with `slow`, after a pause.
async fn slow(pause: Duration) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = client.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        tokio::time::sleep(pause).await;
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
                        if client.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn peak_ewma_sends_few_requests_to_an_instance_that_answers_slowly() {
    let (slow, quick) = (slow(Duration::from_millis(300)).await, Backend::named("quick").await);
    let gateway = TestGateway::start(&format!(
        "workers: 2\nroutes:\n- {{path: /**, service: s}}\n\
         services: {{s: {{hosts: [\"{slow}\", \"{}\"], balance: peak_ewma}}}}\n",
        quick.addr
    ))
    .await;
    let mut counts = [0, 0];
    for _ in 0..100 {
        let reply = send(gateway.http, get("/x")).await;
        counts[usize::from(text(&reply) == "quick")] += 1;
    }
    // The slow endpoint may get the first request by chance, and further ones if the quick one was delayed
    // for longer than that.
    assert!(counts[0] <= 10, "slow, quick: {counts:?}");
}
