//! Attempts that fail: what the next endpoint gets, and what a failure proves.

use super::*;

/// A stream whose writes fail once so many bytes were taken.
pub(super) struct Faulty {
    io: DuplexStream,
    left: usize,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Write,
    /// It takes nothing, without an error.
    Nothing,
    Flush,
}

impl Faulty {
    pub(super) fn new(io: DuplexStream, left: usize) -> Self {
        Self { io, left, fault: Fault::Write }
    }
}

impl AsyncRead for Faulty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.fault {
            Fault::Write if self.left == 0 => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Fault::Nothing if self.left == 0 => return Poll::Ready(Ok(0)),
            _ => {}
        }
        let taken = buf.len().min(self.left);
        let polled = Pin::new(&mut self.io).poll_write(cx, &buf[..taken]);
        if let Poll::Ready(Ok(written)) = polled {
            self.left -= written;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fault == Fault::Flush {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A request, whose body is made anew for each attempt after one that has used it up.
type Make = fn() -> UpstreamRequest<FedBody>;

/// Requests with the bytes that an endpoint must get.
fn requests() -> Vec<(Make, &'static str)> {
    vec![
        (|| get("/items/7"), "GET /items/7 HTTP/1.1\r\nhost: a.test\r\n\r\n"),
        (
            || request("PUT", "/items/8", FedBody::whole(&[b"hello", b" world"]), Delimiting::Chunked),
            "PUT /items/8 HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        ),
        (
            || request("PUT", "/items/9", FedBody::whole(&[b"hello", b" world"]), Delimiting::Length(11)),
            "PUT /items/9 HTTP/1.1\r\nhost: a.test\r\ncontent-length: 11\r\n\r\nhello world",
        ),
    ]
}

/// Sends over a connection that has served another request before, whose service ends it after so many bytes.
async fn failed_attempt(make: Make, takes: usize, writes_fail: bool) -> UpstreamRequest<FedBody> {
    const OTHER: &str = "GET /another HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let (ours, mut service) = duplex(1 << 16);
    let left = if writes_fail { OTHER.len() + takes } else { usize::MAX };
    let mut connection = Http1::open(Faulty::new(ours, left), FailedWrite::SentNothing, &Rc::default());
    let serve = async {
        let head = read_head(&mut service).await;
        assert_eq!(head, OTHER);
        service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    tokio::join!(exchange(&mut connection, get("/another")), serve);
    assert!(connection.finish(true));
    let serve = async {
        if takes == 0 && !writes_fail {
            drop(service);
            return;
        }
        let mut read = vec![0; takes];
        service.read_exact(&mut read).await.unwrap();
        drop(service);
    };
    let mut unsent = make();
    let attempt = async {
        if takes == 0 && !writes_fail {
            settle().await;
        }
        connection.send(&mut unsent, None).await
    };
    let (sent, ()) = tokio::join!(attempt, serve);
    assert!(matches!(sent, Err(SendError::Ended)));
    unsent
}

#[tokio::test]
async fn an_attempt_that_fails_at_any_byte_is_followed_by_the_same_request() {
    on_a_worker(async {
        for (make, expected) in requests() {
            for writes_fail in [false, true] {
                for takes in 0..expected.len() {
                    let mut again = failed_attempt(make, takes, writes_fail).await;
                    assert_eq!(
                        again.body.is_some(),
                        takes == 0,
                        "{expected} {takes}: proof that nothing was sent"
                    );
                    again.body = again.body.or_else(|| make().body);
                    // The next endpoint, over a connection that has served others, too.
                    let (mut connection, mut service) = connection(1 << 16);
                    let serve = async {
                        let mut read = vec![0; expected.len()];
                        service.read_exact(&mut read).await.unwrap();
                        service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                        String::from_utf8(read).unwrap()
                    };
                    let (outcome, read) = tokio::join!(exchange(&mut connection, again), serve);
                    assert_eq!(read, expected, "{takes} {writes_fail}");
                    assert_eq!(outcome, Outcome::Whole(200, Vec::new()));
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_write_that_waits_leaves_the_request_whole() {
    on_a_worker(async {
        for (make, expected) in requests() {
            // Its buffer is full before the request comes.
            let (mut ours, mut service) = duplex(1);
            ours.write_all(b"x").await.unwrap();
            let mut connection = Http1::open(ours, FailedWrite::SentNothing, &Rc::default());
            let mut unsent = make();
            {
                let mut sending = std::pin::pin!(connection.send(&mut unsent, None));
                for _ in 0..3 {
                    assert!(
                        std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending()
                    );
                }
            }
            drop(connection);
            service.read_to_end(&mut Vec::new()).await.unwrap();
            assert!(unsent.body.is_some(), "nothing was sent");
            let again = unsent;
            let (mut connection, mut service) = super::connection(1 << 16);
            let serve = async {
                let mut read = vec![0; expected.len()];
                service.read_exact(&mut read).await.unwrap();
                service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                String::from_utf8(read).unwrap()
            };
            let (_, read) = tokio::join!(exchange(&mut connection, again), serve);
            assert_eq!(read, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn a_write_that_takes_nothing_and_a_flush_that_fails_are_failures() {
    on_a_worker(async {
        let (ours, _service) = duplex(1 << 16);
        let faulty = Faulty { io: ours, left: 0, fault: Fault::Nothing };
        let mut connection = Http1::open(faulty, FailedWrite::SentNothing, &Rc::default());
        let mut unsent = get("/");
        assert!(matches!(connection.send(&mut unsent, None).await, Err(SendError::Ended)));
        assert!(unsent.body.is_some());

        let (ours, mut service) = duplex(1 << 16);
        let faulty = Faulty { io: ours, left: usize::MAX, fault: Fault::Flush };
        let mut connection = Http1::open(faulty, FailedWrite::SentNothing, &Rc::default());
        let serve = async {
            read_head(&mut service).await;
            service.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        let (outcome, ()) = tokio::join!(exchange(&mut connection, get("/")), serve);
        assert_eq!(outcome, Outcome::Whole(204, Vec::new()));
        assert!(!connection.finish(true), "some of the request may be held back for ever");
    })
    .await;
}

#[tokio::test]
async fn a_failed_write_proves_nothing_where_it_may_send_some() {
    on_a_worker(async {
        let (ours, mut service) = duplex(1 << 16);
        let mut connection = Http1::open(Faulty::new(ours, 0), FailedWrite::MaySendSome, &Rc::default());
        let mut unsent = get("/");
        let serve = async {
            settle().await;
            service.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let (sent, ()) = tokio::join!(connection.send(&mut unsent, None), serve);
        assert!(unsent.body.is_none());
        assert_eq!(sent.unwrap().response.status(), 503);
        assert!(!connection.finish(true));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_has_ended_or_spoken_gets_no_request() {
    on_a_worker(async {
        for spoken in [&b""[..], b"HTTP/1.1 408 Timeout\r\ncontent-length: 0\r\n\r\n"] {
            for looks in [false, true] {
                let (mut connection, mut service) = connection(1 << 16);
                assert!(!connection.is_closed() && !connection.is_closed());
                let serve = async {
                    read_head(&mut service).await;
                    service.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                };
                tokio::join!(exchange(&mut connection, get("/another")), serve);
                assert!(connection.finish(true));
                service.write_all(spoken).await.unwrap();
                let service = if spoken.is_empty() {
                    drop(service);
                    None
                } else {
                    Some(service)
                };
                if looks {
                    assert!(connection.is_closed() && connection.is_closed());
                }
                let mut unsent = get("/items/7");
                let sent = connection.send(&mut unsent, None).await;
                assert!(matches!(sent, Err(SendError::Ended)));
                assert!(unsent.body.is_some());
                if let Some(mut service) = service {
                    let mut read = Vec::new();
                    drop(connection);
                    service.read_to_end(&mut read).await.unwrap();
                    assert!(read.is_empty());
                }
            }
        }
    })
    .await;
}

/// A stream that ends with an alert, as TLS reports it.
struct Alerted;

impl AsyncRead for Alerted {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, alert)))
    }
}

impl AsyncWrite for Alerted {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_alert_is_reported_as_one() {
    on_a_worker(async {
        let mut connection = Http1::open(Alerted, FailedWrite::MaySendSome, &Rc::default());
        let sent = connection.send(&mut get("/"), None).await;
        assert!(matches!(sent, Err(SendError::Alert(text)) if text.contains("CertificateRequired")));
    })
    .await;
}

#[tokio::test]
async fn a_response_that_may_not_be_passed_on_is_invalid_and_its_connection_of_no_use() {
    on_a_worker(async {
        for answer in [
            "hello world",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        ] {
            let (mut connection, mut service) = connection(1 << 16);
            let serve = async {
                read_head(&mut service).await;
                service.write_all(answer.as_bytes()).await.unwrap();
            };
            let (outcome, ()) = tokio::join!(exchange(&mut connection, get("/")), serve);
            assert_eq!(outcome, Outcome::Invalid, "{answer:?}");
            assert!(!connection.finish(true));
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_without_an_end_is_refused_at_its_limit_however_it_comes() {
    on_a_worker(async {
        for capacity in [1 << 17, 999] {
            let (mut connection, mut service) = connection(capacity);
            let serve = async {
                read_head(&mut service).await;
                // It fails when the connection is dropped, for which nothing waits.
                let head = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'a'; 70_000]].concat();
                let _ = service.write_all(&head).await;
            };
            let mut unsent = get("/");
            let send = async {
                let sent = connection.send(&mut unsent, None).await;
                drop(connection);
                sent
            };
            let (answered, ()) = tokio::join!(send, serve);
            let Err(SendError::Invalid(reason)) = answered else { panic!("{capacity}") };
            assert_eq!(reason, "its head has more than 100 lines or 32768 bytes");
        }
    })
    .await;
}

#[tokio::test]
async fn the_informational_responses_of_one_request_have_a_bound_in_bytes() {
    // 64 bytes, of which 1024 are exactly allowed.
    let one = format!("HTTP/1.1 102 Processing\r\nx: {}\r\n\r\n", "a".repeat(32));
    assert_eq!(one.len(), 64);
    on_a_worker(async {
        for (count, more, is_answered) in [
            (1024, "", true),
            (1023, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\n\r\n", true),
            (1024, "HTTP/1.1 100 \r\n\r\n", false),
            (1 << 20, "", false),
        ] {
            for capacity in [1 << 17, 999] {
                let (mut connection, mut service) = connection(capacity);
                let serve = async {
                    read_head(&mut service).await;
                    for _ in 0..count {
                        // It fails when the connection is dropped.
                        if service.write_all(one.as_bytes()).await.is_err() {
                            return None;
                        }
                    }
                    let end = format!("{more}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                    let _ = service.write_all(end.as_bytes()).await;
                    Some(service)
                };
                let run = async {
                    let mut unsent = get("/");
                    let sent = connection.send(&mut unsent, None).await;
                    if let Err(SendError::Invalid(reason)) = &sent {
                        assert_eq!(reason, "its informational responses have more than 65536 bytes");
                        drop(connection);
                        return false;
                    }
                    assert_eq!(outcome_of(sent.unwrap()).await, Outcome::Whole(200, b"ok".to_vec()));
                    assert!(connection.finish(true));
                    true
                };
                let (answered, _service) = tokio::join!(run, serve);
                assert_eq!(answered, is_answered, "{count} {more:?} {capacity}");
            }
        }
    })
    .await;
}

/// A service that is tried again must not get the bound anew.
#[tokio::test]
async fn the_bound_of_informational_responses_holds_over_all_attempts() {
    on_a_worker(async {
        let one = format!("HTTP/1.1 102 Processing\r\nx: {}\r\n\r\n", "a".repeat(32));
        let mut request = get("/");
        for (count, is_answered) in [(600, true), (600, false)] {
            let (mut connection, mut service) = connection(1 << 17);
            let serve = async {
                read_head(&mut service).await;
                let all = one.repeat(count) + "HTTP/1.1 503 A\r\ncontent-length: 0\r\n\r\n";
                service.write_all(all.as_bytes()).await.unwrap();
            };
            let (sent, ()) = tokio::join!(connection.send(&mut request, None), serve);
            assert_eq!(sent.is_ok(), is_answered);
            request.body = Some(FedBody::default());
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_not_sent_again_is_freed_when_it_was_sent() {
    on_a_worker(async {
        for repeats in [true, false] {
            let (mut connection, mut service) = connection(1 << 16);
            let mut request = get("/");
            request.repeats = repeats;
            let serve = async {
                read_head(&mut service).await;
                service.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            };
            let (sent, ()) = tokio::join!(connection.send(&mut request, None), serve);
            assert!(sent.is_ok());
            assert_eq!(!request.head.bytes().is_empty(), repeats);
        }
    })
    .await;
}
