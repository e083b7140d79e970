//! hyper's client and ours with the same bytes of a service: ours gives the same verdict, or a stricter one for one of the
//! reasons listed here.
//!
//! "The same" is: the status, version, reason and fields of the response; its content, its trailers and whether it is whole; the
//! informational responses before it; and whether the connection may serve another request. Stricter is to refuse a response,
//! to break one off, or not to use a connection again.
//!
//! hyper's client is used as it comes, with the checks of [`FramingReading`] on its responses. The product does not contain it.

use std::{cell::RefCell, future::poll_fn, pin::Pin, pin::pin, rc::Rc, sync::mpsc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self as hypers, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::Runtime,
    task::{AbortHandle, LocalSet},
};

use super::{
    Answered, UpstreamRequest,
    http1::{FailedWrite, Http1},
};
use crate::{
    body::RequestBody,
    headers::{Delimiting, FramingReading, RequestHead, ResponseFraming, remove_hop_by_hop},
    upstream::sink::{self, ResponseSink},
};

/// What a service writes.
#[derive(Debug)]
struct Service<'a> {
    method: Method,
    bytes: &'a [u8],
    /// Where its writes end, besides the end of all.
    cuts: Vec<usize>,
}

/// What a client makes of it.
#[derive(Debug, PartialEq)]
struct Seen {
    informational: Vec<(StatusCode, HeaderMap)>,
    /// `None`: there is no response that may be passed on.
    head: Option<Head>,
    content: Vec<u8>,
    trailers: Option<HeaderMap>,
    is_whole: bool,
    goes_on: bool,
}

#[derive(Debug, PartialEq)]
struct Head {
    status: StatusCode,
    version: Version,
    reason: Option<Vec<u8>>,
    fields: HeaderMap,
    framing: ResponseFraming,
}

/// A response whose content is still to come.
type Received = (Head, Pin<Box<dyn Body<Data = Bytes, Error = ()>>>);

/// A connection of either client.
enum Client {
    Hypers {
        sender: SendRequest<Empty<Bytes>>,
        task: AbortHandle,
        /// The framing of the last response allows another request.
        is_reusable: bool,
    },
    Ours(Http1),
}

#[derive(Debug, Clone, Copy)]
enum Whose {
    Hypers,
    Ours,
}

/// The first byte of `data` chooses the method and the cuts; the rest is what the service writes.
///
/// # Panics
/// Our client is less strict than hyper's, differs from it, or is stricter without a reason.
pub(crate) fn compare(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let method = if choice & 1 == 0 { Method::GET } else { Method::HEAD };
    // Any numbers that differ from choice to choice.
    let spread = |at: usize| (usize::from(choice >> 1) + 1).wrapping_mul(7919 * (at + 1)) % (bytes.len() + 1);
    let mut cuts: Vec<usize> = (0..usize::from(choice >> 1) % 5).map(spread).collect();
    cuts.sort_unstable();
    check(&Service { method, bytes, cuts });
}

fn check(service: &Service<'_>) {
    let (hypers, ours) = ON_A_WORKER.with(|(runtime, tasks)| {
        tasks.block_on(runtime, async {
            (seen(Whose::Hypers, service).await, seen(Whose::Ours, service).await)
        })
    });
    let shown = || {
        format!("{:?} {service:?}\nhyper: {hypers:?}\nours: {ours:?}", String::from_utf8_lossy(service.bytes))
    };
    if hypers == ours {
        return;
    }
    let doubts = Doubts::of(service);
    let Some(head) = &ours.head else {
        assert!(doubts.about_the_start || hypers.head.is_none(), "refused without a reason: {}", shown());
        return;
    };
    assert_eq!(Some(head), hypers.head.as_ref(), "{}", shown());
    assert_eq!(ours.informational, hypers.informational, "{}", shown());
    if ours.is_whole {
        assert!(hypers.is_whole && ours.content == hypers.content, "whole only for us: {}", shown());
        assert_eq!(ours.trailers, hypers.trailers, "{}", shown());
    } else {
        assert!(doubts.about_chunks || !hypers.is_whole, "broken off without a reason: {}", shown());
        let common = ours.content.len().min(hypers.content.len());
        assert_eq!(ours.content[..common], hypers.content[..common], "{}", shown());
    }
    assert!(hypers.goes_on || !ours.goes_on, "used again: {}", shown());
    let is_doubtful = doubts.about_the_connection || doubts.about_chunks;
    assert!(ours.goes_on || !hypers.goes_on || is_doubtful, "not used again without a reason: {}", shown());
}

