//! Consul's HTTP API as far as a gateway and its services need it: register, deregister, heartbeat, health,
//! catalog, agent, key/value.
//!
//! One call is one exchange with a hard deadline. Calls are not retried here, with one exception: after a 403 the client
//! reads its token file again and tries once with the new token. After a failure the next call goes to the next agent, where
//! there are several. Loops live in [`crate::watch`] and [`crate::Lease`].

mod agents;
mod backoff;
mod budget;
mod catalog;
mod cluster;
mod config;
mod crowd;
mod error;
mod exchange;
mod kv;
mod lease;
mod query;
mod registration;
mod session;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand::RngExt;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::agents::{Agents, SHARED_MAX};
use crate::client::exchange::{describe, refusal};
use crate::client::token::Token;
use crate::http::{HttpClient, HttpOptions};
use crate::types::{AgentSelf, AgentService, CheckStatus, ServiceEntry, parse_entries};

pub(crate) use agents::Place;
pub(crate) use backoff::Backoff;
pub use catalog::Catalog;
pub use config::ClientConfig;
pub(crate) use crowd::{Crowd, Member, Services};
pub use error::ClientError;
pub use kv::{KeyValue, KeyValues};
pub use lease::Lease;
pub use query::{Consistency, QueryOptions};
pub use registration::{Probe, ServiceRegistration};

/// A client of Consul's HTTP API. It speaks with one agent, or with one of several at a time.
///
/// Clones share connections, token and the choice of the agent. Each call is one exchange with a deadline of ten seconds (plus
/// the wait of a blocking query), and is not retried.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// The number of the present agent; it counts on and wraps around.
    agent: Arc<AtomicUsize>,
    /// The number of the shared connection that calls use: that of the place of a watch, otherwise the first.
    connection: Arc<AtomicUsize>,
}

struct Shared {
    /// One HTTP client per shared connection.
    http: [HttpClient; SHARED_MAX],
    agents: Arc<Agents>,
    config: ClientConfig,
    token: Mutex<Token>,
    crowd: Arc<Crowd>,
}

/// The answer of `/v1/health/service/:name` (see [`Client::health_service`]).
#[derive(Debug, Clone, Default)]
pub struct HealthAnswer {
    /// The instances that could be read.
    pub entries: Vec<ServiceEntry>,
    /// One sentence for each element of the answer that could not be read.
    pub skipped: Vec<String>,
    /// `X-Consul-Index`, from which the next blocking query waits. `None` if it is absent, unreadable or 0: a proxy in between
    /// removed it, or the server is not Consul.
    pub index: Option<u64>,
    /// `false` if the server that answered knows no leader, so that the answer may be old.
    pub known_leader: bool,
    /// The time since that server heard from the leader.
    pub last_contact: Duration,
    /// Consul left out instances that the token may not see. Releases before 1.11 do not report this.
    pub filtered_by_acls: bool,
    /// `X-Consul-Query-Backend` (since 1.10). An index of one backend means nothing to another.
    pub backend: Option<String>,
}

/// The answer to a read, before its body is parsed.
pub(crate) struct Reading {
    /// The name of the call in messages.
    pub(crate) call: String,
    /// `X-Consul-Index`; `None` if it is absent, unreadable or 0.
    pub(crate) index: Option<u64>,
    /// Consul left out what the token may not see (reported since 1.11).
    pub(crate) filtered_by_acls: bool,
    /// `None` after a 404.
    pub(crate) body: Option<Bytes>,
}

