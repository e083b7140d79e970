//! An HTTP/1.1 client for what wrk and h2load cannot do: full TLS handshakes, a constant rate, and clients that stop.
//! It implements only the part of HTTP that the backend's answers need.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

use crate::certificate;

/// The destination of requests.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    path: String,
    /// Speak TLS, and trust this certificate
    #[arg(long)]
    certificate: Option<PathBuf>,
}

impl Target {
    pub(crate) fn new(port: u16, path: &str, certificate: Option<PathBuf>) -> Self {
        Self { port, path: path.to_owned(), certificate }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The URI of a request over HTTP/2.
    pub(crate) fn uri(&self) -> String {
        format!("https://{}{}", self.address(), self.path)
    }

    /// The TLS configuration for it. `None`: in cleartext.
    pub(crate) fn tls(&self) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        self.certificate.as_deref().map(certificate::client).transpose()
    }

    /// The arguments from which this is parsed.
    pub(crate) fn args(port: u16, path: &str, certificate: Option<&PathBuf>) -> Vec<String> {
        let mut args = vec!["--port".into(), port.to_string(), "--path".into(), path.to_owned()];
        if let Some(certificate) = certificate {
            args.extend(["--certificate".into(), certificate.display().to_string()]);
        }
        args
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let (address, path, tls) = (self.address(), &self.path, self.tls()?);
        let request =
            |close: &str| format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{close}\r\n").into_bytes();
        Ok(Client { address, tls, kept: request(""), last: request("Connection: close\r\n") })
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    /// A request on a connection that stays open, and one that is the last of its connection.
    kept: Vec<u8>,
    last: Vec<u8>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection to the proxy. `buffer` has bytes that were read and not used.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                Box::new(connector.connect(certificate::name(), stream).await.context("TLS handshake")?)
            }
        };
        Ok(Connection { stream, buffer: Vec::new() })
    }

    /// One request and its answer, on a connection that both sides keep.
    pub(crate) async fn ask(&self, connection: &mut Connection) -> anyhow::Result<Answer> {
        connection.exchange(&self.kept).await
    }

    /// Sends one request on a new connection, and reads the answer up to the connection's end.
    pub(crate) async fn ask_once(&self) -> anyhow::Result<Answer> {
        let mut connection = self.connect().await?;
        connection.stream.write_all(&self.last).await?;
        let answer = connection.answer().await?;
        // The proxy closes. Whether it sends `close_notify` does not matter here.
        let _ = connection.stream.read(&mut [0]).await;
        Ok(answer)
    }

    /// Sends a request, and reads only the first bytes of the answer.
    pub(crate) async fn ask_and_stall(&self, connection: &mut Connection) -> anyhow::Result<()> {
        connection.stream.write_all(&self.kept).await?;
        let mut start = [0; b"HTTP/1.1 200".len()];
        connection.stream.read_exact(&mut start).await?;
        ensure!(start.ends_with(b" 200"), "an error instead of an answer");
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The bytes of head and body.
    pub(crate) bytes: usize,
}

impl Connection {
    /// Sends a whole request, and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request).await?;
        self.answer().await
    }

    /// Asks for another protocol, and returns the stream that speaks it.
    pub(crate) async fn switched(mut self, handshake: &[u8]) -> anyhow::Result<Box<dyn Stream>> {
        let answer = self.exchange(handshake).await?;
        ensure!(answer.status == 101, "{} instead of another protocol", answer.status);
        ensure!(self.buffer.is_empty(), "the service speaks first");
        Ok(self.stream)
    }

    async fn answer(&mut self) -> anyhow::Result<Answer> {
        let head = loop {
            if let Some(head) = Head::read(&self.buffer)? {
                break head;
            }
            self.more().await?;
        };
        let bytes = head.bytes + head.content_length;
        while self.buffer.len() < bytes {
            self.more().await?;
        }
        self.buffer.drain(..bytes);
        Ok(Answer { status: head.status, bytes })
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => bail!("the connection was cut before the answer was complete"),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    content_length: usize,
}

impl Head {
    /// `None`: the head is not complete yet.
    fn read(buffer: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(buffer.get(..end).unwrap_or_default())?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let status = status.context("no HTTP/1.1 answer")?;
        // Behind the head, another protocol begins.
        let length = if status == 101 { Some(0) } else { length };
        let content_length = length.context("an answer without Content-Length")?;
        Ok(Some(Self { status, bytes: end + 4, content_length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_the_empty_line_and_says_how_long_its_body_is() {
        let whole = b"HTTP/1.1 200 OK\r\nserver: x\r\nCONTENT-LENGTH: 5\r\n\r\nhello";
        let head = Head { status: 200, bytes: whole.len() - 5, content_length: 5 };
        assert_eq!(Head::read(whole).unwrap(), Some(head));
        assert_eq!(Head::read(&whole[..whole.len() - 6]).unwrap(), None);
    }

    #[test]
    fn an_answer_of_unknown_length_or_protocol_is_an_error() {
        assert!(Head::read(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(Head::read(b"SSH-2.0 200\r\ncontent-length: 5\r\n\r\n").is_err());
    }
}
