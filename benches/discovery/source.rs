//! The registry that the gateway follows.

use anyhow::{Context, bail};
use millgate_registry::{
    Client, ClientConfig, EmbeddedRegistry, RegistryOptions, ServerLimits, testing::ConsulProcess,
};

use crate::Kind;

pub(crate) struct Source {
    pub(crate) client: Client,
    pub(crate) url: String,
    _registry: Registry,
}

#[expect(dead_code, reason = "they live as long as they are held")]
enum Registry {
    Consul(ConsulProcess),
    Embedded(EmbeddedRegistry),
}

impl Source {
    pub(crate) async fn start(kind: Kind) -> anyhow::Result<Self> {
        let (url, registry) = match kind {
            Kind::Consul => {
                let Some(process) = ConsulProcess::start().await else {
                    bail!("there is no Consul: set CONSUL_BIN to its path (`.ci/consul` fetches one)");
                };
                (process.url(), Registry::Consul(process))
            }
            Kind::Embedded => {
                let mut limits = ServerLimits::default();
                limits.store.services = limits.store.services.max(20_000);
                let options = RegistryOptions {
                    listen: ([127, 0, 0, 1], 0).into(),
                    limits,
                    ..RegistryOptions::default()
                };
                let registry = EmbeddedRegistry::start(options).await.context("the embedded registry")?;
                (registry.url(), Registry::Embedded(registry))
            }
        };
        let client = Client::new(ClientConfig::new(&url))?;
        Ok(Self { client, url, _registry: registry })
    }
}
