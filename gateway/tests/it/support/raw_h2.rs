//! HTTP/2 clients that write their own frames (RFC 9113 §4), over cleartext or TLS.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{DEADLINE, authority::Authority};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const CANCEL: u32 = 8;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface, and a SETTINGS frame.
pub(crate) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> = settings
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &settings)].concat()
}

/// HEADERS with every field as a literal (RFC 7541 §6.2.2).
pub(crate) fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, flags | END_HEADERS, stream, &block)
}

/// A request's head for `gw`.
pub(crate) fn request(flags: u8, stream: u32, method: &str, path: &str) -> Vec<u8> {
    headers(flags, stream, &[(":method", method), (":scheme", "http"), (":path", path), (":authority", "gw")])
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// A frame that came.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that speaks in frames.
pub(crate) struct Frames {
    io: Box<dyn Io>,
}

impl Frames {
    /// `authority`: over TLS.
    pub(crate) async fn connect(addr: SocketAddr, authority: Option<&Authority>) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let Some(authority) = authority else { return Self { io: Box::new(stream) } };
        let connector = TlsConnector::from(Arc::new(tls_client(authority, &[b"h2"])));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        Self { io: Box::new(connector.connect(name, stream).await.unwrap()) }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Sends and lets the other side read in between, so that each piece is a segment of its own.
    pub(crate) async fn send_in_pieces(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece.max(1)) {
            self.send(piece).await;
            tokio::task::yield_now().await;
        }
    }

    /// The next frame; `None` when the other side has closed. SETTINGS and PING are answered.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let frame_in = Frame { kind: head[3], flags: head[4], stream, payload };
        if frame_in.flags & ACK == 0 && [SETTINGS, PING].contains(&frame_in.kind) {
            let payload = if frame_in.kind == PING { &frame_in.payload[..] } else { &[] };
            let _ = self.io.write_all(&frame(frame_in.kind, ACK, 0, payload)).await;
        }
        Some(frame_in)
    }

    /// The next frame for which `is_wanted`; panics when the other side closes before.
    pub(crate) async fn next_where(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let next = tokio::time::timeout(DEADLINE, self.next()).await.expect("a frame comes in time");
            let frame = next.expect("the connection stays open");
            if is_wanted(&frame) {
                return frame;
            }
        }
    }
}

/// Trusts `authority` and offers `protocols`.
pub(crate) fn tls_client(authority: &Authority, protocols: &[&[u8]]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}