thread_local! {
    static ON_A_WORKER: (Runtime, LocalSet) = {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        (runtime.expect("a runtime"), LocalSet::new())
    };
}

impl Client {
    async fn open(whose: Whose, io: DuplexStream) -> Self {
        match whose {
            Whose::Hypers => {
                let (sender, connection) = hypers::handshake(TokioIo::new(io)).await.expect("a connection");
                let task = tokio::task::spawn_local(async move {
                    // Its failures reach the request through the sender.
                    let _ = connection.await;
                });
                Self::Hypers { sender, task: task.abort_handle(), is_reusable: true }
            }
            Whose::Ours => Self::Ours(Http1::open(io, FailedWrite::SentNothing, &Rc::default())),
        }
    }

    /// Sends a request without content. `None`: there is no response that may be passed on.
    async fn send(&mut self, method: &Method, sink: ResponseSink) -> Option<Received> {
        match self {
            Self::Hypers { sender, is_reusable, .. } => {
                *is_reusable = false;
                let response = send_by_hyper(sender, request(method), &sink).await?;
                let framing = framing(&response)?;
                *is_reusable = framing.reusable;
                let (mut head, body) = response.into_parts();
                remove_hop_by_hop(&mut head.headers);
                Some((Head::of(head, framing), Box::pin(body.map_err(|_| ()))))
            }
            Self::Ours(connection) => {
                let head = RequestHead::plain(method, "/", Delimiting::Nothing);
                let mut request = UpstreamRequest::new(head, RequestBody::default(), HeaderMap::new());
                let sent = connection.send(&mut request, Some(sink)).await;
                let Ok(Answered { response, framing }) = sent else { return None };
                let (head, body) = response.into_parts();
                Some((Head::of(head, framing), Box::pin(body.map_err(|_| ()))))
            }
        }
    }

    /// Whether the connection may serve another request after one that was sent and answered as a whole.
    fn finish(&mut self) -> bool {
        match self {
            Self::Hypers { sender, is_reusable, .. } => *is_reusable && !sender.is_closed(),
            Self::Ours(connection) => connection.finish(true),
        }
    }

    /// Whether the connection may take a request now.
    fn is_usable(&self) -> bool {
        match self {
            Self::Hypers { sender, .. } => !sender.is_closed() && sender.is_ready(),
            Self::Ours(connection) => !connection.is_closed(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Self::Hypers { task, .. } = self {
            task.abort();
        }
    }
}

/// hyper reports informational responses to a callback. As the gateway does, those are passed on that HTTP/1.1 has, except for
/// 100, which answers an expectation that the gateway has met itself.
async fn send_by_hyper(
    sender: &mut SendRequest<Empty<Bytes>>,
    mut request: Request<Empty<Bytes>>,
    sink: &ResponseSink,
) -> Option<Response<hyper::body::Incoming>> {
    let (found, informational) = mpsc::channel();
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() != StatusCode::CONTINUE && response.version() == Version::HTTP_11 {
            let _ = found.send((response.status(), response.headers().clone()));
        }
    });
    let sent = sender.send_request(request).await;
    for (status, fields) in informational.try_iter() {
        sink.send(status, fields);
    }
    sent.ok()
}

/// hyper checks only the last Transfer-Encoding line, and contradicting lengths; and it takes 101 for the response.
fn framing<B>(response: &Response<B>) -> Option<ResponseFraming> {
    let mut reading = FramingReading::default();
    for (name, value) in response.headers() {
        reading.read(name, value.as_bytes(), response.version()).ok()?;
    }
    let status = response.status();
    (status != StatusCode::SWITCHING_PROTOCOLS).then(|| reading.framing(status))
}

impl Head {
    fn of(head: response::Parts, framing: ResponseFraming) -> Self {
        let reason: Option<&hyper::ext::ReasonPhrase> = head.extensions.get();
        Self {
            status: head.status,
            version: head.version,
            reason: reason.map(|reason| reason.as_bytes().to_vec()),
            fields: head.headers,
            framing,
        }
    }
}

