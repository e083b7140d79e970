//! An answer to the control plane (Consul, keys of an issuer) that is cut off is not used, whatever it contains: each time, the
//! part that came is valid JSON.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millgate_registry::{HttpClient, HttpOptions, TlsOptions};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    authority::Authority,
    client::{get, send},
    eventually,
    gateway::TestGateway,
};

/// The key of RFC 7517, appendix A.1.
const BODY: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

/// ES256 by key `1`, until 2100, and with a signature of ones: 401 if that key is known, 503 if no key is.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhbm4iLCJhdWQiOiJhcGkiLCJleHAiOjQxMDI0NDQ4MDB9.AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ";

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// Fewer bytes than its length, and the connection ends.
    Short,
    /// No last chunk, and the connection ends.
    Unfinished,
    /// Neither length nor chunks; the connection ends, TLS with its own end.
    Closed,
    /// The same without TLS's own end.
    Torn,
    /// HTTP/2: DATA, and RST_STREAM(NO_ERROR) instead of END_STREAM.
    Reset,
}

impl End {
    fn http1(self) -> String {
        let (length, body) = (BODY.len(), BODY);
        match self {
            Self::Whole => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"),
            Self::Short => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", length + 1),
            Self::Unfinished => {
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n")
            }
            Self::Closed | Self::Torn | Self::Reset => format!("HTTP/1.1 200 OK\r\n\r\n{body}"),
        }
    }

    fn http2(self) -> Vec<u8> {
        let length = u8::try_from(BODY.len()).unwrap();
        let ends = u8::from(self == Self::Whole);
        // SETTINGS, its acknowledgement, HEADERS with `:status: 200`, DATA.
        let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
        frames.extend([0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]);
        frames.extend([0, 0, length, 0, ends, 0, 0, 0, 1]);
        frames.extend(BODY.as_bytes());
        if self == Self::Reset {
            frames.extend([0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        }
        frames
    }
}

/// Answers one request on each connection, and counts them.
async fn server(tls: Option<ServerConfig>, end: End) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/keys", listener.local_addr().unwrap());
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                match tls {
                    Some(tls) => answer(tls.accept(stream).await.unwrap(), end).await,
                    None => answer(stream, end).await,
                }
            });
        }
    });
    (url, asked)
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, end: End) {
    let mut asked = Vec::new();
    let is_http2 = || end == End::Reset;
    while stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {
        let is_whole = if is_http2() { has_headers(&asked) } else { asked.ends_with(b"\r\n\r\n") };
        if is_whole {
            break;
        }
    }
    let bytes = if is_http2() { end.http2() } else { end.http1().into_bytes() };
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    match end {
        // The connection stays.
        End::Reset => while stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {},
        End::Whole | End::Closed => stream.shutdown().await.unwrap(),
        End::Short | End::Unfinished | End::Torn => {}
    }
}

/// Is there a HEADERS frame after the preface?
fn has_headers(asked: &[u8]) -> bool {
    let mut rest = asked.get(24..).unwrap_or_default();
    while let [a, b, c, kind, ..] = rest {
        if *kind == 1 {
            return true;
        }
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    false
}

#[tokio::test]
async fn no_answer_is_whole_that_has_not_come_to_its_end() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let tls = TlsOptions { ca_file: Some(dir.path().join("ca.pem")), ..TlsOptions::default() };
    let client = HttpClient::new(&HttpOptions { tls }).unwrap();
    for end in [End::Whole, End::Short, End::Unfinished, End::Closed, End::Torn, End::Reset] {
        for over_tls in [false, true] {
            let config = over_tls.then(|| {
                let mut config = authority.server("127.0.0.1");
                config.alpn_protocols = if end == End::Reset { vec![b"h2".to_vec()] } else { Vec::new() };
                config
            });
            // HTTP/2 is spoken over TLS only; and in clear text a closed connection is an end (RFC 9112 §6.3).
            if !over_tls && matches!(end, End::Reset | End::Torn) {
                continue;
            }
            let (url, _) = server(config, end).await;
            let got = client.get(&url, Duration::from_secs(10), 1000).await;
            let is_whole = matches!(end, End::Whole | End::Closed);
            assert_eq!(got.is_ok(), is_whole, "{end:?}, TLS: {over_tls}: {got:?}");
        }
    }
}

#[tokio::test]
async fn keys_that_came_in_part_are_no_keys() {
    for (end, code) in [(End::Whole, 401), (End::Short, 503), (End::Unfinished, 503)] {
        let (url, asked) = server(None, end).await;
        let config = format!(
            "auth: {{main: {{jwks: \"{url}\", audience: api}}}}\nroutes:\n  - {{path: /**, service: one, auth: main}}\n\
             services: {{one: {{hosts: [\"127.0.0.1:9\"]}}}}\n"
        );
        let gateway = TestGateway::start(&config).await;
        let ask = async || {
            let mut request = get("/x");
            request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
            send(gateway.http, request).await.status().as_u16()
        };
        if end != End::Whole {
            eventually("it is asked again, after an answer", async || asked.load(Ordering::SeqCst) >= 2)
                .await;
            assert_eq!(ask().await, code, "{end:?}");
        }
        eventually("the first fetch is over", async || ask().await == code).await;
    }
}
