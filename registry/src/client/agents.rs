//! The agents of a client: their addresses, and how many blocking queries each of them has places for.
//!
//! A client begins with a random agent and moves on to the next one when a call fails. The index of a blocking query means
//! nothing to another agent, so a loop that keeps an index compares [`Client::agent`](crate::Client) before and after.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::ClientConfig;
use crate::client::ClientError;
use crate::client::budget::Budget;

/// All agents of a configuration; at least one.
#[derive(Debug)]
pub(crate) struct Agents {
    all: Vec<Agent>,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The beginning of every URL, without a slash at its end.
    pub(crate) url: String,
    secure: bool,
    /// The number of places where each query needs a connection of its own.
    apart_max: usize,
    places: Mutex<Places>,
    shared: [Shared; SHARED_MAX],
}

/// A connection that many queries can share over HTTP/2. The first one also carries the other calls.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// A call was answered over it.
    warm: AtomicBool,
    /// Held by the call that opens it, so that a hundred watches do not open a hundred.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Places {
    budget: Budget,
    /// The number of places that are taken on each shared connection.
    on: [usize; SHARED_MAX],
}

impl Agents {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let all = config.base_urls()?.into_iter().map(|url| {
            let secure = url.starts_with("https:");
            let most = if secure { MULTIPLEXED_MAX * SHARED_MAX } else { config.blocking_queries_max };
            Agent {
                url,
                secure,
                apart_max: config.blocking_queries_max,
                places: Mutex::new(Places { budget: Budget::new(most), on: [0; SHARED_MAX] }),
                shared: Default::default(),
            }
        });
        Ok(Self { all: all.collect() })
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The agent with this number; numbers wrap around.
    pub(crate) fn get(&self, number: usize) -> &Agent {
        &self.all[number % self.all.len()]
    }
}

impl Agent {
    /// The shared connection of this number, while it is not known whether queries can share it. The call should then wait for
    /// the call that opens it.
    pub(crate) fn to_open(&self, connection: usize) -> Option<&Shared> {
        self.shared.get(connection).filter(|shared| self.secure && !shared.warm.load(Ordering::Acquire))
    }

    /// Records an answer. If it came over HTTP/1.1 (from a proxy in between), queries cannot share a connection after all.
    pub(crate) fn answered(&self, connection: usize, version: http::Version) {
        if self.secure && version < http::Version::HTTP_2 {
            self.places().budget.restrict(self.apart_max);
        }
        self.places().budget.answered(Instant::now());
        self.set_warm(connection, true);
    }

    /// Records an exchange that failed `after` this time.
    pub(crate) fn broke(&self, connection: usize, error: &ClientError, after: Duration) {
        self.set_warm(connection, false);
        let now = Instant::now();
        match error {
            // Consul 1.8 resets connections that are too many, without an answer.
            error if error.is_cut() && after < CUT_AT_ONCE => self.places().budget.reset(now),
            error if error.is_cut() => self.places().budget.gone(now),
            ClientError::Unreachable { .. } => self.places().budget.gone(now),
            // Silence has many causes.
            _ => {}
        }
    }

    /// Records that the agent refused a query as one too many.
    pub(crate) fn refused(&self) {
        self.places().budget.refused(Instant::now());
    }

    fn set_warm(&self, connection: usize, warm: bool) {
        if let Some(shared) = self.shared.get(connection) {
            shared.warm.store(warm, Ordering::Release);
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // Each field is whole by itself.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Takes a place; the number of the shared connection that it is on.
    fn take(&mut self, secure: bool, now: Instant) -> Option<usize> {
        if !self.budget.take(now) {
            return None;
        }
        // Where queries do not share connections, one pool holds them all.
        let has_room = |taken: &usize| !secure || *taken < MULTIPLEXED_MAX;
        let connection = self.on.iter().position(has_room).unwrap_or(0);
        self.on[connection] += 1;
        Some(connection)
    }

    fn give_back(&mut self, connection: usize) {
        self.budget.give_back();
        self.on[connection] = self.on[connection].saturating_sub(1);
    }
}

/// A place for one blocking query at one agent. It is given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    agents: Arc<Agents>,
    agent: usize,
    /// The number of the shared connection that the query uses.
    pub(crate) connection: usize,
}

impl Place {
    /// Takes a place; `None` if all places of this agent are taken.
    pub(crate) fn take(agents: &Arc<Agents>, agent: usize) -> Option<Self> {
        let chosen = agents.get(agent);
        let connection = chosen.places().take(chosen.secure, Instant::now())?;
        Some(Self { agents: Arc::clone(agents), agent, connection })
    }

    /// Whether the place belongs to `agent`, and the agent still has as many places as are taken.
    pub(crate) fn is_good_for(&self, agent: usize) -> bool {
        self.agent == agent && !self.agents.get(agent).places().budget.is_over()
    }

    /// The longest time for which a query in this place may block, where that is limited.
    pub(crate) fn wait_max(&self) -> Option<Duration> {
        self.agents.get(self.agent).places().budget.wait_max()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.agents.get(self.agent).places().give_back(self.connection);
    }
}

/// A connection that ends this soon after the request was refused, and not cut in the middle of a wait.
const CUT_AT_ONCE: Duration = Duration::from_secs(1);
/// Queries that share a connection: fewer than the 250 streams that Go's HTTP/2 server admits, so that other calls get
/// through. Further streams would wait silently until another one ends.
const MULTIPLEXED_MAX: usize = 200;
/// Shared connections to one agent. They carry the queries of 2,000 services, with a twentieth of the 200 connections that an
/// agent admits from one address. Further services are polled.
pub(crate) const SHARED_MAX: usize = 10;

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

    #[test]
    fn over_https_a_connection_is_full_before_the_next_one_is_used() {
        let agents = Arc::new(Agents::new(&ClientConfig::new("https://127.0.0.1:1")).unwrap());
        let take = || Place::take(&agents, 0);
        let places: Vec<Place> = std::iter::from_fn(take).collect();
        assert_eq!(places.len(), MULTIPLEXED_MAX * SHARED_MAX);
        let on = |connection| places.iter().filter(|place| place.connection == connection).count();
        assert!((0..SHARED_MAX).all(|connection| on(connection) == MULTIPLEXED_MAX));
        drop(places);
        assert_eq!(take().unwrap().connection, 0);
    }
}
