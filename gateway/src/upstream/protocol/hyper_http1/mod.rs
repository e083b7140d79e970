//! HTTP/1.1 with an endpoint: one request at a time, by hyper's client.

pub(super) mod informational;
mod last_words;
mod read_size;

use std::{cell::Cell, error::Error as _, io, rc::Rc};

use http::{HeaderValue, Request, Version, header};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
};

use self::{
    informational::{Informational, Informed, RESPONSE_HEAD_BYTES_MAX, RESPONSE_LINES_MAX},
    last_words::LastWords,
    read_size::{PROOF_BYTES, READ_BYTES_MAX, ReadSize},
};
use super::{Answered, Content, SendError, Unsent};
use crate::{body::RequestBody, headers, small_writes::SmallWrites, upstream::sink::ResponseSink};

/// One connection and the task that drives it.
pub(in crate::upstream) struct HyperHttp1 {
    sender: SendRequest<RequestBody>,
    reads: ReadSize,
    /// Of the response that is awaited.
    informational: Rc<Informational>,
    /// A write has failed: what is still read is the last.
    broken: Rc<Cell<bool>>,
    /// The framing of the last response allows another request.
    is_reusable: bool,
    task: AbortHandle,
}

impl HyperHttp1 {
    pub(super) async fn open<I>(io: I, large_reads: &Rc<Cell<u64>>) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let broken = Rc::new(Cell::new(false));
        let informational = Rc::<Informational>::default();
        let io = Informed::new(LastWords::new(io, Rc::clone(&broken)), Rc::clone(&informational));
        let (reads, io) = ReadSize::of(io, large_reads);
        let (sender, connection) = http1::Builder::new()
            .max_header_size(RESPONSE_HEAD_BYTES_MAX)
            .max_buf_size(READ_BYTES_MAX)
            .handshake(SmallWrites(TokioIo::new(io)))
            .await?;
        let task = tokio::task::spawn_local(async move {
            // Its failures reach the request through the sender.
            let _ = connection.await;
        });
        let task = task.abort_handle();
        Ok(Self { sender, reads, informational, broken, is_reusable: true, task })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) async fn send(
        &mut self,
        unsent: &mut Unsent,
        sink: Option<ResponseSink>,
    ) -> Result<Answered, SendError> {
        let Some(mut request) = unsent.take() else { return Err(SendError::Ended) };
        write_framing(&mut request);
        self.informational.begin(sink);
        self.is_reusable = false;
        let response = self.sender.try_send_request(request).await.map_err(|mut error| {
            *unsent = error.take_message();
            send_error(&error.into_error())
        })?;
        let framing =
            headers::check_response(&response).map_err(|fault| SendError::Invalid(fault.detail().into()))?;
        self.is_reusable = framing.reusable;
        Ok(Answered { response: response.map(Content::HyperHttp1), framing })
    }

    pub(super) fn client_took(&mut self, bytes: u64) {
        if bytes >= PROOF_BYTES {
            self.reads.enlarge();
        }
    }

    /// RFC 9112 §9.3: a response that came before the whole request was sent leaves the connection unusable.
    pub(super) fn finish(&self, is_sent: bool) -> bool {
        let is_usable = self.is_reusable && is_sent && !self.sender.is_closed() && !self.broken.get();
        if is_usable {
            self.reads.reset();
            self.informational.end();
        }
        is_usable
    }
}

impl Drop for HyperHttp1 {
    fn drop(&mut self) {
        self.informational.end();
        self.task.abort();
    }
}

/// The version, and chunks where the length is not known: hyper's client sends no content of unknown length for GET or HEAD
/// that does not say so.
fn write_framing(request: &mut Request<RequestBody>) {
    *request.version_mut() = Version::HTTP_11;
    if !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn send_error(error: &hyper::Error) -> SendError {
    if let Some(alert) = alert(error) {
        SendError::Alert(alert)
    } else if error.is_parse_too_large() {
        let limits =
            format!("its head has more than {RESPONSE_LINES_MAX} lines or {RESPONSE_HEAD_BYTES_MAX} bytes");
        SendError::Invalid(limits.into())
    } else if error.is_parse() {
        SendError::Invalid(error.to_string().into())
    } else {
        SendError::Ended
    }
}

/// What the other side said in TLS to end the connection.
fn alert(error: &hyper::Error) -> Option<String> {
    let io: &io::Error = error.source()?.downcast_ref()?;
    let inner = io.get_ref()?.downcast_ref()?;
    matches!(inner, rustls::Error::AlertReceived(_)).then(|| io.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::LocalSet,
    };

    use super::*;

    /// Runs `test` with a connection, the service at its other end, and the worker's count of large reads.
    async fn with_connection(test: impl AsyncFnOnce(HyperHttp1, DuplexStream, Rc<Cell<u64>>)) {
        let (ours, service) = duplex(1 << 16);
        let large_reads = Rc::<Cell<u64>>::default();
        LocalSet::new()
            .run_until(async {
                let connection = HyperHttp1::open(ours, &large_reads).await.unwrap();
                test(connection, service, large_reads).await;
            })
            .await;
    }

    fn request() -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::default());
        *request.uri_mut() = http::Uri::from_static("/items/7");
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("items:80"));
        request
    }

    #[tokio::test]
    async fn a_connection_goes_on_only_after_two_whole_messages_with_one_reading() {
        for (fields, is_sent, goes_on) in [
            ("content-length: 3", true, true),
            ("content-length: 3", false, false),
            ("content-length: 3\r\ntransfer-encoding: chunked", true, false),
        ] {
            with_connection(async |mut connection, mut service, _| {
                let serve = async {
                    let mut head = [0; 22];
                    service.read_exact(&mut head).await.unwrap();
                    let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
                    service.write_all(answer.as_bytes()).await.unwrap();
                    head
                };
                let mut unsent = Some(request());
                let (answered, head) = tokio::join!(connection.send(&mut unsent, None), serve);
                assert_eq!(&head, b"GET /items/7 HTTP/1.1\r");
                // Its body is still to come.
                let _answered = answered.unwrap();
                assert_eq!(connection.finish(is_sent), goes_on, "{fields} {is_sent}");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_request_of_which_no_byte_was_written_comes_back() {
        with_connection(async |mut connection, service, _| {
            drop(service);
            tokio::task::yield_now().await;
            let mut unsent = Some(request());
            let sent = connection.send(&mut unsent, None).await;
            assert!(matches!(sent, Err(SendError::Ended)));
            assert_eq!(unsent.unwrap().uri(), "/items/7");
        })
        .await;
    }

    #[tokio::test]
    async fn reads_are_large_for_a_client_that_has_proved_to_read() {
        with_connection(async |mut connection, _service, large_reads| {
            connection.client_took(PROOF_BYTES - 1);
            assert_eq!(large_reads.get(), 0);
            connection.client_took(PROOF_BYTES);
            assert_eq!(large_reads.get(), 1);
            drop(connection);
            assert_eq!(large_reads.get(), 0);
        })
        .await;
    }
}
