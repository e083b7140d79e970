//! The options of a read: how it blocks, which server may answer, and what is left out.

use std::time::Duration;

use crate::client::registration::go_duration;
use crate::client::{Client, READ_DEADLINE, encode};

/// Which of Consul's servers may answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Consistency {
    /// Any server may answer, even without a leader, and its answer may be old. A gateway wants this: discovery goes on when
    /// the leader is lost.
    #[default]
    Stale,
    /// The leader answers while it holds its lease. The read fails while there is no leader.
    Leader,
    /// The leader answers after a quorum confirmed that it leads, which costs one more round trip per answer.
    Consistent,
}

/// Options of a read of Consul's API.
#[derive(Debug, Clone, Default)]
pub struct QueryOptions {
    /// The read blocks until the index of the answer is above this one; with `None` or 0 it is answered at once.
    pub index: Option<u64>,
    /// The longest time for which a blocking query may block. Consul adds up to a sixteenth of it.
    pub wait: Option<Duration>,
    /// Which server may answer.
    pub consistency: Consistency,
    /// Leaves out instances of which a check, or a check of their node, does not pass.
    pub passing: bool,
    /// Leaves out instances that lack one of these tags; Consul ignores case here.
    pub tags: Vec<String>,
    /// The datacenter of this read, instead of the client's.
    pub datacenter: Option<String>,
    /// The namespace (Consul Enterprise). The open-source edition answers 400 to any namespace, even `default`.
    pub namespace: Option<String>,
    /// The admin partition (Consul Enterprise). The open-source edition ignores it.
    pub partition: Option<String>,
}

impl QueryOptions {
    /// How long to wait for the answer: a blocking query may take its wait, and Consul's jitter of up to a sixteenth on top.
    pub(crate) fn deadline(&self) -> Duration {
        match (self.index, self.wait) {
            (Some(index), Some(wait)) if index > 0 => wait + wait / 16 + READ_DEADLINE,
            _ => READ_DEADLINE,
        }
    }
}

impl Client {
    /// The query string of a write: the client's datacenter, if it has one.
    pub(crate) fn own_datacenter(&self) -> String {
        self.query(&QueryOptions { consistency: Consistency::Leader, ..QueryOptions::default() })
    }

    /// The query string of a read with these options; empty if all of them have their defaults.
    pub(crate) fn query(&self, options: &QueryOptions) -> String {
        let mut pairs: Vec<String> = Vec::new();
        match options.consistency {
            Consistency::Stale => pairs.push("stale".to_owned()),
            Consistency::Consistent => pairs.push("consistent".to_owned()),
            Consistency::Leader => {}
        }
        if let Some(index) = options.index.filter(|index| *index > 0) {
            pairs.push(format!("index={index}"));
            if let Some(wait) = options.wait {
                pairs.push(format!("wait={}", go_duration(wait)));
            }
        }
        if options.passing {
            pairs.push("passing".to_owned());
        }
        pairs.extend(options.tags.iter().map(|tag| format!("tag={}", encode(tag))));
        let datacenter = options.datacenter.as_ref().or(self.shared.config.datacenter.as_ref());
        for (name, value) in [
            ("dc", datacenter),
            ("ns", options.namespace.as_ref()),
            ("partition", options.partition.as_ref()),
        ] {
            pairs.extend(value.map(|value| format!("{name}={}", encode(value))));
        }
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientConfig;

    #[test]
    fn an_index_of_zero_is_not_sent() {
        let options =
            QueryOptions { index: Some(0), wait: Some(Duration::from_secs(9)), ..QueryOptions::default() };
        let client = Client::new(ClientConfig::new("127.0.0.1:1")).unwrap();
        assert_eq!(client.query(&options), "?stale");
        let options = QueryOptions { index: Some(7), ..options };
        assert_eq!(client.query(&options), "?stale&index=7&wait=9000ms");
    }

    #[test]
    fn the_deadline_covers_the_wait_and_its_jitter() {
        let wait = Some(Duration::from_secs(48));
        let options = QueryOptions { index: Some(7), wait, ..QueryOptions::default() };
        assert_eq!(options.deadline(), Duration::from_secs(61));
        assert_eq!(QueryOptions { index: None, ..options }.deadline(), Duration::from_secs(10));
    }
}
