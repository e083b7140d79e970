//! HTTP/2 frames that cost the gateway more than their sender: floods of them end their connection, and no other.

use crate::support::{
    backend::Backend,
    frames::{Cut, Listeners, Outcome},
};

async fn listeners(backend: &Backend) -> Listeners {
    let config =
        format!("routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n", backend.addr);
    Listeners::start("", &config).await
}

#[tokio::test]
async fn a_request_by_hand_is_answered_however_its_frames_are_cut() {
    let backend = Backend::named("one").await;
    let listeners = listeners(&backend).await;
    for over_tls in [false, true] {
        for cut in Cut::ALL {
            let mut client = listeners.open(over_tls).await;
            let request = client.get(1, "/x");
            assert!(client.try_send(&request, cut).await);
            assert_eq!(client.outcome(1).await, Outcome::Status(200), "over TLS: {over_tls}, {cut:?}");
        }
    }
}
