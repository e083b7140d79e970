//! `/v1/kv`: reads, writes and deletes one key at a time, and reads all keys with a prefix.

use std::collections::BTreeMap;

use base64::Engine;
use bytes::Bytes;
use http::Method;

use crate::client::{Client, ClientError, Consistency, QueryOptions, Reading, WRITE_DEADLINE, encode};
use crate::types::KvPair;

/// The value of a key and the index at which it was read (see [`Client::kv_read`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The value; `None` if the key does not exist.
    pub value: Option<Bytes>,
    /// `X-Consul-Index`, from which the next blocking read waits; `None` if there is no usable one.
    pub index: Option<u64>,
}

/// The keys with a prefix and the index at which they were read (see [`Client::kv_list`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValues {
    /// Values by their full keys.
    pub values: BTreeMap<String, Bytes>,
    /// As [`KeyValue::index`].
    pub index: Option<u64>,
}

impl Client {
    /// Reads all keys that begin with `prefix`, blocking if `options` has an index: `GET /v1/kv/:prefix?recurse`. Keys that the
    /// ACL token may not read are left out, as Consul does.
    pub async fn kv_list(&self, prefix: &str, options: &QueryOptions) -> Result<KeyValues, ClientError> {
        let query = self.query(options).replacen('?', "&", 1);
        let path = format!("/v1/kv/{}?recurse{query}", encode(prefix));
        let Reading { call, index, body, .. } = self.read_path(path, options).await?;
        let Some(body) = body else { return Ok(KeyValues { values: BTreeMap::new(), index }) };
        let malformed = |detail: String| ClientError::Malformed { call: call.clone(), detail };
        let pairs: Vec<KvPair> =
            serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        let mut values = BTreeMap::new();
        for pair in pairs {
            let value = base64::engine::general_purpose::STANDARD.decode(pair.value.unwrap_or_default());
            values.insert(pair.key, value.map_err(|error| malformed(error.to_string()))?.into());
        }
        Ok(KeyValues { values, index })
    }

    /// Reads a key, blocking if `options` has an index: `GET /v1/kv/:key`. A key that does not exist is not an error.
    pub async fn kv_read(&self, key: &str, options: &QueryOptions) -> Result<KeyValue, ClientError> {
        let Reading { call, index, body, .. } =
            self.read_at(&format!("/v1/kv/{}", encode(key)), options).await?;
        let Some(body) = body else { return Ok(KeyValue { value: None, index }) };
        let malformed = |detail: String| ClientError::Malformed { call: call.clone(), detail };
        let mut pairs: Vec<KvPair> =
            serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        let count = pairs.len();
        let Some(pair) = pairs.pop().filter(|_| count == 1) else {
            return Err(malformed(format!("{count} keys instead of one")));
        };
        let text = pair.value.unwrap_or_default();
        let value = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| malformed(error.to_string()))?;
        Ok(KeyValue { value: Some(value.into()), index })
    }

    /// Reads the value of a key from the leader, or `None` if the key does not exist: `GET /v1/kv/:key`.
    pub async fn kv_get(&self, key: &str) -> Result<Option<Bytes>, ClientError> {
        Ok(self.kv_read(key, &from_the_leader()).await?.value)
    }

    /// Writes a key: `PUT /v1/kv/:key`.
    pub async fn kv_put(&self, key: &str, value: impl Into<Bytes>) -> Result<(), ClientError> {
        let path = format!("/v1/kv/{}{}", encode(key), self.query(&from_the_leader()));
        self.call(Method::PUT, path, value.into(), WRITE_DEADLINE).await.map(drop)
    }

    /// Deletes a key: `DELETE /v1/kv/:key`. A key that does not exist is not an error.
    pub async fn kv_delete(&self, key: &str) -> Result<(), ClientError> {
        let path = format!("/v1/kv/{}{}", encode(key), self.query(&from_the_leader()));
        self.call(Method::DELETE, path, Bytes::new(), WRITE_DEADLINE).await.map(drop)
    }
}

fn from_the_leader() -> QueryOptions {
    QueryOptions { consistency: Consistency::Leader, ..QueryOptions::default() }
}
