//! What a gateway makes from its first configuration, and from the state that an earlier process has stored, before a socket is
//! bound.

use std::{collections::HashMap, path::Path, sync::Arc, time::SystemTime};

use millgate_registry::{LastKnownGood, RegistryIdentity};

use crate::{
    certificate::issued::AcmeState,
    clock,
    compile::{self, TlsListeners},
    config::{load::Loaded, settings::Settings},
    control::{
        declared::DeclaredRoutes,
        kept::{self, Kept},
        key_files,
        keys::kept::KeptKeys,
        registry::client_config,
    },
    file_account::{self, FileAccount},
    policy::rate_limit::KeyBudget,
    syntax::diagnostics::Report,
    world::{ProviderKeys, World, tls_clients::TlsClients},
};

/// The parts of a gateway that are made from its first configuration.
pub(super) struct Made {
    /// The settings with the routes that services declared when the gateway ran last.
    pub(super) settings: Settings,
    pub(super) snapshot: crate::snapshot::Snapshot,
    pub(super) world: World,
    pub(super) declared: DeclaredRoutes,
    pub(super) budget: Arc<KeyBudget>,
    /// The registry whose stored state is used. `store` contains that state.
    pub(super) registry: Option<RegistryIdentity>,
    pub(super) store: Option<LastKnownGood>,
}

impl Made {
    /// Makes the parts from a configuration and the stored state of its registry and its issuers.
    pub(super) fn of(
        loaded: &Loaded,
        state_dir: Option<&Path>,
        kept_keys: &KeptKeys,
    ) -> Result<Self, Report> {
        let budget = Arc::new(KeyBudget::new(loaded.settings.rate_keys_max, clock::now()));
        let registry = registry_of(&loaded.settings);
        let folder = state_dir.zip(registry.as_ref()).map(|(dir, registry)| kept::folder(dir, registry));
        let store = folder.as_deref().and_then(kept::open);
        let mut declared = DeclaredRoutes::remembered(folder.as_deref());
        let known = Known { instances: store.as_ref(), keys: kept_keys };
        let (settings, snapshot, world) = first_snapshot(loaded, &mut declared, &known, &budget)?;
        Ok(Self { settings, snapshot, world, declared, budget, registry, store })
    }
}

/// Removes stored state that configurations have not named for a long time.
pub(super) fn tidy_state(kept: &Kept, store: Option<&LastKnownGood>, settings: &Settings) {
    let now = SystemTime::UNIX_EPOCH + clock::unix_now();
    if let Some(store) = store {
        store.forget_unnamed(settings.services.iter().flat_map(|service| service.source.targets()), now);
        kept.forget_unused(now);
    }
}

/// The registry that the settings name, if they need one.
fn registry_of(settings: &Settings) -> Option<RegistryIdentity> {
    RegistryIdentity::of(&client_config(settings.consul.as_ref()?)).ok()
}

/// State that an earlier process has stored.
pub(crate) struct Known<'a> {
    pub(crate) instances: Option<&'a LastKnownGood>,
    pub(crate) keys: &'a KeptKeys,
}

/// Makes the first settings, snapshot and world, before a socket is bound.
///
/// # Errors
/// The configuration cannot be compiled, or a file that it names cannot be used.
pub(crate) fn first_snapshot(
    loaded: &Loaded,
    declared: &mut DeclaredRoutes,
    known: &Known<'_>,
    budget: &Arc<KeyBudget>,
) -> Result<(Settings, crate::snapshot::Snapshot, World), Report> {
    let refuse = |diagnostics| loaded.refuse(diagnostics);
    let mut table = compile::table(&loaded.settings, None, budget).map_err(refuse)?;
    let keys = key_files::read_keys(&loaded.settings).map_err(refuse)?;
    let (settings, _) = declared.merge(&loaded.settings, |_| true, clock::now());
    if declared.accepted() > 0 {
        table = compile::table(&settings, None, budget).map_err(refuse)?;
    }
    let tls = compile::tls(&settings, &TlsListeners::new(), &AcmeState::default()).map_err(refuse)?;
    let tls_clients = TlsClients::default().prepare(&loaded.settings).map_err(refuse)?;
    let mut world = World::default();
    world.tls = tls;
    world.tls_clients = tls_clients;
    world.tls_clients.complete(&settings);
    world.open_desks(&settings, &HashMap::new());
    for (provider, keys) in keys {
        world.learn_keys(provider, keys);
    }
    recall_keys(&mut world, &settings, known.keys);
    if let Some(store) = known.instances {
        for target in settings.services.iter().flat_map(|service| service.source.targets()) {
            if let Some((instances, saved_at)) = store.load_dated(target) {
                let now = SystemTime::UNIX_EPOCH + clock::unix_now();
                let age = saved_at.and_then(|at| now.duration_since(at).ok());
                world.ages.extend(age.map(|age| (target.clone(), age)));
                world.instances.insert(target.clone(), instances.into());
            }
        }
    }
    for moved in world.choose_datacenters(&settings, clock::now()) {
        moved.log();
    }
    let snapshot = compile::snapshot(&settings, Arc::new(table), &world, None);
    Ok((settings, snapshot, world))
}

/// Takes over the keys that an earlier process has fetched, which are used until they are fetched again.
fn recall_keys(world: &mut World, settings: &Settings, kept: &KeptKeys) {
    for auth in &settings.auth {
        let Some(desk) = world.desk_of(auth).map(Arc::clone) else { continue };
        let Some((keys, fetched)) = kept.load(auth, clock::unix_now()) else { continue };
        desk.record(|report| {
            report.fetched = Some(fetched);
            report.is_kept = true;
        });
        let keys = ProviderKeys { source: auth.keys.clone(), keys: Arc::new(keys) };
        world.learn_keys(Arc::from(auth.name.as_str()), keys);
    }
}

/// Opens the account of files, within the limit that the system sets for this process.
pub(super) fn open_account(settings: &Settings) -> Arc<FileAccount> {
    let limit = file_account::raise_limit();
    let budget = compile::file_budget(limit, settings);
    for (key, wanted, given) in [
        ("limits.files", settings.files_max, budget.limit),
        ("listen.max_connections", settings.listen.max_connections, budget.clients),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted > given) {
            tracing::warn!(key, wanted, given, limit, "the limit of open files does not allow as many");
        }
    }
    FileAccount::new(budget, settings.workers)
}
