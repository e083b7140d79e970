//! Consul's HTTP API as far as a gateway and its services need it: register, deregister, heartbeat, health,
//! catalog, agent, key/value.
//!
//! One call is one exchange with a hard deadline. Nothing is retried here, but for one thing: a 403 makes the
//! client read its token file again and try once with the new token. After a failure the next call goes to the next
//! agent, where there are several. Loops live in [`crate::watch`] and [`crate::Lease`].

mod exchange;

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

use self::exchange::{describe, refusal};
use crate::agents::{Agents, Place, SHARED_MAX};
use crate::client_config::ClientConfig;
use crate::crowd::Crowd;
use crate::error::ClientError;
use crate::http::{HttpClient, HttpOptions};
use crate::registration::{ServiceRegistration, go_duration};
use crate::token::Token;
use crate::types::{
    AgentSelf, AgentService, CheckStatus, Consistency, QueryOptions, ServiceEntry, parse_entries,
};

/// A client of one Consul agent, or of several of which it asks one at a time. Clones share connections, token and
/// the agent that is asked.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Which of the agents is asked; counts on and wraps around.
    agent: Arc<AtomicUsize>,
    /// Which of the connections that calls to an agent share: that of the place of a watch, else the first.
    connection: Arc<AtomicUsize>,
}

struct Shared {
    /// By connection.
    http: [HttpClient; SHARED_MAX],
    agents: Arc<Agents>,
    config: ClientConfig,
    token: Mutex<Token>,
    crowd: Crowd,
}

/// What `/v1/health/service/:name` answered.
#[derive(Debug, Clone, Default)]
pub struct HealthAnswer {
    /// The elements that could be read.
    pub entries: Vec<ServiceEntry>,
    /// One sentence for each element that could not.
    pub skipped: Vec<String>,
    /// `X-Consul-Index`; `None` if it is absent, unreadable or 0 (a proxy in between, or not Consul).
    pub index: Option<u64>,
    /// False if the server that answered knows no leader, so that the answer may be old.
    pub known_leader: bool,
    /// How long ago that server heard from the leader.
    pub last_contact: Duration,
    /// Consul says (since 1.11) that it left out instances which the token may not see.
    pub filtered_by_acls: bool,
    /// `X-Consul-Query-Backend` (since 1.10): the indexes of one backend mean nothing to another.
    pub backend: Option<String>,
}

/// What a read answered, before its body is understood.
pub(crate) struct Reading {
    /// The call in messages.
    pub(crate) call: String,
    /// `X-Consul-Index`; `None` if it is absent, unreadable or 0.
    pub(crate) index: Option<u64>,
    /// Consul says (since 1.11) that it left out what the token may not see.
    pub(crate) filtered_by_acls: bool,
    /// `None`: 404.
    pub(crate) body: Option<Bytes>,
}

