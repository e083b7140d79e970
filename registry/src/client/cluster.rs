//! The name of the cluster that answers, which distinguishes two registries behind one address.

use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use crate::client::{Client, ClientError, WRITE_DEADLINE};

/// The part of `/v1/connect/ca/roots` that differs between clusters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Roots {
    trust_domain: Option<String>,
}

impl Client {
    /// Reads the name of the cluster that answers: the trust domain of its mesh, which the cluster chooses once at random.
    /// `None` if the cluster does not report one.
    pub async fn cluster(&self) -> Result<Option<String>, ClientError> {
        // A cluster without a mesh answers with an error, for which other calls must not change their agent.
        let client = self.clone().independent();
        let path = "/v1/connect/ca/roots".to_owned();
        let roots: Option<Roots> = match client.call(Method::GET, path, Bytes::new(), WRITE_DEADLINE).await {
            Ok(answer) => serde_json::from_slice(&answer.body).ok(),
            Err(error) if error.is_transport() => return Err(error),
            Err(_) => None,
        };
        let named = roots.and_then(|roots| roots.trust_domain);
        Ok(named.filter(|name| !name.is_empty() && name.len() <= CLUSTER_BYTES_MAX))
    }
}

/// A trust domain is a UUID and a word.
const CLUSTER_BYTES_MAX: usize = 256;
