//! Requests with content: how it is cut, and how it goes on beside the response.

use super::*;

/// Reads until nothing more has come for a while.
async fn read_all_there_is(service: &mut DuplexStream) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    for _ in 0..20 {
        let mut into = ReadBuf::new(&mut buffer);
        let read = std::future::poll_fn(|cx| {
            Poll::Ready(tokio::io::AsyncRead::poll_read(Pin::new(&mut *service), cx, &mut into))
        });
        if read.await.is_ready() {
            all.extend_from_slice(into.filled());
        }
        tokio::task::yield_now().await;
    }
    String::from_utf8(all).unwrap()
}

fn post(body: FedBody, length: Option<&'static str>) -> UpstreamRequest<FedBody> {
    let content = length.map_or(Delimiting::Chunked, |length| Delimiting::Length(length.parse().unwrap()));
    request("POST", "/", body, content)
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn content_is_sent_as_its_head_says_however_little_the_service_takes_at_once() {
    let (whole, two) = ([&b"hello world"[..]], [&b"hello"[..], b" world"]);
    on_a_worker(async {
        for (pieces, length, expected) in [
            (&whole[..], Some("11"), "content-length: 11\r\n\r\nhello world"),
            (&two, Some("11"), "content-length: 11\r\n\r\nhello world"),
            (&whole, None, "transfer-encoding: chunked\r\n\r\nB\r\nhello world\r\n0\r\n\r\n"),
            (&two, None, "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
            (&[], None, "transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            (&[], Some("0"), "content-length: 0\r\n\r\n"),
        ] {
            for capacity in [1, 2, 7, 1 << 16] {
                for comes_later in [false, true] {
                    let (mut connection, mut service) = connection(capacity);
                    let feed = Feed::of(if comes_later { &[] } else { pieces });
                    if !comes_later {
                        feed.end();
                    }
                    let expected = format!("POST / HTTP/1.1\r\nhost: a.test\r\n{expected}");
                    let serve = async {
                        if comes_later {
                            settle().await;
                            for piece in pieces {
                                feed.send(Bytes::from_static(piece));
                                settle().await;
                            }
                            feed.end();
                        }
                        let mut read = vec![0; expected.len()];
                        service.read_exact(&mut read).await.unwrap();
                        service.write_all(OK).await.unwrap();
                        String::from_utf8(read).unwrap()
                    };
                    let sent = post(FedBody::of(&feed), length);
                    let (outcome, read) = tokio::join!(exchange(&mut connection, sent), serve);
                    assert_eq!(read, expected, "{pieces:?} {capacity} {comes_later}");
                    assert_eq!(outcome, Outcome::Whole(200, b"ok".to_vec()));
                    assert!(connection.finish(true), "{expected} {capacity} {comes_later}");
                    assert_eq!(read_all_there_is(&mut service).await, "", "nothing behind it");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_follow_the_last_chunk_and_no_content_of_a_length_however_little_the_service_takes() {
    on_a_worker(async {
        for (pieces, length, expected) in [
            (
                &[&b"hello"[..]][..],
                None,
                "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
            ),
            (&[], None, "transfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n\r\n"),
            (&[b"hello"], Some("5"), "content-length: 5\r\n\r\nhello"),
        ] {
            for capacity in [1, 7, 1 << 16] {
                for comes_later in [false, true] {
                    let (mut connection, mut service) = connection(capacity);
                    let feed = Feed::of(pieces);
                    if !comes_later {
                        feed.end_with("x-sum", "1");
                    }
                    let expected = format!("POST / HTTP/1.1\r\nhost: a.test\r\n{expected}");
                    let serve = async {
                        settle().await;
                        feed.end_with("x-sum", "1");
                        let mut read = vec![0; expected.len()];
                        service.read_exact(&mut read).await.unwrap();
                        service.write_all(OK).await.unwrap();
                        String::from_utf8(read).unwrap()
                    };
                    let sent = post(FedBody::of(&feed), length);
                    let (outcome, read) = tokio::join!(exchange(&mut connection, sent), serve);
                    assert_eq!((read, outcome), (expected.clone(), Outcome::Whole(200, b"ok".to_vec())));
                    assert!(connection.finish(true), "{expected} {capacity} {comes_later}");
                    assert_eq!(read_all_there_is(&mut service).await, "", "nothing behind it");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn large_content_is_sent_without_a_copy_and_whole() {
    on_a_worker(async {
        let content =
            Bytes::from((0..200_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<u8>>());
        for length in [Some("200000"), None] {
            for capacity in [777, 1 << 20] {
                let (mut connection, mut service) = connection(capacity);
                let feed = Rc::<Feed>::default();
                let serve = async {
                    for at in (0..200_000).step_by(50_000) {
                        feed.send(content.slice(at..at + 50_000));
                    }
                    feed.end();
                    read_head(&mut service).await;
                    let mut read = Vec::new();
                    while read.len() < 200_000 {
                        if length.is_none() {
                            let mut line = [0; 6];
                            service.read_exact(&mut line).await.unwrap();
                            assert_eq!(&line, b"C350\r\n");
                        }
                        let mut chunk = vec![0; 50_000];
                        service.read_exact(&mut chunk).await.unwrap();
                        read.extend_from_slice(&chunk);
                        if length.is_none() {
                            service.read_exact(&mut [0; 2]).await.unwrap();
                        }
                    }
                    service.write_all(OK).await.unwrap();
                    assert!(read == content);
                    service
                };
                let sent = post(FedBody::of(&feed), length);
                let (outcome, _service) = tokio::join!(exchange(&mut connection, sent), serve);
                assert_eq!(outcome, Outcome::Whole(200, b"ok".to_vec()));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_answered_early_is_sent_to_its_end_while_nothing_reads_the_answer() {
    on_a_worker(async {
        let (mut connection, mut service) = connection(64);
        let feed = Rc::<Feed>::default();
        let mut unsent = post(FedBody::of(&feed), None);
        let serve = async {
            feed.send(Bytes::from_static(b"first"));
            read_head(&mut service).await;
            service.read_exact(&mut [0; 10]).await.unwrap();
            service.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        };
        let (answered, ()) = tokio::join!(connection.send(&mut unsent, None), serve);
        let answered = answered.unwrap();
        // The service reads only while its answer goes nowhere: more of it than the connection holds.
        for _ in 0..50 {
            feed.send(Bytes::from(vec![b'u'; 100]));
        }
        feed.end();
        let mut upload = vec![0; 50 * (100 + 6) + 5];
        service.read_exact(&mut upload).await.unwrap();
        assert!(upload.ends_with(b"u\r\n0\r\n\r\n"));
        let serve = async { service.write_all(b"3\r\nend\r\n0\r\n\r\n").await.unwrap() };
        let (outcome, ()) = tokio::join!(outcome_of(answered), serve);
        assert_eq!(outcome, Outcome::Whole(200, b"end".to_vec()));
        assert!(connection.finish(true), "both messages are whole");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_over_before_its_request_ends_the_use_of_its_connection() {
    on_a_worker(async {
        let (mut connection, mut service) = connection(1 << 16);
        let feed = Feed::of(&[b"first"]);
        let serve = async {
            read_head(&mut service).await;
            service.write_all(OK).await.unwrap();
        };
        let sent = post(FedBody::of(&feed), Some("10"));
        let (outcome, ()) = tokio::join!(exchange(&mut connection, sent), serve);
        assert_eq!(outcome, Outcome::Whole(200, b"ok".to_vec()));
        assert!(!connection.finish(true));
        drop(connection);
        settle().await;
        feed.send(Bytes::from_static(b"secon"));
        settle().await;
        assert!(!feed.is_taken(), "nothing reads it any more");
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_fails_ends_the_connection_without_an_end() {
    on_a_worker(async {
        for length in [Some("10"), None] {
            for (is_answered, is_short) in [(false, false), (true, false), (false, true), (true, true)] {
                let (mut connection, mut service) = connection(1 << 16);
                let feed = Feed::of(&[b"first"]);
                if is_short && length.is_none() {
                    continue;
                }
                let serve = async {
                    let mut read = read_head(&mut service).await.len();
                    if is_answered {
                        service
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello")
                            .await
                            .unwrap();
                        settle().await;
                    }
                    if is_short {
                        feed.end();
                    } else {
                        feed.fail();
                    }
                    let mut rest = Vec::new();
                    service.read_to_end(&mut rest).await.unwrap();
                    read += rest.len();
                    assert!(!rest.ends_with(b"0\r\n\r\n") && read > 5);
                };
                let run = async {
                    let outcome = exchange(&mut connection, post(FedBody::of(&feed), length)).await;
                    drop(connection);
                    outcome
                };
                let (outcome, ()) = tokio::join!(run, serve);
                let expected =
                    if is_answered { Outcome::BrokenOff(200, b"hello".to_vec()) } else { Outcome::NoHead };
                assert_eq!(outcome, expected, "{length:?} {is_short}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn content_that_is_longer_than_its_length_is_not_sent() {
    on_a_worker(async {
        let (mut connection, mut service) = connection(1 << 16);
        let sent = post(FedBody::whole(&[b"hello", b" world"]), Some("7"));
        assert_eq!(exchange(&mut connection, sent).await, Outcome::NoHead);
        drop(connection);
        let mut read = String::new();
        service.read_to_string(&mut read).await.unwrap();
        assert!(read.ends_with("\r\n\r\nhello"), "{read}");
    })
    .await;
}

#[tokio::test]
async fn a_service_that_takes_no_more_is_heard_to_the_end() {
    on_a_worker(async {
        let (ours, service) = duplex(1 << 16);
        let (service_reads, mut service_writes) = tokio::io::split(service);
        // Takes 100 bytes, then fails each write.
        let mut connection =
            Http1::open(failures::Faulty::new(ours, 100), FailedWrite::SentNothing, &Rc::default());
        let feed = Feed::of(&[&[b'u'; 4096]]);
        let serve = async {
            settle().await;
            service_writes
                .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!")
                .await
                .unwrap();
        };
        let (outcome, ()) = tokio::join!(exchange(&mut connection, post(FedBody::of(&feed), None)), serve);
        assert_eq!(outcome, Outcome::Whole(413, b"no!".to_vec()));
        assert!(!connection.finish(true));
        drop(service_reads);
    })
    .await;
}

/// A stream that wakes nothing when it is closed, as a socket.
struct Quiet(Rc<RefCell<DuplexStream>>);

impl AsyncRead for Quiet {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn an_upload_that_fails_wakes_the_reader_of_an_early_answer() {
    on_a_worker(async {
        let (ours, mut service) = duplex(1 << 16);
        let ours = Rc::new(RefCell::new(ours));
        let quiet = Quiet(Rc::clone(&ours));
        let mut connection = Http1::open(quiet, FailedWrite::SentNothing, &Rc::default());
        let feed = Feed::of(&[b"first"]);
        let serve = async {
            read_head(&mut service).await;
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello").await.unwrap();
        };
        let mut unsent = post(FedBody::of(&feed), None);
        let (answered, ()) = tokio::join!(connection.send(&mut unsent, None), serve);
        let reader = tokio::task::spawn_local(outcome_of(answered.unwrap()));
        settle().await;
        assert!(!reader.is_finished());
        feed.fail();
        settle().await;
        assert!(reader.is_finished(), "the connection is closed");
        assert_eq!(reader.await.unwrap(), Outcome::BrokenOff(200, b"hello".to_vec()));
    })
    .await;
}
