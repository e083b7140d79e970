//! The numbers behind HTTP/2's frame budgets are the operator's: `listen.http2`.

use crate::support::{
    backend::{Backend, RawBackend},
    frames::{
        ACK, CANCEL, Cut, ENHANCE_YOUR_CALM, FrameClient, GOAWAY, Listeners, Outcome, PING, frame, ping,
        reset,
    },
};

async fn listeners(http2: &str, service: std::net::SocketAddr) -> Listeners {
    let config = format!(
        "routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{service}\"], breaker: off}}}}\n"
    );
    Listeners::start(&format!(", http2: {{{http2}}}"), &config).await
}

/// Sends all, then a PING of its own kind; whether that was answered. `false`: the connection ended as it should.
async fn survives(client: &mut FrameClient, frames: &[u8]) -> bool {
    let mark = frame(PING, 0, 0, b"the last");
    let _ = client.try_send(&[frames, &mark].concat(), Cut::Whole).await;
    let seen = client
        .until(|frame| {
            frame.kind == GOAWAY || frame.kind == PING && frame.flags == ACK && frame.payload == b"the last"
        })
        .await;
    let goaway = seen.as_ref().filter(|frame| frame.kind == GOAWAY);
    assert!(goaway.is_none_or(|frame| frame.error_code() == Some(ENHANCE_YOUR_CALM)), "{goaway:?}");
    seen.is_some_and(|frame| frame.kind == PING)
}

#[tokio::test]
async fn a_lower_and_a_higher_number_of_frames_act() {
    let service = Backend::named("one").await;
    for (http2, passes, ends) in [
        // What comes with the preface, up to 2 KiB, counts with the next frame.
        ("frames_per_second: 60", 50, Some(300)),
        ("", 900, Some(2500)),
        ("frames_per_second: 4000", 3000, Some(9000)),
        ("frames_per_second: off", 20_000, None),
    ] {
        let listeners = listeners(http2, service.addr).await;
        for over_tls in [false, true] {
            let mut client = listeners.open(over_tls).await;
            assert!(survives(&mut client, &ping().repeat(passes)).await, "{http2}: {passes}");
            let Some(ends) = ends else { continue };
            let mut client = listeners.open(over_tls).await;
            assert!(!survives(&mut client, &ping().repeat(ends)).await, "{http2}: {ends}");
        }
    }
}

#[tokio::test]
async fn a_lower_and_a_higher_number_of_resets_act() {
    let silent = RawBackend::answering(b"", false).await;
    for (http2, pages, survives_them) in [
        ("resets: 10", 1, false),
        ("resets: 200", 1, true),
        ("resets: 200", 8, false),
        ("resets: 2000", 8, true),
        ("resets: off", 12, true),
    ] {
        let listeners = listeners(http2, silent.addr).await;
        let mut client = listeners.open(false).await;
        let mut ids = (1..).step_by(2);
        let mut alive = true;
        for _ in 0..pages {
            let page: Vec<u32> = ids.by_ref().take(100).collect();
            let requests: Vec<u8> = page.iter().flat_map(|&id| client.get(id, "/x")).collect();
            let resets: Vec<u8> = page.iter().flat_map(|&id| reset(id, CANCEL)).collect();
            alive = alive && survives(&mut client, &[requests, resets].concat()).await;
        }
        assert_eq!(alive, survives_them, "{http2}: {pages} times a hundred");
    }
}

#[tokio::test]
async fn a_connection_with_other_numbers_serves_requests() {
    let service = Backend::named("one").await;
    let listeners = listeners("frames_per_second: 50, resets: 10", service.addr).await;
    for over_tls in [false, true] {
        let mut client = listeners.open(over_tls).await;
        for id in (1..201).step_by(2) {
            let request = client.get(id, "/x");
            client.send(&request).await;
            assert_eq!(client.outcome(id).await, Outcome::Status(200));
        }
    }
}
