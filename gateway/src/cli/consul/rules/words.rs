//! The texts of `millgate consul lint`: code, weight, cause and cure of each rule.

use super::Severity;

/// The words for the findings of a rule.
pub(super) struct Words {
    /// Stable.
    pub(super) code: &'static str,
    pub(super) severity: Severity,
    pub(super) why: &'static str,
    pub(super) help: &'static str,
}

/// In the order of [`Rule`](super::Rule).
pub(super) static WORDS: [Words; 15] = [
    Words {
        code: "L001",
        severity: Severity::Error,
        why: "no socket has such a port, so a gateway leaves the instance out",
        help: "register it with the port that it listens on, 1 to 65535",
    },
    Words {
        code: "L002",
        severity: Severity::Warning,
        why: "a gateway cannot send requests to it and leaves it out",
        help: "register it with a port, or ignore this for a service that takes no requests",
    },
    Words {
        code: "L003",
        severity: Severity::Error,
        why: "requests that are sent to it must go elsewhere, until the gateway leaves it out",
        help: "start it, remove it (`millgate services deregister ID`), or give it a check that connects to this port",
    },
    Words {
        code: "L004",
        severity: Severity::Warning,
        why: "it counts as healthy for as long as its node does, also after it died",
        help: "register it with a check: HTTP, TCP, or a TTL that it passes itself",
    },
    Words {
        code: "L005",
        severity: Severity::Warning,
        why: "the output is sent to every watcher with each change of the service",
        help: "let the check answer with one short line",
    },
    Words {
        code: "L006",
        severity: Severity::Error,
        why: "it declares no route, though it was meant to",
        help: "write for example `millgate.route=GET shop.example/orders/**`",
    },
    Words {
        code: "L007",
        severity: Severity::Warning,
        why: "the whole tag is refused, so that no part of it is ignored silently",
        help: "remove the option from the tag, or write the route into the gateway's configuration",
    },
    Words {
        code: "L008",
        severity: Severity::Error,
        why: "one of them gets the requests, the other one none",
        help: "let one service declare it, or write a route with a priority into the gateway's configuration",
    },
    Words {
        code: "L009",
        severity: Severity::Warning,
        why: "the route leads to all instances of the service, and ends with the last one that has the tag",
        help: "during a deploy this is normal; else register all instances with the same route tags",
    },
    Words {
        code: "L010",
        severity: Severity::Warning,
        why: "a share of 0 takes the instance out without any check saying so",
        help: "register it with weights of at least 1, or use maintenance mode to take it out",
    },
    Words {
        code: "L011",
        severity: Severity::Error,
        why: "the one process behind it gets the share of several instances; most are left over from an earlier start",
        help: "register with an id that stays the same over restarts, and deregister the others",
    },
    Words {
        code: "L012",
        severity: Severity::Error,
        why: "another machine that connects there reaches itself, or nobody",
        help: "register it without an address (then it is the node's), or with one that others can reach",
    },
    Words {
        code: "L013",
        severity: Severity::Warning,
        why: "requests to the service are answered with 503",
        help: "look at its checks: `millgate services show NAME`",
    },
    Words {
        code: "L014",
        severity: Severity::Error,
        why: "a gateway cannot resolve it either, and leaves the instance out",
        help: "register an IP address, or a name that the gateway's resolver knows",
    },
    Words {
        code: "L015",
        severity: Severity::Warning,
        why: "metadata is not in the list of services, so no gateway looks for routes there",
        help: "add the tag to the instance",
    },
];