impl Client {
    /// Builds a client without a connection. Fails if an address, the token, its file, or a file for TLS cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        let agents = Arc::new(Agents::new(&config)?);
        let http = HttpClient::new(&HttpOptions { tls: config.tls.clone() })
            .map_err(|error| ClientError::Config(error.to_string()))?;
        let token = Token::new(config.token_file.as_deref(), config.token.as_deref(), Instant::now())?;
        let first = rand::rng().random_range(0..agents.count());
        let http = std::array::from_fn(|_| http.apart());
        let shared = Shared { http, agents, config, token: Mutex::new(token), crowd: Arc::default() };
        Ok(Self {
            shared: Arc::new(shared),
            agent: Arc::new(AtomicUsize::new(first)),
            connection: Arc::default(),
        })
    }

    /// The URL of the agent that gets the next call, for messages.
    pub fn address(&self) -> &str {
        &self.shared.agents.get(self.agent()).url
    }

    /// The same client with its own choice of agent, so that many watches spread over all of them.
    pub(crate) fn independent(mut self) -> Self {
        let first = rand::rng().random_range(0..self.shared.agents.count());
        self.agent = Arc::new(AtomicUsize::new(first));
        self.connection = Arc::default();
        self
    }

    /// The number of the present agent. When it changes, the index of an earlier query is meaningless.
    pub(crate) fn agent(&self) -> usize {
        self.agent.load(Ordering::Relaxed) % self.shared.agents.count()
    }

    /// A place for a blocking query at the present agent; `None` if all of its places are taken. From now on the calls of this
    /// client, which must be [`Client::independent`], use the connection of that place.
    pub(crate) fn take_place(&self) -> Option<Place> {
        let place = Place::take(&self.shared.agents, self.agent());
        self.connection.store(place.as_ref().map_or(0, |place| place.connection), Ordering::Relaxed);
        place
    }

    /// The watches that poll, because their agent has no place for another blocking query.
    pub(crate) fn crowd(&self) -> &Arc<Crowd> {
        &self.shared.crowd
    }

    /// Registers a service: `PUT /v1/agent/service/register`. Checks that the agent has and the registration lacks are
    /// removed. [`Lease`] keeps a service registered.
    pub async fn register(&self, registration: &ServiceRegistration) -> Result<(), ClientError> {
        let body = registration.to_json().to_string();
        let path = "/v1/agent/service/register?replace-existing-checks=true".to_owned();
        self.call(Method::PUT, path, body.into(), WRITE_DEADLINE).await.map(drop)
    }

    /// Removes a service: `PUT /v1/agent/service/deregister/:id`. An id that the agent does not know is not an error.
    pub async fn deregister(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/service/deregister/{}", encode(id));
        match self.call(Method::PUT, path, Bytes::new(), WRITE_DEADLINE).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sets the status of a TTL check, with a note for people: `PUT /v1/agent/check/update/:id`.
    pub async fn check_update(
        &self,
        check_id: &str,
        status: CheckStatus,
        note: &str,
    ) -> Result<(), ClientError> {
        let body = serde_json::json!({"Status": status.as_str(), "Output": note}).to_string();
        let path = format!("/v1/agent/check/update/{}", encode(check_id));
        self.call(Method::PUT, path, body.into(), WRITE_DEADLINE).await.map(drop)
    }

    /// Sends the heartbeat of a TTL check: `PUT /v1/agent/check/pass/:id`.
    pub async fn check_pass(&self, check_id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/check/pass/{}", encode(check_id));
        self.call(Method::PUT, path, Bytes::new(), WRITE_DEADLINE).await.map(drop)
    }

    /// Reads all instances of a service, healthy or not, with their checks: `GET /v1/health/service/:name`.
    pub async fn health_service(
        &self,
        name: &str,
        options: &QueryOptions,
    ) -> Result<HealthAnswer, ClientError> {
        let path = format!("/v1/health/service/{}{}", encode(name), self.query(options));
        let call = describe(&Method::GET, &path);
        let response = self.call(Method::GET, path, Bytes::new(), options.deadline()).await?;
        let (entries, skipped) = parse_entries(&response.body)
            .map_err(|error| ClientError::Malformed { call, detail: error.to_string() })?;
        let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
        Ok(HealthAnswer {
            entries,
            skipped,
            index: header("x-consul-index").and_then(|value| value.parse().ok()).filter(|index| *index > 0),
            known_leader: header("x-consul-knownleader") != Some("false"),
            last_contact: Duration::from_millis(
                header("x-consul-lastcontact").and_then(|value| value.parse().ok()).unwrap_or(0),
            ),
            filtered_by_acls: header("x-consul-results-filtered-by-acls") == Some("true"),
            backend: header("x-consul-query-backend").map(str::to_owned),
        })
    }

    /// Reads the agent's own settings: `GET /v1/agent/self`.
    pub async fn agent_self(&self) -> Result<AgentSelf, ClientError> {
        self.read("/v1/agent/self".to_owned()).await
    }

    /// Reads the services that are registered with this agent, by id: `GET /v1/agent/services`.
    pub async fn agent_services(&self) -> Result<BTreeMap<String, AgentService>, ClientError> {
        self.read("/v1/agent/services".to_owned()).await
    }

    /// Reads one service of this agent: `GET /v1/agent/service/:id`. An id that the agent does not know is a
    /// [`ClientError::Status`] with 404.
    pub async fn agent_service(&self, id: &str) -> Result<AgentService, ClientError> {
        self.read(format!("/v1/agent/service/{}", encode(id))).await
    }

    /// Reads the leader's address as `host:port`, or `None` while there is no leader: `GET /v1/status/leader`.
    pub async fn status_leader(&self) -> Result<Option<String>, ClientError> {
        let leader: String = self.read("/v1/status/leader".to_owned()).await?;
        Ok(Some(leader).filter(|leader| !leader.is_empty()))
    }

    async fn read<T: DeserializeOwned>(&self, path: String) -> Result<T, ClientError> {
        let call = describe(&Method::GET, &path);
        let response = self.call(Method::GET, path, Bytes::new(), READ_DEADLINE).await?;
        serde_json::from_slice(&response.body)
            .map_err(|error| ClientError::Malformed { call, detail: error.to_string() })
    }

    /// Makes one blocking or plain read. A 404 with an index is an answer: a key that does not exist can be waited for.
    pub(crate) async fn read_at(&self, path: &str, options: &QueryOptions) -> Result<Reading, ClientError> {
        self.read_path(format!("{path}{}", self.query(options)), options).await
    }

    /// As [`Client::read_at`], for a path that has its query already.
    async fn read_path(&self, path: String, options: &QueryOptions) -> Result<Reading, ClientError> {
        let call = describe(&Method::GET, &path);
        let response = self.send(&Method::GET, &path, Bytes::new(), options.deadline()).await?;
        if !response.status.is_success() && response.status != StatusCode::NOT_FOUND {
            return Err(refusal(call, &response));
        }
        let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
        let index = header("x-consul-index").and_then(|value| value.parse().ok()).filter(|index| *index > 0);
        if response.status == StatusCode::NOT_FOUND && index.is_none() {
            return Err(refusal(call, &response));
        }
        Ok(Reading {
            call,
            index,
            filtered_by_acls: header("x-consul-results-filtered-by-acls") == Some("true"),
            body: response.status.is_success().then_some(response.body),
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PATH_SEGMENT).to_string()
}

/// All bytes except the unreserved characters of RFC 3986 §2.3 are encoded, so that any name arrives unchanged.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longer than the 7 s for which Consul holds a call while it looks for a leader.
const READ_DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new(ClientConfig::new("127.0.0.1:1")).unwrap()
    }

    #[test]
    fn names_are_encoded_whatever_they_contain() {
        assert_eq!(encode("a b/c?d#é"), "a%20b%2Fc%3Fd%23%C3%A9");
        assert_eq!(encode("users-v1.2_x~"), "users-v1.2_x~");
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_reported_with_advice() {
        let error = client().status_leader().await.unwrap_err();
        assert!(error.is_transport());
        let text = error.to_string();
        assert!(text.contains("connection refused") && text.contains("CONSUL_HTTP_ADDR"), "{text}");
    }

    /// The agent accepts and never speaks TLS. A call that waits for another call to open the connection must not stay with this
    /// agent, or a hundred watches would leave it one by one.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_in_vain_for_a_connection_goes_on_to_the_next_agent() {
        let config = ClientConfig {
            further_addresses: vec!["https://127.0.0.1:2".to_owned()],
            ..ClientConfig::new("https://127.0.0.1:1")
        };
        let client = Client::new(config).unwrap();
        let silent = client.agent();
        let _opening = client.shared.agents.get(silent).to_open(0).unwrap().opening.lock().await;
        let error = client.status_leader().await.unwrap_err();
        assert!(error.to_string().contains("another call is still waiting"), "{error}");
        assert_ne!(client.agent(), silent);
    }
}
