//! gRPC checks: one call of `grpc.health.v1.Health/Check`. Request and answer have one field each, so they are
//! written and read here.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::server::probe::dial::{self, Stream};
use crate::store::ProbeDefinition;

/// `Err` is the check's output, in the words of Go's gRPC.
pub(super) async fn check(target: &str, tls: bool, probe: &ProbeDefinition) -> Result<(), String> {
    let (server, service) = target.split_once('/').unwrap_or((target, ""));
    let call = async {
        let stream = connect(server, tls, probe.tls_skip_verify).await.map_err(|text| {
            unavailable(&format!("connection error: desc = {:?}", format!("transport: {text}")))
        })?;
        call(stream, server, service, tls).await
    };
    match tokio::time::timeout(probe.timeout, call).await {
        Ok(result) => result,
        Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()),
    }
}

async fn connect(server: &str, tls: bool, skip_verify: bool) -> Result<Box<dyn Stream>, String> {
    let stream = dial::tcp(server).await.map_err(|text| format!("Error while dialing {text}"))?;
    if !tls {
        return Ok(Box::new(stream));
    }
    let name = dial::split(server).map_or(server, |(host, _)| host);
    let stream = dial::tls(stream, name, skip_verify, &[b"h2"]).await;
    stream.map_err(|text| format!("authentication handshake failed: {text}"))
}

async fn call(stream: Box<dyn Stream>, server: &str, service: &str, tls: bool) -> Result<(), String> {
    let closed = |_: hyper::Error| unavailable("connection closed");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(closed)?;
    // Ends when the sender and the answer's body are gone.
    tokio::spawn(connection);
    let scheme = if tls { "https" } else { "http" };
    let uri = format!("{scheme}://{server}/grpc.health.v1.Health/Check");
    let mut request = http::Request::new(Full::new(question(service)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.parse().map_err(|_| unavailable("the address is not valid"))?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    let response = sender.send_request(request).await.map_err(closed)?;
    judge(response).await
}

async fn judge(response: http::Response<Incoming>) -> Result<(), String> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        let text = format!("unexpected HTTP status code received from server: {}", head.status);
        return Err(format!("rpc error: code = Unknown desc = {text}"));
    }
    // An answer without a message has its status in its head.
    if let Some(failure) = failure(&head.headers) {
        return Err(failure);
    }
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| format!("rpc error: code = Internal desc = {error}"))?;
    // The library takes a reset with NO_ERROR for a clean end; a complete answer ends with its status.
    let Some(trailers) = body.trailers() else { return Err(CUT.to_owned()) };
    if let Some(failure) = failure(trailers) {
        return Err(failure);
    }
    if serving(&body.to_bytes()) { Ok(()) } else { Err(UNHEALTHY.to_owned()) }
}

/// `None` if the status is absent or OK.
fn failure(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code: usize = text("grpc-status")?.parse().unwrap_or(2);
    let message = text("grpc-message").unwrap_or_default();
    let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy();
    let name = CODES.get(code).copied().unwrap_or("Unknown");
    (code != 0).then(|| format!("rpc error: code = {name} desc = {message}"))
}

fn unavailable(text: &str) -> String {
    format!("rpc error: code = Unavailable desc = {text}")
}

/// `HealthCheckRequest { service }`: field 1, a string; without it if it is empty.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0A);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    // Not compressed.
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(message: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        message.put_u8(u8::try_from(number & 0x7F).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    message.put_u8(u8::try_from(number).unwrap_or_default());
}

/// `HealthCheckResponse { status }`: field 1, an enumeration of which 1 is SERVING.
fn serving(framed: &[u8]) -> bool {
    let mut message = framed.get(5..).unwrap_or_default();
    while let [tag, status, rest @ ..] = message {
        if *tag == 0x08 {
            return *status == 1;
        }
        message = rest;
    }
    false
}

/// The names of gRPC's status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CUT: &str = "rpc error: code = Internal desc = server closed the stream without sending trailers";
const UNHEALTHY: &str = "gRPC application didn't report service healthy";
/// The answer is seven bytes.
const ANSWER_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_names_the_service_if_there_is_one() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab").as_ref(), [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0A, 0xAC, 0x02]);
    }

    #[test]
    fn only_serving_is_healthy() {
        for (answer, healthy) in [
            (&[0, 0, 0, 0, 2, 0x08, 1][..], true),
            (&[0, 0, 0, 0, 2, 0x08, 2], false),
            (&[0, 0, 0, 0, 0], false),
            (&[], false),
        ] {
            assert_eq!(serving(answer), healthy, "{answer:?}");
        }
    }
}
