//! HTTP/2 by hand: frames as bytes, header blocks of literals, and a client that writes and reads them in any way.
//!
//! It is for requests that no library would send. Frames follow RFC 9113 §4.1, header blocks RFC 7541 §6.2.2 without
//! Huffman.

#![allow(dead_code, reason = "words of the protocol, whether or not a test uses each of them")]

use std::{net::SocketAddr, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{DEADLINE, authority::Authority, gateway::TestGateway};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// SETTINGS identifiers.
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest payload that a server accepts unless it announces more.
const PAYLOAD_MAX: usize = 16 * 1024;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

pub(crate) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn data(stream: u32, flags: u8, content: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, content)
}

/// One field, never indexed and not encoded, which may be one that no library would encode.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10];
    for text in [name, value] {
        // An integer with a prefix of seven bits (RFC 7541 §5.1); the eighth would mean Huffman.
        let mut rest = text.len();
        if rest < 127 {
            bytes.push(u8::try_from(rest).unwrap());
        } else {
            bytes.push(127);
            rest -= 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
        bytes.extend_from_slice(text);
    }
    bytes
}

pub(crate) type Field<'a> = (&'a [u8], &'a [u8]);

pub(crate) fn block(fields: &[Field<'_>]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// HEADERS, and as many CONTINUATION frames as the block needs.
pub(crate) fn headers(stream: u32, flags: u8, fields: &[Field<'_>]) -> Vec<u8> {
    let block = block(fields);
    let mut parts = block.chunks(PAYLOAD_MAX).peekable();
    let mut bytes = Vec::new();
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(part) = parts.next() {
        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, flags | last, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    bytes
}

/// The pseudo-fields of a request for `path` at the host `gw`.
pub(crate) fn request<'a>(scheme: &'a str, method: &'a str, path: &'a str) -> Vec<Field<'a>> {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", scheme.as_bytes()),
        (b":authority", b"gw"),
        (b":path", path.as_bytes()),
    ]
}

/// How bytes are divided into writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Whole,
    Halves,
    Bytes,
}

impl Cut {
    pub(crate) const ALL: [Self; 3] = [Self::Whole, Self::Halves, Self::Bytes];

    fn parts(self, bytes: &[u8]) -> std::slice::Chunks<'_, u8> {
        bytes.chunks(match self {
            Self::Whole => bytes.len().max(1),
            Self::Halves => bytes.len().div_ceil(2).max(1),
            Self::Bytes => 1,
        })
    }
}

/// A frame that the gateway sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn error_code(&self) -> Option<u32> {
        let code = match self.kind {
            RST_STREAM => self.payload.get(..4)?,
            GOAWAY => self.payload.get(4..8)?,
            _ => return None,
        };
        Some(u32::from_be_bytes(code.try_into().unwrap()))
    }

    /// `:status` of a response's HEADERS, which is the first field.
    pub(crate) fn status(&self) -> Option<u16> {
        if self.kind != HEADERS {
            return None;
        }
        // Size updates of the table may come first.
        let mut block = self.payload.iter().copied().skip_while(|byte| byte & 0xe0 == 0x20);
        // An entry of the static table, or its name with a literal value.
        match block.next()? {
            indexed @ 0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]),
            0x48 | 0x08 | 0x18 => {
                let length = block.next()?;
                let text: Vec<u8> = block.take(usize::from(length & 127)).collect();
                let digits = if length & 128 == 0 { text } else { huffman_digits(&text) };
                std::str::from_utf8(&digits).ok()?.parse().ok()
            }
            _ => None,
        }
    }
}

