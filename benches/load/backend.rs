//! The service behind the proxies: it answers every request with the same JSON body, and keeps connections alive. A
//! request's body is read to its end and dropped.
//!
//! It speaks HTTP/1.1, or HTTP/2 with prior knowledge, where calls of gRPC get one message and a status. As a service of WebSocket it
//! answers each short frame with the same content.
//!
//! Several listeners represent several endpoints. Each thread serves its share of them. There is one thread for each
//! core that the backend may use, which is one unless a scenario has several workers.

use std::{convert::Infallible, fmt::Write as _, io::Write, net::Ipv4Addr};

use anyhow::anyhow;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderName},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::LocalSet};

use crate::websocket;

#[derive(Debug, Args)]
pub(crate) struct Backend {
    #[arg(long)]
    endpoints: usize,
    /// Length of the response's content
    #[arg(long)]
    bytes: usize,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, value_enum, default_value_t = Speaks::Http1)]
    speaks: Speaks,
}

/// What the service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Speaks {
    #[default]
    Http1,
    Http2,
    Websocket,
}

impl Backend {
    pub(crate) fn serve(&self) -> anyhow::Result<()> {
        let body = content(self.bytes);
        let mut shares: Vec<Vec<std::net::TcpListener>> =
            (0..self.threads.max(1)).map(|_| Vec::new()).collect();
        let mut addresses = String::new();
        for (_, share) in (0..self.endpoints).zip((0..shares.len()).cycle()) {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            writeln!(addresses, "{}", listener.local_addr()?)?;
            if let Some(share) = shares.get_mut(share) {
                share.push(listener);
            }
        }
        let mut output = std::io::stdout().lock();
        output.write_all(addresses.as_bytes())?;
        output.flush()?;
        drop(output);
        let threads: Vec<_> = shares
            .into_iter()
            .map(|share| {
                let (body, speaks) = (body.clone(), self.speaks);
                std::thread::spawn(move || serve(share, speaks, &body))
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread of the backend panicked"))??;
        }
        Ok(())
    }
}

fn serve(listeners: Vec<std::net::TcpListener>, speaks: Speaks, body: &Bytes) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let mut accepting = Vec::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            accepting.push(tokio::task::spawn_local(accept(listener, speaks, body.clone())));
        }
        for listener in accepting {
            listener.await??;
        }
        Ok(())
    })
}

async fn accept(listener: TcpListener, speaks: Speaks, body: Bytes) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (io, body) = (TokioIo::new(stream), body.clone());
        // A connection that a proxy cuts ends alone.
        match speaks {
            Speaks::Http1 => {
                let service = service_fn(move |request| answer(request, body.clone()));
                tokio::task::spawn_local(http1::Builder::new().serve_connection(io, service));
            }
            Speaks::Http2 => {
                let service = service_fn(move |request| answer_http2(request, body.clone()));
                tokio::task::spawn_local(http2::Builder::new(LocalExec).serve_connection(io, service));
            }
            Speaks::Websocket => {
                let service = service_fn(move |request| switch(request, body.clone()));
                let connection = http1::Builder::new().serve_connection(io, service);
                tokio::task::spawn_local(connection.with_upgrades());
            }
        }
    }
}

async fn answer(request: Request<Incoming>, body: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    read_whole(request.into_body()).await;
    let mut response = Response::new(Full::new(body));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

async fn read_whole(mut upload: Incoming) {
    while !upload.is_end_stream() {
        // A body that breaks off breaks the connection, which hyper notices.
        let Some(Ok(_)) = upload.frame().await else { break };
    }
}

/// A call of gRPC gets a message with the content, and its status in trailers.
async fn answer_http2(
    request: Request<Incoming>,
    body: Bytes,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let Some(kind) = kind.filter(|kind| kind.as_bytes().starts_with(b"application/grpc")) else {
        return Ok(answer(request, body).await?.map(BodyExt::boxed));
    };
    read_whole(request.into_body()).await;
    let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let message = Full::new(Bytes::from([&[0][..], &length, &body].concat()));
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        header::HeaderValue::from_static("0"),
    )]);
    let mut response = Response::new(message.with_trailers(async { Some(Ok(trailers)) }).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Switches to WebSocket where that is asked for.
async fn switch(request: Request<Incoming>, body: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        return answer(request, body).await;
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    if let Ok(accept) = header::HeaderValue::try_from(websocket::accept(key.as_bytes())) {
        fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // The client leaves at the end of a turn.
            let _ = websocket::echo(TokioIo::new(upgraded)).await;
        }
    });
    Ok(response)
}

/// Runs hyper's tasks on the thread that asks for it.
#[derive(Debug, Clone, Copy)]
struct LocalExec;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A JSON object of exactly `bytes` bytes, and at least the 13 of an empty one.
fn content(bytes: usize) -> Bytes {
    const BEFORE: &str = r#"{"filler":""#;
    const AFTER: &str = r#""}"#;
    let filler = bytes.saturating_sub(BEFORE.len() + AFTER.len());
    Bytes::from(format!("{BEFORE}{}{AFTER}", "x".repeat(filler)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_is_json_of_the_length_that_was_asked_for() {
        for bytes in [13, 120, 1 << 20] {
            let content = content(bytes);
            assert_eq!(content.len(), bytes);
            assert!(serde_json::from_slice::<serde_json::Value>(&content).is_ok());
        }
    }
}
