//! Requests that a service with HTTP/2 proves not to have processed (RFC 9113 §6.8, §8.7): they are sent again as they were.

use crate::support::{
    client::{request, send, text},
    frame_service::FrameService,
    frames::{GOAWAY, HEADERS, REFUSED_STREAM, frame, reset},
    gateway::TestGateway,
    h2_service::H2Service,
};

#[tokio::test]
async fn a_request_behind_the_last_stream_of_a_goaway_arrives_whole_at_the_next_instance() {
    let answers: [fn(u32) -> Vec<u8>; 2] = [
        |_| frame(GOAWAY, 0, 0, &[[0; 4], [0; 4]].concat()),
        |stream| [reset(stream, REFUSED_STREAM), reset(stream, REFUSED_STREAM)].concat(),
    ];
    for answer in answers {
        let (taking, seen) = H2Service::echoing(|_| {}).await;
        let leaving = FrameService::start(&[], move |frame, _| match frame.kind {
            HEADERS => answer(frame.stream),
            _ => Vec::new(),
        })
        .await;
        let gateway = TestGateway::start(&format!(
            "workers: 1\naccess_log: {{format: off}}\nroutes: [{{path: /**, service: s}}]\nservices:\n\
             \x20 s: {{hosts: [\"{}\", \"{}\"], protocol: h2c, outlier: off, breaker: off}}\n",
            leaving.addr, taking.addr
        ))
        .await;
        for number in 0..8 {
            let reply = send(gateway.http, request("POST", "/x?y=1", "the content, once")).await;
            assert_eq!((reply.status().as_u16(), text(&reply)), (200, "the content, once"), "{number}");
        }
        assert!(leaving.requests() >= 2);
        let seen = seen.lock().unwrap();
        let fields = |at: usize| {
            let mut fields = seen[at].head.headers().clone();
            fields.remove("x-request-id");
            fields
        };
        assert_eq!(seen.len(), 8);
        assert!((1..8).all(|at| fields(at) == fields(0) && seen[at].head.uri().path() == "/x"));
    }
}
