//! The registry that the gateway follows.

use anyhow::{Context, bail};
use millgate_registry::{
    Client, ClientConfig, EmbeddedRegistry, RegistryOptions, ServerLimits, TlsOptions,
    testing::{ConsulProcess, ConsulServer},
};

use crate::{Kind, catalog::Catalog};

pub(crate) struct Source {
    pub(crate) client: Client,
    pub(crate) catalog: Catalog,
    pub(crate) url: String,
    /// The fields that a configuration needs in addition to the address, in YAML's flow form.
    pub(crate) tls: String,
    _registry: Registry,
}

#[expect(dead_code, reason = "they live as long as they are held")]
enum Registry {
    Consul(ConsulProcess),
    ConsulHttps(Box<ConsulServer>, tempfile::TempDir),
    Embedded(EmbeddedRegistry),
}

impl Source {
    pub(crate) async fn start(kind: Kind) -> anyhow::Result<Self> {
        let (url, registry) = match kind {
            Kind::Consul => {
                let process = ConsulProcess::start().await.context(NO_CONSUL)?;
                (process.url(), Registry::Consul(process))
            }
            Kind::ConsulHttps => return Self::over_https().await,
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
        let catalog = Catalog::new(&url, TlsOptions::default())?;
        Ok(Self { client, catalog, url, tls: String::new(), _registry: registry })
    }

    async fn over_https() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        if !ConsulServer::certificates(folder.path()) {
            bail!(NO_CONSUL);
        }
        let file = |name: &str| folder.path().join(name);
        let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
        let tls = format!(
            ", ca_file: \"{}\", cert_file: \"{}\", key_file: \"{}\", server_name: {SERVER_NAME}",
            ca.display(),
            cert.display(),
            key.display()
        );
        let options = TlsOptions {
            ca_file: Some(ca),
            cert_file: Some(cert),
            key_file: Some(key),
            server_name: Some(SERVER_NAME.to_owned()),
        };
        let config = |address| ClientConfig {
            tls: options.clone(),
            ..ClientConfig::new(format!("https://{address}"))
        };
        let server = ConsulServer::dev_with_tls(folder.path(), config).await.context(NO_CONSUL)?;
        let (client, url) = (server.client(), server.url().to_owned());
        let catalog = Catalog::new(&url, options)?;
        Ok(Self { client, catalog, url, tls, _registry: Registry::ConsulHttps(Box::new(server), folder) })
    }
}

const NO_CONSUL: &str = "there is no Consul: set CONSUL_BIN to its path (`.ci/consul` fetches one)";
/// The name in the certificate that `consul tls cert create` makes for a server of dc1.
const SERVER_NAME: &str = "server.dc1.consul";
