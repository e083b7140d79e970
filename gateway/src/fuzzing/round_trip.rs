//! HTTP/1 through the gateway: bytes of a client, a worker in memory, and a strict reader as the service. The gateway must send a
//! sequence of requests with one reading each, and only requests that the client made.

use std::{cell::RefCell, path::Path, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::LocalOptions,
};

use super::strict::{self, Message, Rest};
use crate::{
    connection,
    testing::{ANSWER, MESSAGE_BYTES_MAX, Prepared, worker_with},
};

thread_local! {
    static GATEWAY: Prepared = Prepared::new(ROUTES, Path::new("")).expect("a configuration that is right");
}

/// Checks that the service receives well-formed requests from any bytes of a client. If a strict reader understands the client's
/// bytes, the requests are some of the client's, in their order and with their bodies, and the responses are well-formed, too.
///
/// # Panics
/// The property is violated.
pub fn round_trip(data: &[u8]) {
    // A request with `Expect` waits for an interim response before it sends its body; `PRI` begins HTTP/2.
    if data.len() > INPUT_BYTES_MAX || data.starts_with(b"PRI") || contains_expect(data) {
        return;
    }
    let received: Rc<RefCell<Vec<u8>>> = Rc::default();
    let answer = GATEWAY.with(|gateway| exchange(gateway, data, &received));

    let (sent_on, end) = strict::requests(&received.borrow());
    assert!(!matches!(end, Rest::Malformed(_)), "the service got {end:?} of {}", data.escape_ascii());

    let (made, rest) = strict::requests(data);
    match rest {
        Rest::Malformed(_) => return,
        Rest::Nothing => assert_eq!(end, Rest::Nothing, "whole requests stay whole: {}", data.escape_ascii()),
        Rest::Partial => {}
    }
    let mut left = made.iter();
    for request in &sent_on {
        let is_this = |one: &Message| (one.first_word(), &one.body) == (request.first_word(), &request.body);
        assert!(left.any(is_this), "{request:?} is none of the client's: {}", data.escape_ascii());
    }
    let methods: Vec<&str> = made.iter().map(Message::first_word).collect();
    let (responses, rest) = strict::responses(&answer, &methods);
    assert_eq!(rest, Rest::Nothing, "responses are whole: {}", answer.escape_ascii());
    let last = responses.iter().filter(|response| !response.status().starts_with('1')).count();
    assert!(last <= made.len() + 1, "one response for a request, and one for what is not whole");
    let from_service = responses.iter().filter(|response| response.status() == "200").count();
    assert!(from_service <= sent_on.len(), "a response of the service to each of its requests");
}

/// Returns the bytes that the client gets. All tasks run on this thread and in memory, so when all of them are idle, no more bytes
/// come.
fn exchange(gateway: &Prepared, data: &[u8], received: &Rc<RefCell<Vec<u8>>>) -> Vec<u8> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(async {
        let serve = |stream| answer_each(stream, Rc::clone(received));
        let worker = worker_with(&gateway.setup, serve);
        let (mut client, ours) = duplex(MESSAGE_BYTES_MAX);
        connection::spawn_cleartext(ours, ([127, 0, 0, 1], 40_000).into(), worker);
        let mut answer = Vec::new();
        if client.write_all(data).await.is_ok() {
            while let Some(1..) = when_not_quiet(client.read_buf(&mut answer)).await {}
        }
        answer
    })
}

/// The result of the read. `None`: no bytes come.
async fn when_not_quiet(read: impl Future<Output = std::io::Result<usize>>) -> Option<usize> {
    let quiet = async {
        for _ in 0..QUIET_TURNS {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        read = read => read.ok(),
        () = quiet => None,
    }
}

/// The service, which responds to each request that is whole.
async fn answer_each(mut stream: DuplexStream, received: Rc<RefCell<Vec<u8>>>) {
    let (mut bytes, mut answered) = (Vec::new(), 0);
    loop {
        let before = bytes.len();
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
        received.borrow_mut().extend_from_slice(&bytes[before..]);
        let (requests, _) = strict::requests(&bytes);
        for request in requests.iter().skip(answered) {
            let (head, body) = ANSWER.split_at(ANSWER.find("\r\n\r\n").map_or(0, |at| at + 4));
            let body = if request.first_word() == "HEAD" { "" } else { body };
            if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                return;
            }
        }
        answered = requests.len();
    }
}

fn contains_expect(data: &[u8]) -> bool {
    data.to_ascii_lowercase().windows(EXPECT.len()).any(|window| window == EXPECT)
}

const ROUTES: &str = "version: 1\nroutes:\n  - {path: /**, service: items}\n\
    services: {items: {hosts: [\"192.0.2.1:80\"]}}\naccess_log: {format: off}\n";
const EXPECT: &[u8] = b"expect";
/// Largest input in bytes. It is less than the buffers in memory, so that no side waits for the other.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// Turns of the event loop after which the tasks are idle: more than an exchange needs between two bytes for the client.
const QUIET_TURNS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_request_reaches_the_service_and_its_response_the_client() {
        let received: Rc<RefCell<Vec<u8>>> = Rc::default();
        let request = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let answer = GATEWAY.with(|gateway| exchange(gateway, request, &received));
        let (sent_on, rest) = strict::requests(&received.borrow());
        assert_eq!((sent_on.len(), rest), (1, Rest::Nothing), "{}", answer.escape_ascii());
        let (responses, rest) = strict::responses(&answer, &["POST"]);
        assert_eq!((responses.len(), rest), (1, Rest::Nothing));
        assert_eq!(responses[0].status(), "200");
    }
}
