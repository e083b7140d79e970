//! Instances on many nodes, written into the catalog as their agents would write them. With one agent, the agent would be
//! measured: it goes through all of its services at every change of one.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use millgate_registry::{CheckStatus, HttpClient, HttpOptions, TlsOptions};
use serde_json::{Value, json};

#[derive(Clone)]
pub(crate) struct Catalog {
    http: HttpClient,
    url: String,
}

/// One instance of a service, on a node that it shares with instances of other services.
pub(crate) struct Place<'a> {
    pub(crate) service: &'a str,
    /// The number of the instance among those of all services.
    pub(crate) number: usize,
    pub(crate) id: String,
}

impl Catalog {
    pub(crate) fn new(base: &str, tls: TlsOptions) -> anyhow::Result<Self> {
        let http = HttpClient::new(&HttpOptions { tls })?;
        Ok(Self { http, url: format!("{base}/v1/catalog/register") })
    }

    pub(crate) async fn register(&self, place: &Place<'_>, address: &str, port: u16) -> anyhow::Result<()> {
        let service = json!({"ID": place.id, "Service": place.service, "Address": address, "Port": port});
        let mut body = place.node();
        body["Service"] = service;
        body["Check"] = place.check(CheckStatus::Critical);
        self.put(&body).await
    }

    pub(crate) async fn set(&self, place: &Place<'_>, status: CheckStatus) -> anyhow::Result<()> {
        let mut body = place.node();
        body["SkipNodeUpdate"] = true.into();
        body["Check"] = place.check(status);
        self.put(&body).await
    }

    async fn put(&self, body: &Value) -> anyhow::Result<()> {
        let body = Bytes::from(body.to_string());
        let sent = self.http.send(Method::PUT, &self.url, HeaderMap::new(), body, DEADLINE, 64 * 1024);
        let answer = sent.await.context("the catalog")?;
        if !answer.status.is_success() {
            bail!("the catalog answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(())
    }
}

impl Place<'_> {
    fn node(&self) -> Value {
        let node = self.number % NODES;
        json!({"Node": format!("scale-{node}"), "Address": format!("10.1.0.{}", node + 1)})
    }

    fn check(&self, status: CheckStatus) -> Value {
        json!({"CheckID": format!("service:{}", self.id), "Name": "its agent's", "ServiceID": self.id,
            "Status": status.as_str()})
    }
}

/// The number of nodes on which the instances are.
const NODES: usize = 100;
const DEADLINE: Duration = Duration::from_secs(30);
