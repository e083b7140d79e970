//! A service that keeps every byte that it receives, by connection.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The data of one connection.
#[derive(Debug, Default, Clone)]
pub(crate) struct Recorded {
    pub(crate) bytes: Vec<u8>,
    /// The gateway has closed the connection.
    pub(crate) closed: bool,
}

impl Recorded {
    pub(crate) fn ends_with(&self, end: &[u8]) -> bool {
        self.bytes.ends_with(end)
    }
}

/// A service that answers each connection once, after `after` bytes of it, and reads on until it is closed.
pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    connections: Arc<Mutex<Vec<Recorded>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// A service that never answers.
    pub(crate) async fn silent() -> Self {
        Self::answering(usize::MAX, b"").await
    }

    pub(crate) async fn answering(after: usize, answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let at = {
                    let mut log = log.lock().unwrap();
                    log.push(Recorded::default());
                    log.len() - 1
                };
                open.spawn(record(stream, at, Arc::clone(&log), after, answer));
            }
        });
        Self { addr, connections, task }
    }

    pub(crate) fn connections(&self) -> Vec<Recorded> {
        self.connections.lock().unwrap().clone()
    }

    pub(crate) fn all_closed(&self) -> bool {
        self.connections.lock().unwrap().iter().all(|connection| connection.closed)
    }

    /// The number of bytes received, over all connections.
    pub(crate) fn received(&self) -> usize {
        self.connections.lock().unwrap().iter().map(|connection| connection.bytes.len()).sum()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(
    mut stream: TcpStream,
    at: usize,
    log: Arc<Mutex<Vec<Recorded>>>,
    after: usize,
    answer: &'static [u8],
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut answered = false;
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        let bytes = {
            let mut log = log.lock().unwrap();
            log[at].bytes.extend_from_slice(&buffer[..read]);
            log[at].closed = read == 0;
            log[at].bytes.len()
        };
        if read == 0 {
            return;
        }
        if !answered && bytes >= after {
            answered = true;
            let _ = stream.write_all(answer).await;
        }
    }
}
