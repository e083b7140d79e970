use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// An end in memory.
struct Memory(DuplexStream);

impl TunnelEnd for Memory {
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, to)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Both far ends, and a tunnel between them whose streams take `room` bytes.
fn tunnel(room: usize) -> (DuplexStream, DuplexStream, (Memory, Memory)) {
    let ((client, near_client), (service, near_service)) = (duplex(room), duplex(room));
    (client, service, (Memory(near_client), Memory(near_service)))
}

async fn run(pump: &mut Pump, ends: &mut (Memory, Memory), is_closing: bool) -> PumpEnd {
    poll_fn(|cx| pump.poll(cx, (&mut ends.0, &mut ends.1), is_closing)).await
}

/// Polls once, and again as long as something moves.
async fn settle(pump: &mut Pump, ends: &mut (Memory, Memory), is_closing: bool) {
    for _ in 0..100 {
        poll_fn(|cx| {
            let _ = pump.poll(cx, (&mut ends.0, &mut ends.1), is_closing);
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bytes_arrive_whole_in_both_directions_through_streams_of_any_size() {
    for room in [1, 7, 1000, BUFFER_BYTES, 10 * BUFFER_BYTES] {
        let (client, service, mut ends) = tunnel(room);
        let (up, down) = (vec![b'u'; 100_000], vec![b'd'; 150_000]);
        let send = |stream: DuplexStream, bytes: Vec<u8>| async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let mut got = Vec::new();
            let writing = async {
                writer.write_all(&bytes).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(reader.read_to_end(&mut got), writing);
            read.unwrap();
            got
        };
        let mut pump = Pump::new(false, b"ahead");
        let (ended, at_client, at_service) = tokio::join!(
            run(&mut pump, &mut ends, false),
            send(client, up.clone()),
            send(service, down.clone())
        );
        assert_eq!(ended, PumpEnd::Closed);
        assert!(at_service == up && at_client == [b"ahead", &down[..]].concat(), "with room for {room}");
        assert_eq!((pump.client_bytes(), pump.service_bytes()), (100_000, 150_005));
    }
}

#[tokio::test]
async fn an_end_that_takes_nothing_stops_the_reading_after_one_buffer() {
    let (mut client, mut service, mut ends) = tunnel(BUFFER_BYTES);
    let mut pump = Pump::new(true, b"");
    service.write_all(&vec![0; BUFFER_BYTES]).await.unwrap();
    settle(&mut pump, &mut ends, false).await;
    assert_eq!(pump.blocked(), [None, None], "the client's stream has room for one");
    for _ in 0..3 {
        let _ =
            tokio::time::timeout(std::time::Duration::ZERO, service.write_all(&vec![0; BUFFER_BYTES])).await;
        settle(&mut pump, &mut ends, false).await;
    }
    assert!(pump.blocked()[1].is_some());
    assert_eq!(pump.to_client.held.len(), BUFFER_BYTES);
    assert_eq!(pump.service_bytes(), 2 * BUFFER_BYTES as u64);
    // The other direction is not held up.
    client.write_all(b"up").await.unwrap();
    settle(&mut pump, &mut ends, false).await;
    let mut got = [0; 2];
    service.read_exact(&mut got).await.unwrap();
    // What was held goes on, and its memory is given back.
    let mut got = vec![0; 3 * BUFFER_BYTES];
    tokio::join!(client.read_exact(&mut got), settle(&mut pump, &mut ends, false)).0.unwrap();
    assert_eq!(pump.to_client.held.capacity(), 0);
}

#[tokio::test]
async fn the_gateways_close_frame_comes_between_two_frames_and_nothing_follows_it() {
    let (mut client, mut service, mut ends) = tunnel(BUFFER_BYTES);
    let mut pump = Pump::new(true, b"");
    service.write_all(b"\x82\x04ab").await.unwrap();
    settle(&mut pump, &mut ends, false).await;
    settle(&mut pump, &mut ends, true).await;
    assert!(pump.says_farewell(), "the client's direction is between frames");
    service.write_all(b"cd\x81\x01x").await.unwrap();
    settle(&mut pump, &mut ends, true).await;
    service.write_all(b"\x81\x01y").await.unwrap();
    settle(&mut pump, &mut ends, true).await;
    let mut got = [0; 10];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"\x82\x04abcd\x88\x02\x03\xe9");
    let mut got = [0; 8];
    service.read_exact(&mut got).await.unwrap();
    assert_eq!(got, GOING_AWAY_MASKED);
    // Each answer ends its direction.
    service.write_all(&GOING_AWAY).await.unwrap();
    client.write_all(&GOING_AWAY_MASKED).await.unwrap();
    assert_eq!(run(&mut pump, &mut ends, true).await, PumpEnd::Closed);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_tunnel_that_its_ends_are_closing_gets_no_close_frame_of_the_gateway() {
    let (mut client, mut service, mut ends) = tunnel(BUFFER_BYTES);
    let mut pump = Pump::new(true, b"");
    client.write_all(&GOING_AWAY_MASKED).await.unwrap();
    service.write_all(&GOING_AWAY).await.unwrap();
    settle(&mut pump, &mut ends, false).await;
    settle(&mut pump, &mut ends, true).await;
    assert!(!pump.says_farewell());
}

#[tokio::test]
async fn another_protocol_goes_on_while_the_gateway_closes() {
    let (mut client, mut service, mut ends) = tunnel(BUFFER_BYTES);
    let mut pump = Pump::new(false, b"");
    client.write_all(b"\x88").await.unwrap();
    settle(&mut pump, &mut ends, true).await;
    let mut got = [0; 1];
    service.read_exact(&mut got).await.unwrap();
    assert!(!pump.says_farewell());
}
