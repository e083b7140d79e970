//! One healthy instance, and others that do something else with every connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{Rng, RngExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

pub(crate) struct Services {
    pub(crate) addrs: Vec<SocketAddr>,
    moods: Vec<Arc<Mutex<Mood>>>,
    truncated: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Healthy,
    /// Closes each connection at once, as a port does that refuses.
    Refuses,
    Hangs,
    Resets,
    /// A byte now and then.
    Trickles,
    /// Half of the content.
    Truncates,
}

const OTHERS: [Mood; 5] = [Mood::Refuses, Mood::Hangs, Mood::Resets, Mood::Trickles, Mood::Truncates];

/// The first one is healthy and stays so. Another address is one at which nothing listens.
pub(crate) async fn start(rng: &mut impl Rng) -> Services {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut services =
        Services { addrs: vec![closed], moods: Vec::new(), truncated: Arc::default(), tasks: Vec::new() };
    services.add(Mood::Healthy).await;
    for mood in OTHERS {
        services.add(mood).await;
    }
    services.shuffle(rng);
    services
}

impl Services {
    async fn add(&mut self, mood: Mood) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.addrs.push(listener.local_addr().unwrap());
        let (mood, truncated) = (Arc::new(Mutex::new(mood)), Arc::clone(&self.truncated));
        self.moods.push(Arc::clone(&mood));
        self.tasks.push(tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, Arc::clone(&mood), Arc::clone(&truncated)));
                while open.try_join_next().is_some() {}
            }
        }));
    }

    /// All instances except the healthy one do something else from now on.
    pub(crate) fn shuffle(&self, rng: &mut impl Rng) {
        for mood in &self.moods[1..] {
            *mood.lock().unwrap() = OTHERS[rng.random_range(0..OTHERS.len())];
        }
    }

    /// Responses that were broken off after their head.
    pub(crate) fn truncated(&self) -> u64 {
        self.truncated.load(SeqCst)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Answers with the path of the request; `/large/…` gets much more.
async fn serve(mut stream: TcpStream, mood: Arc<Mutex<Mood>>, truncated: Arc<AtomicU64>) {
    if *mood.lock().unwrap() == Mood::Refuses {
        return;
    }
    let mut pending = Vec::new();
    while let Some(path) = next_request(&mut stream, &mut pending).await {
        let now = *mood.lock().unwrap();
        let content = if path.starts_with("/large/") { vec![b'x'; 2 << 20] } else { path.into_bytes() };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", content.len());
        let answer = [head.as_bytes(), &content].concat();
        let written = match now {
            Mood::Healthy => stream.write_all(&answer).await,
            Mood::Refuses => return,
            Mood::Hangs => return tokio::time::sleep(Duration::from_secs(3)).await,
            Mood::Resets => return reset(&stream),
            Mood::Trickles => trickle(&mut stream, &answer).await,
            Mood::Truncates => {
                truncated.fetch_add(1, SeqCst);
                let _ = stream.write_all(&answer[..head.len() + content.len() / 2]).await;
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// Drops the bytes that were not read, and resets the connection.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn trickle(stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    for byte in answer.iter().take(20) {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    stream.write_all(&answer[answer.len().min(20)..]).await
}

/// The path of the next request, whose content is read and dropped. `None`: there is no further request.
async fn next_request(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<String> {
    let mut buffer = vec![0; 16 * 1024];
    let end = loop {
        if let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => pending.extend_from_slice(&buffer[..read]),
        }
    };
    let head = String::from_utf8(pending.drain(..end).collect()).ok()?.to_ascii_lowercase();
    let path = head.split(' ').nth(1)?.to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut left: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    let known = left.min(pending.len());
    pending.drain(..known);
    left -= known;
    while left > 0 {
        let part = left.min(buffer.len());
        match stream.read(&mut buffer[..part]).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => left -= read,
        }
    }
    Some(path)
}
