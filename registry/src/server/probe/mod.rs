//! The registry's work without a request: TTLs expire, checks are made, aliases follow, and services that stay critical are
//! removed.
//!
//! The timing is Consul's: the first run of a check comes after a random part of its interval, the next an interval after the
//! last one ended; the registry looks every 30 s for services that are critical for too long.

mod dial;
mod grpc;
mod room;
mod web;

pub(crate) use room::Room;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::info;

use crate::server::probe::room::GivenUp;
use crate::server::{Shared, usage};
use crate::store::{CheckKind, ProbeDefinition, Store, Target};
use crate::types::CheckStatus;

/// Runs until it is dropped. Woken by the clock, or by any change.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Dropped with this future, and all probes with it.
    let mut tasks = JoinSet::new();
    let mut probes: HashMap<String, (ProbeDefinition, AbortHandle)> = HashMap::new();
    let mut reap_at = Instant::now() + REAP_INTERVAL;
    loop {
        shared.apply(|store, now| {
            store.expire(now);
            store.follow_aliases(now);
        });
        if Instant::now() >= reap_at {
            reap_at = Instant::now() + REAP_INTERVAL;
            for id in shared.apply(Store::reap) {
                info!(service = id, "removed: it was critical for too long");
            }
        }
        reconcile(&shared, &mut tasks, &mut probes);
        // Tasks that ended are taken out; otherwise they would pile up.
        while tasks.try_join_next().is_some() {}
        let expiry = shared.store().next_expiry().map(Instant::from_std);
        let wake_at = expiry.map_or(reap_at, |expiry| expiry.min(reap_at));
        tokio::select! {
            () = tokio::time::sleep_until(wake_at) => {}
            () = shared.timers.notified() => {}
        }
    }
}

/// One task per probe; a check that changed starts over.
fn reconcile(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    probes: &mut HashMap<String, (ProbeDefinition, AbortHandle)>,
) {
    let mut wanted = HashMap::new();
    for check in shared.store().own_checks() {
        if let CheckKind::Probe(probe) = &check.definition.kind {
            wanted.insert(check.definition.id.clone(), probe.clone());
        }
    }
    probes.retain(|id, (probe, task)| {
        let keep = wanted.get(id) == Some(probe);
        if !keep {
            task.abort();
        }
        keep
    });
    for (id, probe) in wanted {
        probes.entry(id).or_insert_with_key(|id| {
            let task = tasks.spawn(repeat(Arc::clone(shared), id.clone(), probe.clone()));
            (probe, task)
        });
    }
}

async fn repeat(shared: Arc<Shared>, id: String, probe: ProbeDefinition) {
    // Spread over the interval, as Consul does, so that a hundred checks do not fire together.
    let first = probe.interval.mul_f64(rand::rng().random::<f64>());
    tokio::time::sleep(first).await;
    let mut streak = probe.streak();
    loop {
        match shared.probes.run(run_once(&probe)).await {
            Ok((status, output)) if streak.record(&probe, status) => {
                shared.change(|store, now| store.set_status(&id, status, output, now));
            }
            Ok(_) => {}
            // The check was given up because there are too many slow ones, which is not a result.
            Err(GivenUp) => shared.usage.hit(usage::PROBES),
        }
        tokio::time::sleep(probe.interval).await;
    }
}

/// Status and output, in Consul's words.
async fn run_once(probe: &ProbeDefinition) -> (CheckStatus, String) {
    match &probe.target {
        Target::Http { url, method, headers, body } => {
            let request = web::Request { method, url, headers, body };
            web::check(&request, probe).await
        }
        Target::Tcp { address } => match dial::within(probe.timeout, dial::tcp(address)).await {
            Ok(_) => (CheckStatus::Passing, format!("TCP connect {address}: Success")),
            Err(error) => (CheckStatus::Critical, error.text(address)),
        },
        Target::Grpc { target, tls } => match grpc::check(target, *tls, probe).await {
            Ok(()) => (CheckStatus::Passing, format!("gRPC check {target}: success")),
            Err(text) => (CheckStatus::Critical, text),
        },
    }
}

/// Consul looks this often for services that are critical for too long.
const REAP_INTERVAL: Duration = Duration::from_secs(30);
