//! All instances: one listener on every address of the loopback network. The answer to a request is its own
//! address.

use std::{convert::Infallible, net::Ipv4Addr};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Answers until the process ends; returns the port.
pub(crate) async fn start() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("the backend's listener")?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(address) = stream.local_addr() else { continue };
            let answer = Bytes::from(address.ip().to_string());
            let service = service_fn(move |_| {
                let answer = Full::new(answer.clone());
                async move { Ok::<_, Infallible>(Response::new(answer)) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(port)
}

/// The address of an instance of a service. Networks of the loopback interface are /8.
pub(crate) fn address(service: usize, instance: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(service).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(127, 10 + high, low, u8::try_from(instance + 1).unwrap_or(u8::MAX))
}
