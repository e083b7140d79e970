//! `/v1/kv`: one key at a time, read, written, deleted, and followed.

use base64::Engine;
use bytes::Bytes;
use http::Method;
use tokio::sync::mpsc;

use crate::client::{Client, Reading, WRITE_DEADLINE, encode};
use crate::error::ClientError;
use crate::follow::{Follow, FollowHandle, FollowOptions};
use crate::types::{Consistency, KvPair, QueryOptions};

/// What a key held when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// `None`: there is no such key.
    pub value: Option<Bytes>,
    /// `X-Consul-Index`: what a blocking read waits from.
    pub index: Option<u64>,
}

impl Client {
    /// `GET /v1/kv/:key`, blocking if `options` has an index. A key that is not there is an answer.
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

    /// `GET /v1/kv/:key`: the value, or `None` if there is no such key.
    pub async fn kv_get(&self, key: &str) -> Result<Option<Bytes>, ClientError> {
        Ok(self.kv_read(key, &from_the_leader()).await?.value)
    }

    /// `PUT /v1/kv/:key`.
    pub async fn kv_put(&self, key: &str, value: impl Into<Bytes>) -> Result<(), ClientError> {
        let path = format!("/v1/kv/{}{}", encode(key), self.query(&from_the_leader()));
        self.call(Method::PUT, path, value.into(), WRITE_DEADLINE).await.map(drop)
    }

    /// `DELETE /v1/kv/:key`; a key that is not there counts as done.
    pub async fn kv_delete(&self, key: &str) -> Result<(), ClientError> {
        let path = format!("/v1/kv/{}{}", encode(key), self.query(&from_the_leader()));
        self.call(Method::DELETE, path, Bytes::new(), WRITE_DEADLINE).await.map(drop)
    }
}

/// Follows one key: sends its value (`None`: not there) whenever it is not `known`, and each change from then on.
///
/// Reads ask the leader: a server that is behind would bring back an old value.
pub fn follow_key(
    client: Client,
    key: String,
    known: Option<Bytes>,
    options: FollowOptions,
    updates: mpsc::Sender<Option<Bytes>>,
) -> FollowHandle {
    let (client, what) = (client.independent(), format!("key `{key}`"));
    FollowHandle::spawn(what, Consistency::Leader, options, move |follow| {
        run(client, key, known, follow, updates)
    })
}

async fn run(
    client: Client,
    key: String,
    mut known: Option<Bytes>,
    mut follow: Follow,
    updates: mpsc::Sender<Option<Bytes>>,
) {
    loop {
        let query = follow.query(client.agent());
        let Some(answer) = follow.answer(&client, client.kv_read(&key, &query)).await else { continue };
        let pause = match answer {
            Ok(KeyValue { value, index }) => {
                let news = value != known;
                if news {
                    known.clone_from(&value);
                    if updates.send(value).await.is_err() {
                        return;
                    }
                }
                follow.answered(index, news)
            }
            Err(error) => follow.failed(&error),
        };
        follow.rest(pause, &client).await;
    }
}

fn from_the_leader() -> QueryOptions {
    QueryOptions { consistency: Consistency::Leader, ..QueryOptions::default() }
}
