//! Attempts over HTTP/1.1 that end in the middle, and requests that are answered in the middle, over real connections.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{DEADLINE, gateway::TestGateway};

/// One route to one service.
async fn gateway(listener: &TcpListener) -> TestGateway {
    let addr = listener.local_addr().unwrap();
    let config = format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s, body_limit: 64MiB, retry: {{methods: [PUT]}}}}\n\
         services: {{s: {{hosts: [\"{addr}\"], breaker: off, outlier: off}}}}\n"
    );
    TestGateway::start(&config).await
}

/// A head, and the content whose length it has.
async fn read_message(stream: &mut TcpStream) -> String {
    let mut message = Vec::new();
    while !message.ends_with(b"\r\n\r\n") {
        message.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(message).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut content = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut content).await.unwrap();
    head + std::str::from_utf8(&content).unwrap()
}

/// Without the field that each request has of its own.
fn without_id(message: &str) -> String {
    message.split_inclusive("\r\n").filter(|line| !line.starts_with("x-request-id: ")).collect()
}

const OTHER: &str = "GET /another HTTP/1.1\r\nhost: gw\r\n\r\n";
const REQUEST: &str =
    "PUT /items/7?x=1 HTTP/1.1\r\nhost: gw\r\nx-a: 1\r\ncontent-length: 11\r\n\r\nhello world";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A connection that has served another request closes after so many bytes of the next one. What a new connection gets.
async fn what_follows(listener: &TcpListener, client: &mut TcpStream, takes: usize) -> String {
    client.write_all(OTHER.as_bytes()).await.unwrap();
    let (mut first, _) = listener.accept().await.unwrap();
    assert!(read_message(&mut first).await.starts_with("GET /another "));
    first.write_all(ANSWER).await.unwrap();
    assert!(read_message(client).await.starts_with("HTTP/1.1 200 "));
    client.write_all(REQUEST.as_bytes()).await.unwrap();
    first.read_exact(&mut vec![0; takes]).await.unwrap();
    drop(first);
    let (mut second, _) = listener.accept().await.unwrap();
    let message = read_message(&mut second).await;
    second.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert!(read_message(client).await.starts_with("HTTP/1.1 200 "));
    message
}

#[tokio::test]
async fn an_attempt_that_ends_at_any_byte_is_followed_by_the_same_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway(&listener).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let whole = tokio::time::timeout(DEADLINE, what_follows(&listener, &mut client, 0)).await.unwrap();
    assert!(
        whole.starts_with("PUT /items/7?x=1 HTTP/1.1\r\n") && whole.ends_with("\r\n\r\nhello world"),
        "{whole}"
    );
    for takes in 1..whole.len() {
        let following = what_follows(&listener, &mut client, takes);
        let message = tokio::time::timeout(DEADLINE, following).await.unwrap();
        assert_eq!(without_id(&message), without_id(&whole), "{takes} bytes of the first attempt were read");
    }
}

/// More than all buffers between a client and a service hold.
const BYTES: usize = 24 * 1024 * 1024;

#[tokio::test]
async fn an_upload_goes_on_while_nothing_takes_its_early_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway(&listener).await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        // An answer to nothing would not be taken.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let (mut reads, mut writes) = stream.into_split();
        let answer = async {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n");
            writes.write_all(head.as_bytes()).await.unwrap();
            writes.write_all(&vec![b'a'; BYTES]).await.unwrap();
        };
        let take = async {
            let mut buffer = vec![0; 1 << 16];
            let mut taken = 0;
            while taken < BYTES {
                let read = reads.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the upload ends at {taken}");
                taken += read;
            }
        };
        tokio::join!(answer, take);
    };
    let ask = async {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        let head = format!("POST /items HTTP/1.1\r\nhost: gw\r\ncontent-length: {BYTES}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'u'; BYTES]).await.unwrap();
        let mut answer = vec![0; BYTES];
        client.read_exact(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"aaaa"));
    };
    let both = async { tokio::join!(serve, ask) };
    tokio::time::timeout(DEADLINE, both).await.expect("both go on");
}
