//! The service behind the proxies: it answers every request with the same JSON body, and keeps connections alive. A
//! request's body is read to its end and dropped.
//!
//! Several listeners represent several endpoints. Each thread serves its share of them. There is one thread for each
//! core that the backend may use, which is one unless a scenario has several workers.

use std::{convert::Infallible, fmt::Write as _, io::Write, net::Ipv4Addr};

use anyhow::anyhow;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::LocalSet};

#[derive(Debug, Args)]
pub(crate) struct Backend {
    #[arg(long)]
    endpoints: usize,
    /// Length of the response's content
    #[arg(long)]
    bytes: usize,
    #[arg(long, default_value_t = 1)]
    threads: usize,
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
                let body = body.clone();
                std::thread::spawn(move || serve(share, &body))
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread of the backend panicked"))??;
        }
        Ok(())
    }
}

fn serve(listeners: Vec<std::net::TcpListener>, body: &Bytes) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let mut accepting = Vec::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            accepting.push(tokio::task::spawn_local(accept(listener, body.clone())));
        }
        for listener in accepting {
            listener.await??;
        }
        Ok(())
    })
}

async fn accept(listener: TcpListener, body: Bytes) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let service = service_fn(move |request| answer(request, body.clone()));
        // A connection that a proxy cuts ends alone.
        tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>, body: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut upload = request.into_body();
    while !upload.is_end_stream() {
        // A body that breaks off breaks the connection, which hyper notices.
        let Some(Ok(_)) = upload.frame().await else { break };
    }
    let mut response = Response::new(Full::new(body));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
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
