//! WebSocket (RFC 6455), as far as its cost needs it: frames of 64 bytes that come back, one at a time on each connection.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::Args;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::JoinSet,
};

use crate::{
    client::{Answer, Target},
    generator::Seen,
};

/// Closed loop of messages on connections that stay.
#[derive(Debug, Args)]
pub(crate) struct Messages {
    #[command(flatten)]
    target: Target,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: u64,
}

impl Messages {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let client = Rc::new(self.target.client()?);
        let path = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", self.target.path(), self.target.address());
        let handshake = Rc::new(format!("{path}{HANDSHAKE}").into_bytes());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (seen, took) = tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut opening = JoinSet::new();
            for _ in 0..self.connections {
                let (client, handshake) = (Rc::clone(&client), Rc::clone(&handshake));
                opening.spawn_local(async move { client.connect().await?.switched(&handshake).await });
            }
            let mut open = Vec::new();
            while let Some(stream) = opening.join_next().await {
                open.push(stream??);
            }
            let began = Instant::now();
            let end = began + Duration::from_secs(self.seconds);
            let mut users = JoinSet::new();
            for stream in open {
                users.spawn_local(talk(stream, end));
            }
            let mut seen = Seen::default();
            while let Some(user) = users.join_next().await {
                seen.add(user??);
            }
            anyhow::Ok((seen, began.elapsed()))
        })?;
        println!("{}", serde_json::to_string(&seen.load(took))?);
        Ok(())
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, end: Instant) -> anyhow::Result<Seen> {
    // A mask of zeros is one, too.
    let frame =
        [&[FINAL_BINARY, MASKED | CONTENT_BYTES, 0, 0, 0, 0][..], &[b'm'; CONTENT_BYTES as usize]].concat();
    let mut came = [0; 2 + CONTENT_BYTES as usize];
    let mut seen = Seen::default();
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(seen);
        }
        stream.write_all(&frame).await?;
        stream.read_exact(&mut came).await?;
        ensure!(
            came.starts_with(&[FINAL_BINARY, CONTENT_BYTES]) && came.ends_with(b"mm"),
            "another message came"
        );
        seen.record(began.elapsed(), Answer { status: 200, bytes: came.len() });
    }
}

/// The service: sends the content of each frame back.
pub(crate) async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut frame = [0; 6 + CONTENT_BYTES as usize];
    loop {
        stream.read_exact(&mut frame).await?;
        let [_, _, mask @ .., _] = &mut [0; 7];
        mask.copy_from_slice(frame.get(2..6).unwrap_or_default());
        let content = frame.iter().skip(6).zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let answer: Vec<u8> = [FINAL_BINARY, CONTENT_BYTES].into_iter().chain(content).collect();
        stream.write_all(&answer).await?;
    }
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
pub(crate) fn accept(key: &[u8]) -> String {
    let suffix = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, suffix].concat()))
}

/// The example of RFC 6455 §1.3.
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const FINAL_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const CONTENT_BYTES: u8 = 64;
