//! `/v1/session` and locks on keys: who may do what only one may do at a time.
//!
//! A session lives as long as it is renewed within its TTL (Consul waits up to twice as long); with it ends its hold on keys, and
//! after the lock's delay another session may take them.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use crate::client::registration::go_duration;
use crate::client::{Client, ClientError, WRITE_DEADLINE, describe, encode};

/// The part of the answer of `/v1/session/create` that is used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

impl Client {
    /// Begins a session without health checks, and returns its id: `PUT /v1/session/create`. The locks that it holds are released when
    /// it ends, and can be taken again after `lock_delay`. Consul accepts a TTL from 10 s to 24 h.
    pub async fn session_create(
        &self,
        name: &str,
        ttl: Duration,
        lock_delay: Duration,
    ) -> Result<String, ClientError> {
        let body = serde_json::json!({
            "Name": name,
            "TTL": go_duration(ttl),
            "LockDelay": go_duration(lock_delay),
            "Behavior": "release",
            // The TTL alone decides: the health of the agent's node says nothing about this process.
            "NodeChecks": [],
            "Checks": [],
        });
        let path = format!("/v1/session/create{}", self.own_datacenter());
        let call = describe(&Method::PUT, &path);
        let answer = self.call(Method::PUT, path, body.to_string().into(), WRITE_DEADLINE).await?;
        let created: Created = serde_json::from_slice(&answer.body)
            .map_err(|error| ClientError::Malformed { call, detail: error.to_string() })?;
        Ok(created.id)
    }

    /// Renews a session: `PUT /v1/session/renew/:id`. A session that has ended is a [`ClientError::Status`] with 404.
    pub async fn session_renew(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/session/renew/{}{}", encode(id), self.own_datacenter());
        self.call(Method::PUT, path, Bytes::new(), WRITE_DEADLINE).await.map(drop)
    }

    /// Ends a session, and so releases its locks at once: `PUT /v1/session/destroy/:id`.
    pub async fn session_destroy(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/session/destroy/{}{}", encode(id), self.own_datacenter());
        self.call(Method::PUT, path, Bytes::new(), WRITE_DEADLINE).await.map(drop)
    }

    /// Writes a key and locks it: `PUT /v1/kv/:key?acquire=SESSION`. `false`: another session holds it, or held it until a moment ago.
    pub async fn kv_acquire(
        &self,
        key: &str,
        session: &str,
        value: impl Into<Bytes>,
    ) -> Result<bool, ClientError> {
        self.locking(key, "acquire", session, value.into()).await
    }

    /// Releases a lock: `PUT /v1/kv/:key?release=SESSION`. `false`: the session did not hold it.
    pub async fn kv_release(&self, key: &str, session: &str) -> Result<bool, ClientError> {
        self.locking(key, "release", session, Bytes::new()).await
    }

    async fn locking(&self, key: &str, verb: &str, session: &str, value: Bytes) -> Result<bool, ClientError> {
        let datacenter = self.own_datacenter().replacen('?', "&", 1);
        let path = format!("/v1/kv/{}?{verb}={}{datacenter}", encode(key), encode(session));
        let answer = self.call(Method::PUT, path, value, WRITE_DEADLINE).await?;
        Ok(answer.body.trim_ascii() == b"true")
    }
}