/// One exchange with a connection; and, if it may serve another request, another one.
async fn seen(whose: Whose, service: &Service<'_>) -> Seen {
    let (ours, mut theirs) = duplex(1 << 18);
    let mut client = Client::open(whose, ours).await;
    let (sink, recorded) = sink::recorded();
    let seen = RefCell::new(Seen {
        informational: Vec::new(),
        head: None,
        content: Vec::new(),
        trailers: None,
        is_whole: false,
        goes_on: false,
    });
    {
        let exchange = async {
            if let Some(received) = client.send(&service.method, sink).await {
                read(received, &seen).await;
            }
            let is_whole = seen.borrow().is_whole;
            seen.borrow_mut().goes_on = is_whole && client.finish();
        };
        let mut exchange = pin!(exchange);
        let mut is_over = false;
        {
            let mut serve = pin!(serve(&mut theirs, service));
            let both = poll_fn(|cx| {
                is_over = is_over || exchange.as_mut().poll(cx).is_ready();
                serve.as_mut().poll(cx)
            });
            both.await;
        }
        if !is_over {
            theirs.shutdown().await.expect("memory");
            exchange.await;
        }
    }
    settle().await;
    let mut seen = seen.into_inner();
    seen.informational = recorded.take();
    // What is closed after all, or by what came last.
    seen.goes_on = seen.goes_on && client.is_usable();
    if seen.goes_on {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond";
        let next = Service { method: Method::GET, bytes: answer, cuts: Vec::new() };
        let serve = serve(&mut theirs, &next);
        let (received, ()) = tokio::join!(client.send(&Method::GET, sink::recorded().0), serve);
        let (_, body) = received.expect("a second response");
        assert_eq!(body.collect().await.expect("its content").to_bytes(), "second");
    }
    seen
}

fn request(method: &Method) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method.clone();
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("a.test"));
    request
}

async fn read((head, mut body): Received, seen: &RefCell<Seen>) {
    seen.borrow_mut().head = Some(head);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        match frame.into_data() {
            Ok(data) => seen.borrow_mut().content.extend_from_slice(&data),
            Err(frame) => seen.borrow_mut().trailers = frame.into_trailers().ok(),
        }
    }
    seen.borrow_mut().is_whole = true;
}

/// Waits for the request, and writes.
async fn serve(stream: &mut DuplexStream, service: &Service<'_>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a request"));
    }
    let mut from = 0;
    for &to in service.cuts.iter().chain([&service.bytes.len()]) {
        if stream.write_all(&service.bytes[from..to]).await.is_err() {
            return;
        }
        from = to;
        settle().await;
    }
}

/// Lets everything else run until it waits.
async fn settle() {
    for _ in 0..12 {
        tokio::task::yield_now().await;
    }
}

/// Reasons to be stricter, found by another reading of the bytes.
#[derive(Debug, Default)]
struct Doubts {
    /// Empty lines stand before a status line, where RFC 9112 §2.2 allows them only to requests.
    about_the_start: bool,
    /// A line of a head ends with LF alone, or a Connection line has bytes that are not ASCII.
    about_the_connection: bool,
    /// A size of more than 16 digits, a control character in an extension, or a bare LF in a trailer.
    about_chunks: bool,
}

impl Doubts {
    fn of(service: &Service<'_>) -> Self {
        let mut doubts = Self::default();
        let mut rest = service.bytes;
        loop {
            doubts.about_the_start |= rest.first().is_some_and(|byte| b"\r\n".contains(byte));
            let mut lines = [httparse::EMPTY_HEADER; 128];
            let mut response = httparse::Response::new(&mut lines);
            let Ok(httparse::Status::Complete(end)) = response.parse(rest) else { return doubts };
            let (head, behind) = rest.split_at(end);
            let is_informational = matches!(response.code, Some(100..=199));
            let of_connection = |line: &&httparse::Header<'_>| line.name.eq_ignore_ascii_case("connection");
            doubts.about_the_connection |=
                response.headers.iter().filter(of_connection).any(|line| !line.value.is_ascii());
            let lfs = head.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            doubts.about_the_connection |= lfs.into_iter().any(|(at, _)| at == 0 || head[at - 1] != b'\r');
            if !is_informational {
                doubts.about_chunks = has_doubtful_chunks(behind);
                return doubts;
            }
            rest = behind;
        }
    }
}

