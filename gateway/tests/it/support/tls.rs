//! TLS clients with a name, a certificate or neither, and the files that listeners read.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{authority::Certified, client::Reply};

/// Writes a file aside first, so that no watcher sees half of it.
pub(crate) fn replace(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(dir.join("aside"), content).unwrap();
    std::fs::rename(dir.join("aside"), dir.join(name)).unwrap();
}

/// Writes `NAME.pem` and `NAME.key`.
pub(crate) fn replace_pair(dir: &Path, name: &str, pair: &Certified) {
    replace(dir, &format!("{name}.key"), &pair.key);
    replace(dir, &format!("{name}.pem"), &pair.cert);
}

/// A handshake with this name. With an address, the client sends no name.
pub(crate) async fn connect(
    client: &Arc<ClientConfig>,
    at: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(client)).connect(name, stream).await
}

/// HTTP on one TLS connection, in the version that the handshake has chosen.
pub(crate) enum Session {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Session {
    pub(crate) async fn over(stream: TlsStream<TcpStream>) -> hyper::Result<Self> {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        if is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            return Ok(Self::Http2(sender));
        }
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    /// A `GET` with these fields.
    pub(crate) async fn get(
        &mut self,
        host: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> hyper::Result<Reply> {
        let mut request = Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = match self {
            Self::Http1(sender) => {
                let request = request.uri(path).header("host", host).body(Full::default()).unwrap();
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                let uri = format!("https://{host}{path}");
                sender.send_request(request.uri(uri).body(Full::default()).unwrap()).await?
            }
        };
        let (parts, body) = response.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    /// Whether the gateway has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}
