//! The client of the registry, and the decision whether known state came from the same registry.

use std::sync::Arc;

use millgate_registry::{Client, ClientConfig, ServiceUpdate, WatchOptions};

use super::{
    Background, Controller,
    kept::{Change, ClusterFollow},
};
use crate::config::settings::{Consistency, ConsulSettings};

impl Controller {
    /// Called at the start, and when a reload changes `discovery.consul`.
    pub(super) fn use_registry(&mut self, background: &mut Background) {
        (background.catalog, background.cluster) = (None, None);
        let Some(consul) = &self.settings.consul else {
            background.discovery.use_client(None, WatchOptions::default());
            return;
        };
        let config = client_config(consul);
        let client = match Client::new(config.clone()) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "the registry cannot be used; known instances stay in use");
                self.status.note("registry_unusable", error.to_string());
                return;
            }
        };
        background.discovery.use_client(Some(client), watch_options(consul));
        match self.kept.use_registry(&config) {
            Change::Same => {}
            Change::Like => {
                self.declared.keep_in(self.kept.folder().as_deref());
                for (target, instances) in &self.world.instances {
                    let (target, instances) = (target.clone(), Arc::clone(instances));
                    let answered_at = tokio::time::Instant::now();
                    self.kept.save(ServiceUpdate { target, instances, only_side_kinds: false, answered_at });
                }
            }
            Change::Another => {
                tracing::info!(address = %config.address, "another registry; what was known stays in use until it answers");
                self.declared.begin_anew(self.kept.folder().as_deref());
                background.discovery.distrust(&self.world);
            }
        }
        self.follow_cluster(background);
    }

    /// Learns the name of the cluster, if state is kept.
    pub(super) fn follow_cluster(&self, background: &mut Background) {
        let client = background.discovery.client().filter(|_| self.kept.folder().is_some());
        let start = |client: &Client| {
            ClusterFollow::start(client.clone(), self.events.clone(), background.discovery.registry())
        };
        background.cluster = client.map(start);
    }

    /// The state that the gateway began with is from another cluster at the same address: the gateway forgets it.
    pub(super) fn forget_registry(&mut self, background: &mut Background) {
        tracing::warn!(
            "another Consul cluster answers at this address than when this state was kept; it is not used"
        );
        self.world.forget_instances();
        self.declared.begin_anew(self.kept.folder().as_deref());
        background.catalog = None;
        background.discovery.start_over();
        self.follow(background);
        self.follow_cluster(background);
    }
}

/// The settings of a client for this registry.
pub(crate) fn client_config(consul: &ConsulSettings) -> ClientConfig {
    let mut config = ClientConfig::from_env();
    config.address.clone_from(&consul.address);
    config.further_addresses.clone_from(&consul.further_addresses);
    config.tls.clone_from(&consul.tls);
    config.blocking_queries_max = consul.max_watches;
    config.token = consul.token.as_ref().map(|token| token.expose().to_owned());
    config.token_file.clone_from(&consul.token_file);
    config.datacenter.clone_from(&consul.datacenter);
    config
}

fn watch_options(consul: &ConsulSettings) -> WatchOptions {
    use millgate_registry::Consistency as Wire;
    WatchOptions {
        wait: consul.wait,
        max_stale: consul.max_stale,
        flap_damping: consul.flap_damping,
        doubt: consul.doubt,
        consistency: match consul.consistency {
            Consistency::Stale => Wire::Stale,
            Consistency::Default => Wire::Leader,
            Consistency::Consistent => Wire::Consistent,
        },
        ..WatchOptions::default()
    }
}