/// Decodes three digits (RFC 7541, appendix B: `0` to `2` have five bits, the others six).
fn huffman_digits(text: &[u8]) -> Vec<u8> {
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut digits = Vec::new();
    while digits.len() < 3 {
        let five = bits.by_ref().take(5).fold(0, |code, bit| code << 1 | bit);
        digits.push(match five {
            0..=2 => b'0' + five,
            _ => b'0' + (five << 1 | bits.next().unwrap_or(0)) - 0b01_1001 + 3,
        });
    }
    digits
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One connection. It answers nothing by itself.
pub(crate) struct FrameClient {
    /// The value that `:scheme` must have on it.
    pub(crate) scheme: &'static str,
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl FrameClient {
    /// Connects in cleartext with prior knowledge, and sends the preface and empty SETTINGS.
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::open_with(addr, &[]).await
    }

    /// As [`Self::open`], with these SETTINGS.
    pub(crate) async fn open_with(addr: SocketAddr, values: &[(u16, u32)]) -> Self {
        Self::over("http", connect(addr).await, values).await
    }

    /// As [`Self::open`], on a stream that the test has made.
    pub(crate) async fn on(stream: Box<dyn Stream>, scheme: &'static str) -> Self {
        Self::over(scheme, stream, &[]).await
    }

    /// Connects over TLS to the name `gw`, for which `authority` has certified the gateway.
    pub(crate) async fn open_tls(addr: SocketAddr, authority: &Authority, values: &[(u16, u32)]) -> Self {
        Self::over("https", connect_tls(addr, authority, b"h2").await, values).await
    }

    async fn over(scheme: &'static str, stream: impl Stream + 'static, values: &[(u16, u32)]) -> Self {
        let mut client = Self { scheme, stream: Box::new(stream), read: Vec::new() };
        client.send(&[PREFACE, &settings(values)].concat()).await;
        client
    }

    /// The bytes of a whole GET.
    pub(crate) fn get(&self, stream: u32, path: &str) -> Vec<u8> {
        headers(stream, END_STREAM, &request(self.scheme, "GET", path))
    }

    /// The bytes of a request's head without END_STREAM, with further fields.
    pub(crate) fn head(&self, stream: u32, method: &str, path: &str, fields: &[Field<'_>]) -> Vec<u8> {
        headers(stream, 0, &[&request(self.scheme, method, path)[..], fields].concat())
    }

    /// Sends bytes. Panics if the gateway has closed the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes, Cut::Whole).await, "the gateway closed the connection");
    }

    /// Sends each part in one write. `false`: the gateway has closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: &[u8], cut: Cut) -> bool {
        write(&mut self.stream, bytes, cut).await
    }

    /// The next frame. `None`: the gateway has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take(&mut self.read) {
                return Some(frame);
            }
            let mut space = vec![0; 16 * 1024];
            match self.stream.read(&mut space).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.read.extend_from_slice(&space[..count]),
            }
        }
    }

    /// The next frame, if it arrives within `patience`. The outer `None`: it did not.
    pub(crate) async fn next_within(&mut self, patience: Duration) -> Option<Option<Frame>> {
        tokio::time::timeout(patience, self.next()).await.ok()
    }

    /// Reads frames until one of them is `wanted`. `None`: the gateway closed the connection before.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let reading = async {
            loop {
                let frame = self.next().await?;
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.expect("the frame comes, or the end")
    }

    /// As [`Self::until`], for a client that answers SETTINGS and PING, and whose connection must stay open.
    pub(crate) async fn next_where(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let is_question = |frame: &Frame| [SETTINGS, PING].contains(&frame.kind) && frame.flags & ACK == 0;
        loop {
            let next = self.until(|frame| wanted(frame) || is_question(frame)).await;
            let next = next.expect("the connection stays open");
            if is_question(&next) {
                let payload = if next.kind == PING { &next.payload[..] } else { b"" };
                self.try_send(&frame(next.kind, ACK, 0, payload), Cut::Whole).await;
            }
            if wanted(&next) {
                return next;
            }
        }
    }

    /// The outcome of a request: its status, or the code with which its stream or the connection ended.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        let of_it =
            |frame: &Frame| frame.kind == GOAWAY || (frame.stream == stream && frame.kind != WINDOW_UPDATE);
        match self.until(of_it).await {
            None => Outcome::Closed,
            Some(frame) => match (frame.status(), frame.error_code()) {
                (Some(status), _) => Outcome::Status(status),
                (None, Some(code)) if frame.kind == RST_STREAM => Outcome::Reset(code),
                (None, Some(code)) => Outcome::GoAway(code),
                (None, None) => panic!("{frame:?}"),
            },
        }
    }

    /// Sends `first` in the given parts and then `again` until the gateway closes, and reads meanwhile. Returns the
    /// frames that were read, and the time since the first byte. Fails after [`DEADLINE`].
    pub(crate) async fn flood(self, first: &[u8], cut: Cut, again: Vec<u8>) -> (Vec<Frame>, Duration) {
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let began = std::time::Instant::now();
        let mut read = self.read;
        let reading = tokio::spawn(async move {
            let mut frames = Vec::new();
            let mut space = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = reader.read(&mut space).await {
                read.extend_from_slice(&space[..count]);
                frames.extend(std::iter::from_fn(|| take(&mut read)));
            }
            frames
        });
        let writing = async {
            let mut more = write(&mut writer, first, cut).await;
            while more && !reading.is_finished() {
                more = write(&mut writer, &again, Cut::Whole).await;
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, writing).await.is_ok(), "the gateway takes it for ever");
        let took = began.elapsed();
        (tokio::time::timeout(DEADLINE, reading).await.expect("the connection is closed").unwrap(), took)
    }
}

