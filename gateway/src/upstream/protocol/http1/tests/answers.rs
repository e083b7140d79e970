//! Responses: complete, cut anywhere, ended anywhere, and with more behind them.

use super::*;

const CONTENT: &[u8] = b"hello world";

/// A response, the method of its request, its content, whether its connection goes on, and whether it ends with its connection.
type Row = (&'static [u8], &'static str, Vec<u8>, bool, bool);

/// Complete responses.
fn responses() -> Vec<Row> {
    let hello = CONTENT.to_vec();
    vec![
        (b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world", "GET", hello.clone(), true, false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "GET", vec![], true, false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n", "HEAD", vec![], true, false),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HEAD", vec![], true, false),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", vec![], true, false),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "GET", vec![], true, false),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nsum: 1\r\n\r\n",
            "GET",
            hello.clone(),
            true,
            false,
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "GET", vec![], true, false),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "GET",
            b"hello".to_vec(),
            false,
            false,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhello world", "GET", hello.clone(), false, true),
        (b"HTTP/1.0 200 OK\r\n\r\nhello world", "GET", hello.clone(), false, true),
        (
            b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 11\r\n\r\nhello world",
            "GET",
            hello.clone(),
            true,
            false,
        ),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 11\r\n\r\nhello world", "GET", hello.clone(), false, false),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
            "GET",
            hello,
            true,
            false,
        ),
    ]
}

/// What the service writes in so many pieces, to a connection that has sent its request.
async fn served(method: &'static str, pieces: &[&[u8]], closes: bool) -> (Outcome, bool) {
    let (mut connection, mut service) = connection(1 << 16);
    let serve = async {
        read_head(&mut service).await;
        for piece in pieces {
            service.write_all(piece).await.unwrap();
            settle().await;
        }
        if closes {
            drop(service);
            return None;
        }
        Some(service)
    };
    let (outcome, _service) = tokio::join!(
        exchange(&mut connection, request(method, "/", FedBody::default(), Delimiting::Nothing)),
        serve
    );
    let goes_on = connection.finish(true);
    (outcome, goes_on)
}