/// As lenient as can be in all but what is looked for.
fn has_doubtful_chunks(mut bytes: &[u8]) -> bool {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = bytes.split_at(end + 1);
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let line = line.trim_ascii_end();
        if digits > 16 || line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return true;
        }
        let size = std::str::from_utf8(&line[..digits.min(line.len())])
            .ok()
            .map(|digits| u64::from_str_radix(digits, 16));
        match size {
            Some(Ok(0)) => {
                return rest
                    .iter()
                    .enumerate()
                    .any(|(at, byte)| *byte == b'\n' && (at == 0 || rest[at - 1] != b'\r'));
            }
            Some(Ok(size)) => {
                let Some(behind) =
                    usize::try_from(size).ok().and_then(|size| rest.get(size.checked_add(2)?..))
                else {
                    return false;
                };
                bytes = behind;
            }
            _ => return false,
        }
    }
    // A line without its end.
    bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() > 16
        || bytes.iter().any(|byte| byte.is_ascii_control() && !b"\t\r".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every cut in two, and every truncation.
    fn check_everywhere(method: &Method, bytes: &[u8]) {
        for cut in 0..bytes.len() {
            check(&Service { method: method.clone(), bytes, cuts: vec![cut] });
            check(&Service { method: method.clone(), bytes: &bytes[..cut], cuts: Vec::new() });
        }
        check(&Service { method: method.clone(), bytes, cuts: (1..bytes.len()).collect() });
    }

    #[test]
    fn every_response_of_the_table_is_seen_alike_wherever_it_is_cut_or_ends() {
        let cases = include_str!("../../../tests/cases/http1-framing.json");
        let cases: serde_json::Value = serde_json::from_str(cases).unwrap();
        let texts =
            cases["responses"].as_array().unwrap().iter().filter_map(|case| case["response"].as_str());
        let mut checked = 0;
        for text in texts {
            let text = text.trim_end_matches("<FIN>").trim_end_matches("<RST>");
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
            for method in [Method::GET, Method::HEAD] {
                check_everywhere(&method, &bytes);
            }
            checked += 1;
        }
        assert!(checked > 15, "{checked}");
    }

    #[test]
    fn what_the_table_leaves_out_is_seen_alike_too() {
        let head = "HTTP/1.1 200 OK\r\n";
        let chunked = "transfer-encoding: chunked\r\n\r\n";
        for text in [
            format!("\r\n{head}content-length: 2\r\n\r\nok"),
            format!("{head}content-length: 2\n\r\nok"),
            format!("{head}connection: \u{e9}, close\r\ncontent-length: 2\r\n\r\nok"),
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\nok".to_owned(),
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 102 A\r\n\r\nHTTP/1.1 103 B\r\nlink: a\r\n\r\nHTTP/1.1 204 C\r\n\r\n".to_owned(),
            "HTTP/1.1 103 B\r\ncontent-length: 3\r\n\r\nHTTP/1.1 200 C\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "HTTP/1.1 101 S\r\nupgrade: x\r\n\r\nab".to_owned(),
            "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            format!("{head}{chunked}2;a=\"b\"\r\nok\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n"),
            format!("{head}{chunked}00000000000000002\r\nok\r\n0\r\n\r\n"),
            format!("{head}{chunked}2;\u{1}\r\nok\r\n0\r\n\r\n"),
            format!("{head}{chunked}2\r\nok\r\n0\r\nx: y\nz: a\r\n\r\n"),
            format!("{head}{chunked}2\r\nok\r\n0\r\nx : y\r\n\r\n"),
            format!("{head}{chunked}2\r\nok\r\n0\r\n\r\nHTTP/1.1"),
            format!("{head}{chunked}2\r\nokay\r\n0\r\n\r\n"),
            format!("{head}{chunked}2\nok\r\n0\r\n\r\n"),
            format!("{head}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            format!("{head}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            format!("{head}content-length: 18446744073709551615\r\n\r\nok"),
        ] {
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            for method in [Method::GET, Method::HEAD] {
                check_everywhere(&method, &bytes);
            }
        }
    }
}