/// Takes the first frame out of the bytes, if all of it is there.
pub(crate) fn take(read: &mut Vec<u8>) -> Option<Frame> {
    let head = read.first_chunk::<9>()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (kind, flags) = (head[3], head[4]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let payload = read.get(9..9 + length)?.to_vec();
    read.drain(..9 + length);
    Some(Frame { kind, flags, stream, payload })
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// Sends each part in one write. `false`: the gateway has closed the connection.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], cut: Cut) -> bool {
    for part in cut.parts(bytes) {
        if stream.write_all(part).await.is_err() || stream.flush().await.is_err() {
            return false;
        }
    }
    true
}

/// Connects over TLS to the name `gw`, and offers one protocol.
pub(crate) async fn connect_tls(
    addr: SocketAddr,
    authority: &Authority,
    protocol: &[u8],
) -> impl Stream + use<> {
    let connector = tokio_rustls::TlsConnector::from(authority.client(&[protocol]));
    let name = rustls_pki_types::ServerName::try_from("gw").unwrap();
    connector.connect(name, connect(addr).await).await.unwrap()
}

pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A gateway with one worker and a listener of each kind.
pub(crate) struct Listeners {
    pub(crate) gateway: TestGateway,
    authority: Authority,
}

impl Listeners {
    /// `listen` has further entries, each with a comma before it; `config` is everything else.
    pub(crate) async fn start(listen: &str, config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), listen, config).await
    }

    /// As [`Self::start`], in a folder that already has the files to which the configuration refers.
    pub(crate) async fn start_in(dir: TempDir, listen: &str, config: &str) -> Self {
        let authority = Authority::new();
        let certified = authority.certify("gw");
        std::fs::write(dir.path().join("gw.pem"), certified.cert).unwrap();
        std::fs::write(dir.path().join("gw.key"), certified.key).unwrap();
        let https = "https: {bind: \"127.0.0.1:0\", cert_file: gw.pem, key_file: gw.key}";
        let listen = format!("listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", {https}{listen}}}");
        let gateway = TestGateway::start_in(dir, &format!("workers: 1\n{listen}\n{config}")).await;
        Self { gateway, authority }
    }

    /// Opens an HTTP/2 connection.
    pub(crate) async fn open(&self, over_tls: bool) -> FrameClient {
        self.open_with(over_tls, &[]).await
    }

    /// As [`Self::open`], with these SETTINGS.
    pub(crate) async fn open_with(&self, over_tls: bool, values: &[(u16, u32)]) -> FrameClient {
        if over_tls {
            FrameClient::open_tls(self.gateway.https_addr().unwrap(), &self.authority, values).await
        } else {
            FrameClient::open_with(self.gateway.http, values).await
        }
    }

    /// Opens a connection for a client of HTTP/2 that makes its frames itself.
    pub(crate) async fn open_h2(&self, over_tls: bool) -> Box<dyn Stream> {
        if over_tls {
            Box::new(connect_tls(self.gateway.https_addr().unwrap(), &self.authority, b"h2").await)
        } else {
            Box::new(connect(self.gateway.http).await)
        }
    }

    /// Opens a connection for bytes of HTTP/1.1.
    pub(crate) async fn open_http1(&self, over_tls: bool) -> Box<dyn Stream> {
        if over_tls {
            let addr = self.gateway.https_addr().unwrap();
            Box::new(connect_tls(addr, &self.authority, b"http/1.1").await)
        } else {
            Box::new(connect(self.gateway.http).await)
        }
    }
}
