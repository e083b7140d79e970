//! HTTP/2 frames that cost the gateway more than their sender: floods of them end their connection, and no other.

use std::net::SocketAddr;

use crate::support::{
    authority::Authority,
    backend::Backend,
    frames::{Cut, FrameClient, Outcome, tls_listener},
    gateway::TestGateway,
};

/// A gateway with a listener of each kind.
struct Listeners {
    gateway: TestGateway,
    authority: Authority,
    _backend: Backend,
}

impl Listeners {
    async fn start() -> Self {
        let backend = Backend::named("one").await;
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        let https = tls_listener(&authority, dir.path());
        let config = format!(
            "workers: 1\nlisten: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", {https}}}\n\
             routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n",
            backend.addr
        );
        let gateway = TestGateway::start_in(dir, &config).await;
        Self { gateway, authority, _backend: backend }
    }

    fn https(&self) -> SocketAddr {
        self.gateway.https_addr().unwrap()
    }

    async fn open(&self, over_tls: bool) -> FrameClient {
        if over_tls {
            FrameClient::open_tls(self.https(), &self.authority, &[]).await
        } else {
            FrameClient::open(self.gateway.http).await
        }
    }
}

#[tokio::test]
async fn a_request_by_hand_is_answered_however_its_frames_are_cut() {
    let listeners = Listeners::start().await;
    for over_tls in [false, true] {
        for cut in Cut::ALL {
            let mut client = listeners.open(over_tls).await;
            let request = client.get(1, "/x");
            assert!(client.try_send(&request, cut).await);
            assert_eq!(client.outcome(1).await, Outcome::Status(200), "over TLS: {over_tls}, {cut:?}");
        }
    }
}