#[tokio::test]
async fn a_response_is_the_same_wherever_it_is_cut() {
    on_a_worker(async {
        for (bytes, method, content, goes_on, ends_by_close) in responses() {
            for cut in 0..bytes.len() {
                let (first, second) = bytes.split_at(cut);
                let (outcome, finished) = served(method, &[first, second], ends_by_close).await;
                let shown = String::from_utf8_lossy(bytes);
                let Outcome::Whole(_, read) = outcome else { panic!("{shown:?} cut at {cut}: {outcome:?}") };
                assert_eq!(read, content, "{shown:?} cut at {cut}");
                assert_eq!(finished, goes_on, "{shown:?} cut at {cut}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_response_without_its_end_is_never_whole() {
    on_a_worker(async {
        for (bytes, method, content, _, ends_by_close) in responses() {
            for end in 0..bytes.len() {
                let (outcome, goes_on) = served(method, &[&bytes[..end]], true).await;
                let shown = format!("{:?} ends at {end}: {outcome:?}", String::from_utf8_lossy(bytes));
                match outcome {
                    Outcome::NoHead => {}
                    Outcome::BrokenOff(_, read) => {
                        assert!(!ends_by_close && content.starts_with(&read), "{shown}");
                    }
                    Outcome::Whole(_, read) => {
                        assert!(ends_by_close && content.starts_with(&read), "{shown}");
                    }
                    Outcome::Invalid => panic!("{shown}"),
                }
                assert!(!goes_on, "{shown}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_behind_a_response_end_the_use_of_its_connection() {
    on_a_worker(async {
        for (bytes, method, content, goes_on, ends_by_close) in responses() {
            if ends_by_close {
                continue;
            }
            for behind in [&b"\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL"] {
                // In the same read, and in one of its own.
                for pieces in [vec![[bytes, behind].concat()], vec![bytes.to_vec(), behind.to_vec()]] {
                    let is_one = pieces.len() == 1;
                    let (mut connection, mut service) = connection(1 << 16);
                    let serve = async {
                        read_head(&mut service).await;
                        for piece in &pieces {
                            service.write_all(piece).await.unwrap();
                            settle().await;
                        }
                    };
                    let sent = request(method, "/", FedBody::default(), Delimiting::Nothing);
                    let (outcome, ()) = tokio::join!(exchange(&mut connection, sent), serve);
                    assert!(matches!(outcome, Outcome::Whole(_, read) if read == content));
                    // What comes in a read of its own is found when the pool looks at the idle connection.
                    assert_eq!(connection.finish(true), goes_on && !is_one);
                    assert!(is_one || connection.is_closed());
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    on_a_worker(async {
        let (mut connection, mut service) = connection(1 << 16);
        for (bytes, method, content, goes_on, _) in responses() {
            if !goes_on {
                continue;
            }
            assert!(!connection.is_closed());
            let serve = async {
                let head = read_head(&mut service).await;
                service.write_all(bytes).await.unwrap();
                head
            };
            let sent = request(method, "/items?x=1", FedBody::default(), Delimiting::Nothing);
            let (outcome, head) = tokio::join!(exchange(&mut connection, sent), serve);
            assert_eq!(head, format!("{method} /items?x=1 HTTP/1.1\r\nhost: a.test\r\n\r\n"));
            assert!(matches!(outcome, Outcome::Whole(_, read) if read == content));
            assert!(!connection.finish(false), "its owner knows that the request is not whole");
            assert!(connection.finish(true));
        }
    })
    .await;
}

#[tokio::test]
async fn content_that_is_over_reads_nothing_of_the_next_response() {
    on_a_worker(async {
        for framing in ["content-length: 70000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n11170\r\n"] {
            let (mut connection, mut service) = connection(1 << 20);
            let end = if framing.ends_with("11170\r\n") { "\r\n0\r\n\r\n" } else { "" };
            let serve = async {
                read_head(&mut service).await;
                let answer = format!("HTTP/1.1 200 OK\r\n{framing}{}{end}", "a".repeat(70_000));
                service.write_all(answer.as_bytes()).await.unwrap();
            };
            let mut unsent = get("/");
            let (answered, ()) = tokio::join!(connection.send(&mut unsent, None), serve);
            let mut old = answered.unwrap().response.into_body();
            while old.frame().await.is_some() {}
            assert!(connection.finish(true));
            let serve = async {
                read_head(&mut service).await;
                service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await.unwrap();
                service
            };
            unsent = get("/");
            let (answered, _service) = tokio::join!(connection.send(&mut unsent, None), serve);
            assert!(old.frame().await.is_none());
            assert_eq!(outcome_of(answered.unwrap()).await, Outcome::Whole(200, b"secret".to_vec()));
        }
    })
    .await;
}

#[tokio::test]
async fn large_content_comes_whole_in_reads_of_any_size() {
    on_a_worker(async {
        let content: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for framing in ["length", "chunks", "close"] {
            for capacity in [1 << 20, 20_000, 999] {
                let (mut connection, mut service) = connection(capacity);
                let serve = async {
                    read_head(&mut service).await;
                    let head = match framing {
                        "length" => "content-length: 300000\r\n\r\n",
                        "chunks" => "transfer-encoding: chunked\r\n\r\n",
                        _ => "\r\n",
                    };
                    service.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.unwrap();
                    if framing == "chunks" {
                        // Reads that begin in the line before a chunk, and some that hold several chunks.
                        for (at, chunk) in content.chunks(9_001).enumerate() {
                            let line = format!("{:x}\r\n", chunk.len());
                            let chunk = [line.as_bytes(), chunk, b"\r\n"].concat();
                            service.write_all(&chunk).await.unwrap();
                            if at % 3 == 0 {
                                settle().await;
                            }
                        }
                        service.write_all(b"0\r\n\r\n").await.unwrap();
                    } else {
                        service.write_all(&content).await.unwrap();
                    }
                    (framing != "close").then_some(service)
                };
                let (outcome, _service) = tokio::join!(exchange(&mut connection, get("/")), serve);
                assert!(outcome == Outcome::Whole(200, content.clone()), "{framing} {capacity}");
                assert_eq!(connection.finish(true), framing != "close", "{framing} {capacity}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_behind_large_content_are_seen_with_its_end() {
    on_a_worker(async {
        for bytes in [40_000, 50_000, 90_000] {
            let (mut connection, mut service) = connection(1 << 20);
            let serve = async {
                read_head(&mut service).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                let answer = [head.as_bytes(), &vec![b'a'; bytes], b"HTTP/1.1 200 OK\r\n"].concat();
                service.write_all(&answer).await.unwrap();
                service
            };
            let (outcome, _service) = tokio::join!(exchange(&mut connection, get("/")), serve);
            assert_eq!(outcome, Outcome::Whole(200, vec![b'a'; bytes]));
            assert!(!connection.finish(true), "{bytes}");
        }
    })
    .await;
}

#[tokio::test]
async fn content_of_which_the_connection_is_closed_breaks_off() {
    on_a_worker(async {
        let (mut connection, mut service) = connection(1 << 16);
        let mut unsent = get("/");
        let serve = async {
            read_head(&mut service).await;
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello").await.unwrap();
        };
        let (answered, ()) = tokio::join!(connection.send(&mut unsent, None), serve);
        let mut body = answered.unwrap().response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(!connection.finish(true), "its content is not over");
        drop(connection);
        assert_eq!(service.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(body.frame().await.unwrap().is_err());
        assert!(!http_body::Body::is_end_stream(&body), "broken off is not over");
    })
    .await;
}

#[tokio::test]
async fn informational_responses_go_to_the_sink_wherever_they_are_cut() {
    const HEADS: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n\
        HTTP/1.0 102 Processing\r\n\r\nHTTP/1.1 199 Any\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    on_a_worker(async {
        for cut in 0..HEADS.len() {
            let (first, second) = HEADS.as_bytes().split_at(cut);
            let (mut connection, mut service) = connection(1 << 16);
            let serve = async {
                read_head(&mut service).await;
                service.write_all(first).await.unwrap();
                settle().await;
                service.write_all(second).await.unwrap();
            };
            let (sink, got) = crate::upstream::sink::recorded();
            let mut unsent = get("/");
            let (answered, ()) = tokio::join!(connection.send(&mut unsent, Some(sink)), serve);
            assert_eq!(answered.unwrap().response.status(), 200);
            let got: Vec<_> =
                got.take().into_iter().map(|(status, fields)| (status.as_u16(), fields.len())).collect();
            assert_eq!(got, [(103, 3), (199, 1)], "cut at {cut}");
        }
    })
    .await;
}
