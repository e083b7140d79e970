//! One registry to test against: embedded, or a real Consul agent.

use millgate_registry::testing::{self, ConsulProcess};
use millgate_registry::{Compat, EmbeddedRegistry, RegistryOptions};

pub(crate) enum Backend {
    Embedded { running: Option<EmbeddedRegistry>, options: Box<RegistryOptions> },
    Consul(ConsulProcess),
}

impl Backend {
    pub(crate) async fn embedded() -> Self {
        let options = RegistryOptions {
            // It is started again on the same port, see there.
            listen: ([127, 0, 0, 1], testing::restartable_port()).into(),
            node_name: "n1".to_owned(),
            compat: Compat::V1_8,
            ..RegistryOptions::default()
        };
        let running = testing::on_freed_port(|| EmbeddedRegistry::start(options.clone())).await;
        Self::Embedded { running: Some(running), options: Box::new(options) }
    }

    /// `None`: there is no binary, and the test is skipped.
    pub(crate) async fn consul() -> Option<Self> {
        ConsulProcess::start().await.map(Self::Consul)
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Embedded { options, .. } => format!("http://{}", options.listen),
            Self::Consul(process) => process.url(),
        }
    }

    /// HTTP, RPC, gossip in the LAN and in the WAN; `None`: those that Consul has by itself.
    pub(crate) fn ports(&self) -> Option<[u16; 4]> {
        match self {
            Self::Embedded { .. } => None,
            Self::Consul(process) => Some(process.ports()),
        }
    }

    pub(crate) async fn kill(&mut self) {
        match self {
            Self::Embedded { running, .. } => {
                if let Some(running) = running.take() {
                    running.shutdown().await;
                }
            }
            Self::Consul(process) => process.kill(),
        }
    }

    /// The same port, an empty catalog, a low index.
    pub(crate) async fn restart(&mut self) {
        self.kill().await;
        match self {
            Self::Embedded { running, options } => {
                let start = || EmbeddedRegistry::start(RegistryOptions::clone(options));
                *running = Some(testing::on_freed_port(start).await);
            }
            Self::Consul(process) => process.restart().await,
        }
    }
}

/// Each function is a test of its own against either registry.
macro_rules! on_both_registries {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::backend::Backend::embedded().await).await;
            })*
        }
        mod consul {
            $(#[tokio::test]
            async fn $name() {
                let Some(backend) = $crate::backend::Backend::consul().await else { return };
                super::$name(backend).await;
            })*
        }
    };
}

pub(crate) use on_both_registries;
