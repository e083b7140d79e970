//! Real gateways, backends and clients on free ports.

pub(crate) mod acme;
pub(crate) mod authority;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod federation;
pub(crate) mod frame_service;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod h2_service;
pub(crate) mod h2_stream;
pub(crate) mod issuer;
pub(crate) mod recorder;
pub(crate) mod tls;
pub(crate) mod tokens;
pub(crate) mod websocket;

use std::{future::Future, time::Duration};

/// The longest time that any event of a test may take. Only a failure waits for so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `condition` is true, which is checked in short intervals. Panics with `what` after
/// [`DEADLINE`].
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    within(DEADLINE, what, condition).await;
}

/// As [`eventually`], with a deadline that the test itself checks.
pub(crate) async fn within<F: Future<Output = bool>>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let polling = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(deadline, polling).await.is_ok(), "not within {deadline:?}: {what}");
}