impl Client {
    /// Builds a client; no connection is made. Fails if the address, the token or the CA file cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        let agents = Arc::new(Agents::new(&config)?);
        let http = HttpClient::new(&HttpOptions { tls: config.tls.clone() })
            .map_err(|error| ClientError::Config(error.to_string()))?;
        let token = Token::new(config.token_file.as_deref(), config.token.as_deref(), Instant::now())?;
        let first = rand::rng().random_range(0..agents.count());
        let http = std::array::from_fn(|_| http.apart());
        let shared = Shared { http, agents, config, token: Mutex::new(token), crowd: Crowd::default() };
        Ok(Self {
            shared: Arc::new(shared),
            agent: Arc::new(AtomicUsize::new(first)),
            connection: Arc::default(),
        })
    }

    /// The URL of the agent that is asked now, for messages.
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

    /// Which agent is asked: when this changed, no index of a query before means anything.
    pub(crate) fn agent(&self) -> usize {
        self.agent.load(Ordering::Relaxed) % self.shared.agents.count()
    }

    /// A place for a blocking query at the present agent. `None`: it has enough of them. From now on the calls of this
    /// client, which must be [`Client::independent`], go by the connection of that place.
    pub(crate) fn take_place(&self) -> Option<Place> {
        let place = Place::take(&self.shared.agents, self.agent());
        self.connection.store(place.as_ref().map_or(0, |place| place.connection), Ordering::Relaxed);
        place
    }

    pub(crate) fn crowd(&self) -> &Crowd {
        &self.shared.crowd
    }

    /// `PUT /v1/agent/service/register`. Checks that the agent has and the registration lacks are removed.
    pub async fn register(&self, registration: &ServiceRegistration) -> Result<(), ClientError> {
        let body = registration.to_json().to_string();
        let path = "/v1/agent/service/register?replace-existing-checks=true".to_owned();
        self.call(Method::PUT, path, body.into(), WRITE_DEADLINE).await.map(drop)
    }

    /// `PUT /v1/agent/service/deregister/:id`. An id that the agent does not know counts as done.
    pub async fn deregister(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/service/deregister/{}", encode(id));
        match self.call(Method::PUT, path, Bytes::new(), WRITE_DEADLINE).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            other => other.map(drop),
        }
    }

    /// `PUT /v1/agent/check/update/:id`: the status of a TTL check, with a note for people.
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

    /// `PUT /v1/agent/check/pass/:id`: the heartbeat of a TTL check.
    pub async fn check_pass(&self, check_id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/check/pass/{}", encode(check_id));
        self.call(Method::PUT, path, Bytes::new(), WRITE_DEADLINE).await.map(drop)
    }

    /// `GET /v1/health/service/:name`: all instances, healthy or not, with their checks.
    pub async fn health_service(
        &self,
        name: &str,
        options: &QueryOptions,
    ) -> Result<HealthAnswer, ClientError> {
        let path = format!("/v1/health/service/{}{}", encode(name), self.query(options));
        let call = describe(&Method::GET, &path);
        let response = self.call(Method::GET, path, Bytes::new(), read_deadline(options)).await?;
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

    /// `GET /v1/agent/self`.
    pub async fn agent_self(&self) -> Result<AgentSelf, ClientError> {
        self.read("/v1/agent/self".to_owned()).await
    }

    /// `GET /v1/agent/services`: what is registered with this agent, by id.
    pub async fn agent_services(&self) -> Result<BTreeMap<String, AgentService>, ClientError> {
        self.read("/v1/agent/services".to_owned()).await
    }

    /// `GET /v1/agent/service/:id`: one of them; a status error of 404 if it is not there.
    pub async fn agent_service(&self, id: &str) -> Result<AgentService, ClientError> {
        self.read(format!("/v1/agent/service/{}", encode(id))).await
    }

    /// `GET /v1/status/leader`: `host:port`, or `None` while there is no leader.
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

    /// One blocking or plain read. A 404 is an answer, too: what is not there has an index to wait from.
    pub(crate) async fn read_at(&self, path: &str, options: &QueryOptions) -> Result<Reading, ClientError> {
        let path = format!("{path}{}", self.query(options));
        let call = describe(&Method::GET, &path);
        let response = self.send(&Method::GET, &path, Bytes::new(), read_deadline(options)).await?;
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

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PATH_SEGMENT).to_string()
}

/// A blocking query may take its wait and Consul's jitter of up to a sixteenth on top.
fn read_deadline(options: &QueryOptions) -> Duration {
    match (options.index, options.wait) {
        (Some(index), Some(wait)) if index > 0 => wait + wait / 16 + READ_DEADLINE,
        _ => READ_DEADLINE,
    }
}

/// Everything but the unreserved characters of RFC 3986 §2.3, so that any name survives the way.
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
    fn names_are_encoded_whatever_they_hold() {
        assert_eq!(encode("a b/c?d#é"), "a%20b%2Fc%3Fd%23%C3%A9");
        assert_eq!(encode("users-v1.2_x~"), "users-v1.2_x~");
    }

    #[test]
    fn an_index_of_zero_is_not_sent() {
        let options =
            QueryOptions { index: Some(0), wait: Some(Duration::from_secs(9)), ..QueryOptions::default() };
        assert_eq!(client().query(&options), "?stale");
        let options = QueryOptions { index: Some(7), ..options };
        assert_eq!(client().query(&options), "?stale&index=7&wait=9000ms");
    }

    #[test]
    fn the_deadline_covers_the_wait_and_its_jitter() {
        let wait = Some(Duration::from_secs(48));
        let options = QueryOptions { index: Some(7), wait, ..QueryOptions::default() };
        assert_eq!(read_deadline(&options), Duration::from_secs(61));
        assert_eq!(read_deadline(&QueryOptions { index: None, ..options }), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_reported_with_advice() {
        let error = client().status_leader().await.unwrap_err();
        assert!(error.is_transport());
        let text = error.to_string();
        assert!(text.contains("connection refused") && text.contains("CONSUL_HTTP_ADDR"), "{text}");
    }

    /// An agent that accepts and never speaks TLS: whoever waits for another call to open the connection must not
    /// stay with it, or a hundred watches would leave it one by one.
    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_for_a_connection_goes_on_to_the_next_agent() {
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
