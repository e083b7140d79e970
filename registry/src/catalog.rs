//! `/v1/catalog/services`: which services there are and the union of their instances' tags, read and followed; and
//! whether the ACL token is one that Consul knows.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::client::{Client, Reading};
use crate::error::ClientError;
use crate::follow::{Follow, FollowHandle, FollowOptions};
use crate::types::{Consistency, QueryOptions};

/// What `/v1/catalog/services` answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Names with the union of the tags of all instances, healthy or not; tags sorted.
    pub services: BTreeMap<String, Vec<String>>,
    /// `X-Consul-Index`.
    pub index: Option<u64>,
    /// Consul says (since 1.11) that it left out services which the token may not see.
    pub filtered_by_acls: bool,
}

impl Client {
    /// `GET /v1/catalog/services`, blocking if `options` has an index.
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
                // Consul's order differs from answer to answer.
                let mut tags = tags.unwrap_or_default();
                tags.sort_unstable();
                (name, tags)
            })
            .collect();
        Ok(Catalog { services, index, filtered_by_acls })
    }

    /// `GET /v1/catalog/services`: the names of all services with the union of their tags.
    pub async fn catalog_services(&self) -> Result<BTreeMap<String, Vec<String>>, ClientError> {
        let options = QueryOptions { consistency: Consistency::Leader, ..QueryOptions::default() };
        Ok(self.catalog_read(&options).await?.services)
    }
}

/// Follows the list of services: sends what `keep` makes of it, once at the beginning and whenever that changed.
///
/// Consul wakes such a query for every change of any service. `keep` leaves out what the receiver does not need, so
/// that most of these wake-ups end here.
pub fn follow_catalog<T: PartialEq + Clone + Send + 'static>(
    client: Client,
    options: FollowOptions,
    keep: impl Fn(Catalog) -> T + Send + 'static,
    updates: mpsc::Sender<T>,
) -> FollowHandle {
    let client = client.independent();
    FollowHandle::spawn("list of services".to_owned(), Consistency::Stale, options, move |follow| {
        run(client, keep, follow, updates)
    })
}

async fn run<T: PartialEq + Clone>(
    client: Client,
    keep: impl Fn(Catalog) -> T,
    mut follow: Follow,
    updates: mpsc::Sender<T>,
) {
    let mut known: Option<T> = None;
    loop {
        let query = follow.query(client.agent());
        let Some(answer) = follow.answer(&client, client.catalog_read(&query)).await else { continue };
        let pause = match answer {
            Ok(catalog) => {
                let index = catalog.index;
                let kept = keep(catalog);
                let news = known.as_ref() != Some(&kept);
                if news {
                    known = Some(kept.clone());
                    if updates.send(kept).await.is_err() {
                        return;
                    }
                }
                // Other services' changes are what a busy catalog wakes with: they are asked for at a slower pace.
                follow.answered(index, news)
            }
            Err(error) => follow.failed(&error),
        };
        follow.rest(pause, &client).await;
    }
}
