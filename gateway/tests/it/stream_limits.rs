//! `listen.max_streams`: announced, and a stream beyond it is refused in a way that its client may repeat.

use crate::support::{
    backend::RawBackend,
    eventually,
    frames::{
        CANCEL, END_STREAM, FrameClient, Listeners, MAX_CONCURRENT_STREAMS, Outcome, REFUSED_STREAM,
        SETTINGS, reset,
    },
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn listeners(listen: &str, service: &RawBackend) -> Listeners {
    let config =
        format!("routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n", service.addr);
    Listeners::start(listen, &config).await
}

/// The value that the gateway announces.
async fn announced(client: &mut FrameClient, identifier: u16) -> Option<u32> {
    let settings = client.until(|frame| frame.kind == SETTINGS && frame.flags == 0).await.unwrap();
    let values = settings.payload.chunks_exact(6).map(|entry| {
        (u16::from_be_bytes([entry[0], entry[1]]), u32::from_be_bytes(entry[2..].try_into().unwrap()))
    });
    values.filter(|(name, _)| *name == identifier).map(|(_, value)| value).next_back()
}

#[tokio::test]
async fn a_stream_past_the_announced_number_is_refused_and_never_sent_and_an_ended_one_makes_room() {
    for over_tls in [false, true] {
        let service = RawBackend::held(OK, false).await;
        let listeners = listeners(", max_streams: 3", &service).await;
        let mut client = listeners.open(over_tls).await;
        assert_eq!(announced(&mut client, MAX_CONCURRENT_STREAMS).await, Some(3));
        for id in [1, 3, 5] {
            client.send(&client.get(id, "/x")).await;
        }
        eventually("as many as are allowed are at the service", || async { service.requests() == 3 }).await;
        client.send(&client.get(7, "/x")).await;
        assert_eq!(client.outcome(7).await, Outcome::Reset(REFUSED_STREAM), "over TLS: {over_tls}");
        // One that its client takes back makes room, as one that is answered does.
        client.send(&reset(1, CANCEL)).await;
        client.send(&client.get(9, "/x")).await;
        eventually("the next one has its place", || async { service.requests() == 4 }).await;
        service.release();
        let mut ended = Vec::new();
        while ended.len() < 3 {
            let end = client.next_where(|frame| frame.stream > 0 && frame.flags & END_STREAM != 0).await;
            ended.push(end.stream);
        }
        ended.sort_unstable();
        assert_eq!(ended, [3, 5, 9]);
        client.send(&client.get(11, "/x")).await;
        client.next_where(|frame| frame.stream == 11 && frame.flags & END_STREAM != 0).await;
        assert_eq!(service.requests(), 5, "the refused one never came");
        let line = "millgate_http2_refusals_total{scope=\"stream\",code=\"refused_stream\"} 1";
        eventually(line, || listeners.gateway.shows(line)).await;
    }
}

#[tokio::test]
async fn without_a_number_of_the_operators_it_is_128() {
    let service = RawBackend::answering(OK, false).await;
    let listeners = listeners("", &service).await;
    let mut client = listeners.open(false).await;
    assert_eq!(announced(&mut client, MAX_CONCURRENT_STREAMS).await, Some(128));
}
