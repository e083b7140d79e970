//! What bounds a service that sends without end, and how a connection ends.

use tokio::sync::mpsc;

use super::*;

/// A service that begins with its head when it is asked, and goes on with its chunk for ever. It notes its end.
#[derive(Default)]
struct Endless {
    to_read: Option<usize>,
    read_bytes: Rc<Cell<usize>>,
    is_shut_down: Rc<Cell<bool>>,
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const CHUNK: &[u8] = b"1\r\nx\r\n";

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut at) = self.to_read else { return Poll::Pending };
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let byte = HEAD.get(at).unwrap_or_else(|| &CHUNK[(at - HEAD.len()) % CHUNK.len()]);
            buf.put_slice(&[*byte]);
            at += 1;
        }
        self.to_read = Some(at);
        self.read_bytes.set(self.read_bytes.get() + buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.to_read = Some(0);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down.set(true);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_response_that_never_pauses_lets_others_have_their_turn() {
    on_a_worker(async {
        let service = Endless::default();
        let read_bytes = Rc::clone(&service.read_bytes);
        let mut connection = Http1::open(service, FailedWrite::SentNothing, &Rc::default());
        // Large reads, as after a large download.
        connection.client_took(u64::MAX);
        let answered = connection.send(&mut get("/"), None).await.unwrap();
        let mut body = answered.response.into_body();
        let mut turns = Vec::new();
        std::future::poll_fn(|cx| {
            let before = read_bytes.get();
            while http_body::Body::poll_frame(Pin::new(&mut body), cx).is_ready() {
                assert!(read_bytes.get() - before < 2 << 20, "it took one turn of more than 2 MiB");
            }
            turns.push(read_bytes.get() - before);
            // It is woken again by itself.
            if turns.len() < 3 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_its_service_closed_is_seen_by_a_task_that_has_used_up_its_budget() {
    on_a_worker(async {
        let looked = tokio::task::spawn_local(async {
            let (closed, _) = connection(64);
            let (open, _service) = connection(64);
            let (sender, mut receiver) = mpsc::unbounded_channel();
            for _ in 0..1000 {
                sender.send(()).unwrap();
            }
            std::future::poll_fn(|cx| {
                while receiver.poll_recv(cx).is_ready() {}
                assert!(!receiver.is_empty(), "the budget is used up");
                Poll::Ready((closed.is_closed(), open.is_closed()))
            })
            .await
        });
        assert_eq!(looked.await.unwrap(), (true, false));
    })
    .await;
}

#[tokio::test]
async fn tls_ends_with_a_word_and_a_socket_without_one() {
    on_a_worker(async {
        for (failed_write, is_shut_down) in
            [(FailedWrite::MaySendSome, true), (FailedWrite::SentNothing, false)]
        {
            let service = Endless::default();
            let noted = Rc::clone(&service.is_shut_down);
            drop(Http1::open(service, failed_write, &Rc::default()));
            assert_eq!(noted.get(), is_shut_down, "{failed_write:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_bare_line_feed_in_an_informational_head_ends_the_use_of_its_connection() {
    on_a_worker(async {
        for (head, goes_on) in [
            ("HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n", true),
            ("HTTP/1.1 103 Early\r\nlink: </a>\n\n", false),
        ] {
            let (mut connection, mut service) = connection(1 << 16);
            let serve = async {
                read_head(&mut service).await;
                let response = format!("{head}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                service.write_all(response.as_bytes()).await.unwrap();
            };
            let (outcome, ()) = tokio::join!(exchange(&mut connection, get("/")), serve);
            assert_eq!(outcome, Outcome::Whole(200, b"ok".to_vec()));
            assert_eq!(connection.finish(true), goes_on, "{head:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn content_before_a_broken_chunk_arrives_and_the_reason_is_known() {
    on_a_worker(async {
        for broken in ["2\r\nok\n0\r\n\r\n", "2\r\nokX\r\n", "2\r\nok\r\n0\r\nX 1\r\n\r\n", "2\r\nok\r\nz"] {
            let (mut connection, mut service) = connection(1 << 16);
            let serve = async {
                read_head(&mut service).await;
                let response = [HEAD, broken.as_bytes()].concat();
                service.write_all(&response).await.unwrap();
            };
            let mut request = get("/");
            let (answered, ()) = tokio::join!(connection.send(&mut request, None), serve);
            let mut body = answered.unwrap().response.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok", "{broken:?}");
            assert!(body.frame().await.unwrap().unwrap_err().reason.is_some(), "{broken:?}");
        }
    })
    .await;
}
