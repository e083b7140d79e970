//! The attackers that need more than plain HTTP: tunnels, headers of the PROXY protocol, names of certificates.

use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    kinds::{Kind, open},
    rig::Target,
};

/// Opens a tunnel and leaves it: to a service that says nothing, or to one that sends a megabyte, of which nothing is read.
pub(super) async fn tunnel(kind: Kind, target: &Target, over_tls: bool) -> Duration {
    let tls = over_tls.then_some(&target.tls);
    let Ok(mut stream) = open(target.listener(over_tls), tls).await else { return Duration::ZERO };
    let began = Instant::now();
    let path = if kind == Kind::IdleTunnel { "idle" } else { "pouring" };
    let head = format!("GET /{path} HTTP/1.1\r\nhost: gw\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    if kind == Kind::StalledTunnel {
        // What fits into the buffers of the kernel is not the gateway's; it ends the tunnel all the same.
        tokio::time::sleep(STALLS).await;
    }
    let mut space = vec![0; 64 * 1024];
    while stream.read(&mut space).await.is_ok_and(|read| read > 0) {}
    began.elapsed()
}

/// Says that it speaks for somebody, though nobody trusts it.
pub(super) async fn stranger(target: &Target) -> Duration {
    let Ok(mut stream) = TcpStream::connect(target.proxied).await else { return Duration::ZERO };
    let began = Instant::now();
    let _ = stream
        .write_all(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /silent/x HTTP/1.1\r\nhost: gw\r\n\r\n")
        .await;
    while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    began.elapsed()
}

/// Handshakes with names that nobody has, each of which is another one.
pub(super) async fn names(target: &Target) -> Duration {
    let began = Instant::now();
    for number in 0..NAMES {
        let name = format!("{}.{number}.test", "long-label".repeat(6));
        let Ok(stream) = TcpStream::connect(target.https).await else { continue };
        // The certificate is for another name, so the client gives up when it sees it.
        let _refused = target.tls.connect(ServerName::try_from(name).unwrap(), stream).await;
    }
    began.elapsed()
}

/// Longer than `timeout.tunnel` of the rig.
const STALLS: Duration = Duration::from_millis(1500);
const NAMES: usize = 5;
