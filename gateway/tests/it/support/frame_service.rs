//! A service that speaks HTTP/2 by hand, so that it can send what no library would.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::frames::{ACK, Frame, HEADERS, PING, PREFACE, SETTINGS, frame, settings, take};

pub(crate) struct FrameService {
    pub(crate) addr: SocketAddr,
    /// Requests that have arrived.
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// Each frame of the gateway and the number of requests so far, to bytes that the service sends.
type Script = dyn Fn(&Frame, usize) -> Vec<u8> + Send + Sync;

impl FrameService {
    /// It announces these SETTINGS, and acknowledges SETTINGS and PING.
    pub(crate) async fn start<S>(values: &'static [(u16, u32)], script: S) -> Self
    where
        S: Fn(&Frame, usize) -> Vec<u8> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (requests, connections) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (count, opened, script) = (Arc::clone(&requests), Arc::clone(&connections), Arc::new(script));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, SeqCst);
                let script: Arc<Script> = Arc::<S>::clone(&script);
                open.spawn(serve(stream, values, script, Arc::clone(&count)));
            }
        });
        Self { addr, requests, connections, task }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

impl Drop for FrameService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    values: &'static [(u16, u32)],
    script: Arc<Script>,
    requests: Arc<AtomicUsize>,
) -> Option<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.ok()?;
    stream.write_all(&settings(values)).await.ok()?;
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut queue) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    // What it sends must not wait for what it reads.
    let writing = tokio::spawn(async move {
        while let Some(bytes) = queue.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let (mut read, mut space) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(count @ 1..) = reader.read(&mut space).await {
        read.extend_from_slice(&space[..count]);
        while let Some(next) = take(&mut read) {
            if [SETTINGS, PING].contains(&next.kind) && next.flags & ACK == 0 {
                let payload = if next.kind == PING { &next.payload[..] } else { b"" };
                answers.send(frame(next.kind, ACK, 0, payload)).ok()?;
            }
            if next.kind == HEADERS {
                requests.fetch_add(1, SeqCst);
            }
            answers.send(script(&next, requests.load(SeqCst))).ok()?;
        }
    }
    writing.abort();
    None
}
