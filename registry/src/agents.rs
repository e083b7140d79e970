//! The agents that a client may ask: their addresses, and what each of them can bear.
//!
//! A client begins with a random one and goes on to the next when one fails. The index of a blocking query means
//! nothing to another agent; whoever keeps one compares [`Client::agent`](crate::Client) before and after.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;
use crate::client_config::ClientConfig;
use crate::error::ClientError;

/// All agents of a configuration; at least one.
#[derive(Debug)]
pub(crate) struct Agents {
    all: Vec<Agent>,
}

#[derive(Debug)]
pub(crate) struct Agent {
    /// The beginning of every URL, without a slash at its end.
    pub(crate) url: String,
    secure: bool,
    /// Places where each query needs a connection of its own.
    apart_max: usize,
    budget: Mutex<Budget>,
    /// Something was answered over the connection that all queries can share.
    warm: AtomicBool,
    /// Held by the call that opens that connection, so that a hundred watches do not open a hundred.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

impl Agents {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let all = config.base_urls()?.into_iter().map(|url| {
            let secure = url.starts_with("https:");
            let most = if secure { MULTIPLEXED_MAX } else { config.blocking_queries_max };
            Agent {
                url,
                secure,
                apart_max: config.blocking_queries_max,
                budget: Mutex::new(Budget::new(most)),
                warm: AtomicBool::new(false),
                opening: tokio::sync::Mutex::new(()),
            }
        });
        Ok(Self { all: all.collect() })
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// `number` may be any; it wraps around.
    pub(crate) fn get(&self, number: usize) -> &Agent {
        &self.all[number % self.all.len()]
    }
}

impl Agent {
    /// True while nobody knows yet whether the queries to this agent can share one connection: the call should
    /// wait for the one that finds out.
    pub(crate) fn needs_opening(&self) -> bool {
        self.secure && !self.warm.load(Ordering::Acquire)
    }

    /// Over HTTP/1.1 (a proxy in between) queries do not share a connection after all.
    pub(crate) fn answered(&self, version: http::Version) {
        if self.secure && version < http::Version::HTTP_2 {
            self.budget().restrict(self.apart_max);
        }
        self.budget().answered(Instant::now());
        self.warm.store(true, Ordering::Release);
    }

    /// An exchange came to nothing, `after` this time.
    pub(crate) fn broke(&self, error: &ClientError, after: Duration) {
        self.warm.store(false, Ordering::Release);
        let now = Instant::now();
        match error {
            // 1.8 has no words for "too many connections": it resets them.
            error if error.is_cut() && after < CUT_AT_ONCE => self.budget().reset(now),
            error if error.is_cut() => self.budget().gone(now),
            ClientError::Unreachable { .. } => self.budget().gone(now),
            // Silence tells nothing.
            _ => {}
        }
    }

    /// It says that there are too many queries.
    pub(crate) fn refused(&self) {
        self.budget().refused(Instant::now());
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // Each field is whole by itself.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for one blocking query at one agent; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    agents: Arc<Agents>,
    agent: usize,
}

impl Place {
    /// `None`: all places of this agent are taken.
    pub(crate) fn take(agents: &Arc<Agents>, agent: usize) -> Option<Self> {
        let taken = agents.get(agent).budget().take(Instant::now());
        taken.then(|| Self { agents: Arc::clone(agents), agent })
    }

    /// True if it may be used for `agent`, and there are not too many.
    pub(crate) fn is_good_for(&self, agent: usize) -> bool {
        self.agent == agent && !self.agents.get(agent).budget().is_over()
    }

    /// How long a query in this place may block, where that matters.
    pub(crate) fn wait_max(&self) -> Option<Duration> {
        self.agents.get(self.agent).budget().wait_max()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.agents.get(self.agent).budget().give_back();
    }
}

/// A connection that ends this soon after the question was never meant to be answered.
const CUT_AT_ONCE: Duration = Duration::from_secs(1);
/// Below the 250 streams that Go's HTTP/2 server admits on one connection, so that other calls get through.
const MULTIPLEXED_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_when_it_is_dropped_and_is_good_for_its_agent_only() {
        let config = ClientConfig {
            blocking_queries_max: 1,
            further_addresses: vec!["127.0.0.1:2".to_owned()],
            ..ClientConfig::new("127.0.0.1:1")
        };
        let agents = Arc::new(Agents::new(&config).unwrap());
        let place = Place::take(&agents, 0).unwrap();
        assert!(place.is_good_for(0) && !place.is_good_for(1));
        assert!(Place::take(&agents, 0).is_none());
        assert!(Place::take(&agents, 1).is_some(), "the other agent has its own");
        drop(place);
        assert!(Place::take(&agents, 0).is_some());
    }
}
