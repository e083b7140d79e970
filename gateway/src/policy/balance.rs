//! `balance`: how the requests of a service are spread over its endpoints, which the [balancer](crate::upstream::load_balancer)
//! does.

use super::of_service::ServicePolicy;
use crate::syntax::{
    diagnostics::Diagnostics,
    fields::{choice, value},
    tree::Node,
};

/// How the balancer of a service picks an endpoint. Each kind counts the weights of the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The endpoints take turns.
    RoundRobin,
    /// Two random choices, the one with fewer requests in flight per weight.
    P2c,
    /// Fewest requests in flight per weight.
    Least,
    /// Two random choices, the one with the smaller product of response time and requests in flight per weight.
    PeakEwma,
    /// One random choice.
    Random,
}

impl ServicePolicy for Balance {
    type Settings = Balance;
    const KEY: &'static str = "balance";

    fn by_default() -> Balance {
        Balance::RoundRobin
    }

    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Balance> {
        let words = [
            ("round_robin", Self::RoundRobin),
            ("p2c", Self::P2c),
            ("least", Self::Least),
            ("peak_ewma", Self::PeakEwma),
            ("random", Self::Random),
        ];
        value(node, "balance", sink, |text| choice(text, &words, &["hash:"])).map(|at| at.value)
    }
}
