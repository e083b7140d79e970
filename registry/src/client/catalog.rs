//! `/v1/catalog/services`: the names of all services, each with the union of its instances' tags.

use std::collections::BTreeMap;

use crate::client::{Client, ClientError, Consistency, QueryOptions, Reading};

/// The answer of `/v1/catalog/services` (see [`Client::catalog_read`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The name of each service with the tags of all its instances, healthy or not; the tags are sorted.
    pub services: BTreeMap<String, Vec<String>>,
    /// `X-Consul-Index`, from which the next blocking query waits; `None` if there is no usable one.
    pub index: Option<u64>,
    /// Consul left out services that the token may not see. Releases before 1.11 do not report this.
    pub filtered_by_acls: bool,
}

impl Client {
    /// Reads the list of services, blocking if `options` has an index: `GET /v1/catalog/services`.
    pub async fn catalog_read(&self, options: &QueryOptions) -> Result<Catalog, ClientError> {
        let Reading { call, index, filtered_by_acls, body } =
            self.read_at("/v1/catalog/services", options).await?;
        let malformed = |detail: String| ClientError::Malformed { call: call.clone(), detail };
        let body = body.ok_or_else(|| malformed("404".to_owned()))?;
        let services: BTreeMap<String, Option<Vec<String>>> =
            serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        let services = services
            .into_iter()
            .map(|(name, tags)| {
                // The order of Consul's list differs from answer to answer.
                let mut tags = tags.unwrap_or_default();
                tags.sort_unstable();
                (name, tags)
            })
            .collect();
        Ok(Catalog { services, index, filtered_by_acls })
    }

    /// Reads the names of all services with the union of their tags, from the leader: `GET /v1/catalog/services`.
    pub async fn catalog_services(&self) -> Result<BTreeMap<String, Vec<String>>, ClientError> {
        let options = QueryOptions { consistency: Consistency::Leader, ..QueryOptions::default() };
        Ok(self.catalog_read(&options).await?.services)
    }
}
