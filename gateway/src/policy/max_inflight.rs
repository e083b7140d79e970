//! `max_inflight`: the most requests in flight to a whole service, past which the reply is 503 `overloaded`.
//! [`concurrency`](super::concurrency) counts them.

use super::of_service::ServicePolicy;
use crate::syntax::{diagnostics::Diagnostics, fields::value, tree::Node, units::count};

/// The policy.
pub(crate) enum MaxInflight {}

impl ServicePolicy for MaxInflight {
    type Settings = u32;
    const KEY: &'static str = "max_inflight";

    fn by_default() -> u32 {
        1024
    }

    fn read(node: &Node, sink: &mut Diagnostics) -> Option<u32> {
        value(node, "max_inflight", sink, |text| count(text, 1..=1_000_000)).map(|at| at.value)
    }
}
