//! The service behind the proxies: answers every request with the same JSON body, keep-alive, on one thread.
//!
//! Several listeners stand for several endpoints; one thread serves all of them, because it has one core anyway.

use std::{convert::Infallible, io::Write, net::Ipv4Addr};

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{Response, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::LocalSet};

#[derive(Debug, Args)]
pub(crate) struct Backend {
    #[arg(long)]
    endpoints: usize,
    /// Length of the response's content
    #[arg(long)]
    bytes: usize,
}

impl Backend {
    pub(crate) fn serve(&self) -> anyhow::Result<()> {
        let body = content(self.bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async move {
            let mut listeners = Vec::new();
            for _ in 0..self.endpoints {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                println!("{}", listener.local_addr()?);
                listeners.push(tokio::task::spawn_local(accept(listener, body.clone())));
            }
            std::io::stdout().flush()?;
            for listener in listeners {
                listener.await??;
            }
            Ok(())
        })
    }
}

async fn accept(listener: TcpListener, body: Bytes) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let service = service_fn(move |_| {
            let mut response = Response::new(Full::new(body.clone()));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        // A connection that a proxy cuts ends only itself.
        tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// A JSON object of exactly `bytes` bytes; at least the 13 of an empty one.
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
