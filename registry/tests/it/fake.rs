//! A server that answers what a test tells it to, byte for byte, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// 200 with these header lines and this body.
    Ok(String, String),
    Status(u16, String, String),
    /// Bytes as they are.
    Raw(String),
    /// Reads the request and stays silent.
    Silence,
}

impl Reply {
    pub(crate) fn list(index: u64, body: impl Into<String>) -> Self {
        Self::Ok(format!("X-Consul-Index: {index}\r\nX-Consul-Knownleader: true\r\n"), body.into())
    }
}

/// Runs until it is dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Fake {
    /// `script` gets the number of the request, from 0, and its head.
    pub(crate) async fn start(script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let script = Arc::new(script);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { url, requests, task }
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(mut socket: TcpStream, script: Arc<S>, seen: Arc<Mutex<Vec<String>>>)
where
    S: Fn(usize, &str) -> Reply,
{
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    // The witnesses for an empty answer: as a Consul without ACLs and without services. Those are not counted.
    let witness = match head.split(" HTTP/").next() {
        Some("GET /v1/catalog/services") => Some(Reply::list(1, "{}")),
        Some("POST /v1/internal/acl/authorize") => {
            Some(Reply::Status(401, String::new(), "ACL support disabled".to_owned()))
        }
        _ => None,
    };
    if let Some(witness) = witness {
        return reply(&mut socket, witness).await;
    }
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(head.clone());
        seen.len() - 1
    };
    reply(&mut socket, script(number, &head)).await;
}

async fn reply(socket: &mut TcpStream, reply: Reply) {
    let answer = match reply {
        Reply::Ok(headers, body) => whole(200, &headers, &body),
        Reply::Status(status, headers, body) => whole(status, &headers, &body),
        Reply::Raw(bytes) => bytes,
        Reply::Silence => {
            // Until the other side gives up.
            let _closed = socket.read(&mut [0]).await;
            return;
        }
    };
    // The client may be gone; then there is nobody to tell.
    let _written = socket.write_all(answer.as_bytes()).await;
    let _closed = socket.shutdown().await;
}

fn whole(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
