//! Admin listener: health, metrics and the JSON view of the gateway. It is never the public listener.
//!
//! It has the public listener's time limits, few connections, and files of its own in the account. So it answers whatever clients
//! do, and clients are served whatever happens to it.

use std::{
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use millgate_registry::{Hosts, SideLimits, WatchTarget, serve_aside};
use serde_json::{Value, json};
use tower::Service as _;

use super::{
    acme_report, health,
    keys::report,
    metrics::{Exporter, instances},
    status::Status,
};
use crate::{
    clock, file_account::ADMIN_CONNECTIONS_MAX, printable::printable, snapshot::Publisher,
    upstream::cluster::Cluster,
};

/// What the handlers read.
pub struct Admin {
    pub publisher: Arc<Publisher>,
    pub status: Arc<Status>,
    pub exporter: Exporter,
    /// The source of the configuration.
    pub config: String,
    /// The addresses for clients, as JSON.
    pub listeners: Value,
}

/// Serves until the control runtime ends. After `until`, another process accepts the connections.
///
/// # Errors
/// The socket cannot be used by the runtime.
pub async fn serve(
    (listener, until): (TcpListener, impl Future<Output = ()>),
    admin: Admin,
) -> std::io::Result<()> {
    let bound = listener.local_addr()?.ip();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (publisher, counts) = (Arc::clone(&admin.publisher), admin.exporter.admin_connections());
    let limits = {
        let publisher = Arc::clone(&publisher);
        move || {
            let listen = &publisher.load().table.listen;
            SideLimits {
                connections: ADMIN_CONNECTIONS_MAX,
                head: listen.header_timeout,
                idle: listen.idle_timeout,
                header_bytes: listen.max_header_bytes,
                title_case: false,
            }
        }
    };
    let router = router(Arc::new(admin));
    let misdirected = Arc::clone(&counts);
    let never = serve_aside((listener, until), limits, counts, move |_, request| {
        let hosts = Hosts::new(bound, &publisher.load().table.listen.admin_hosts);
        let is_ours = hosts.admit(request.uri(), request.headers());
        if !is_ours {
            misdirected.misdirected.fetch_add(1, Ordering::Relaxed);
        }
        let mut router = router.clone();
        async move { if is_ours { unwrap_never(router.call(request).await) } else { MISDIRECTED.into_response() } }
    });
    match never.await {}
}

/// Services that `/readyz` lists at most; `/api/v1/services` has all.
const DETAILS_MAX: usize = 20;
/// RFC 9110 §15.5.20.
const MISDIRECTED: (StatusCode, &str) = (
    StatusCode::MISDIRECTED_REQUEST,
    "this listener answers to its address and to localhost; `listen.admin_hosts` names others\n",
);

fn unwrap_never(answered: Result<Response, std::convert::Infallible>) -> Response {
    match answered {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/routes", get(routes))
        .route("/api/v1/services", get(services))
        .route("/api/v1/config", get(config))
        .route("/api/v1/refusals", get(refusals))
        .route("/api/v1/events", get(events))
        .route("/api/v1/keys", get(keys))
        .route("/api/v1/certificates", get(certificates))
        .fallback(not_found)
        .with_state(admin)
}

/// `/livez`: the process runs.
async fn livez() -> &'static str {
    "ok\n"
}

/// `/readyz`: every service is known, and recently enough, there are keys of every provider, and the gateway does not drain.
/// `?verbose` lists the checks.
async fn readyz(State(admin): State<Arc<Admin>>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let draining = admin.status.draining.load(std::sync::atomic::Ordering::Relaxed);
    let checks = [
        ("discovery", admin.status.is_discovered()),
        ("keys", admin.status.knows_keys()),
        ("certificates", admin.status.knows_certificates()),
        ("discovery_not_overdue", admin.status.is_fresh()),
        ("not_draining", !draining),
    ];
    let status = if admin.status.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.iter().any(|(key, _)| key == "verbose");
    let mut text = String::new();
    for (name, good) in checks {
        if verbose || !good {
            text.extend([if good { "[+] " } else { "[-] " }, name, "\n"]);
        }
    }
    for detail in details(&admin.status, verbose) {
        text.extend(["[!] ", &*printable(&detail), "\n"]);
    }
    text.push_str(if status == StatusCode::OK { "ok\n" } else { "not ready\n" });
    (status, text).into_response()
}

/// Remarks that operators need, though no check fails because of them.
fn details(status: &Status, verbose: bool) -> Vec<String> {
    let mut details = status.missing_rights();
    let more = details.len().saturating_sub(DETAILS_MAX);
    details.truncate(DETAILS_MAX);
    if more > 0 {
        details.push(format!("{more} more services that the ACL token may not see"));
    }
    if !status.is_discovered() {
        let unanswered = status.unanswered().into_iter().take(DETAILS_MAX);
        details.extend(unanswered.map(|(error, services)| {
            format!("the registry has not answered for {services} of the services: {error}")
        }));
    }
    let stale = if verbose { status.stale_services() } else { 0 };
    if stale > 0 {
        details.push(format!(
            "services whose last query was not answered (yet): {stale}; what was known last is in use"
        ));
    }
    details
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.exporter.scrape().await {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// `/api/v1/routes`: the compiled table in match order, and the declared routes that are not in it.
async fn routes(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let snapshot = admin.publisher.load();
    let table = &snapshot.table;
    let rows = table.router.table().iter().filter_map(|index| table.routes.get(*index));
    let declared = admin.status.declared().unwrap_or_default();
    let (refused, waiting) = (declared.rejected, declared.waiting);
    let routes: Vec<_> = rows.map(|route| route.view.clone()).collect();
    Json(json!({ "routes": routes, "refused": refused, "waiting": waiting }))
}

/// `/api/v1/config`: the configuration in use, the part of it that waits for a restart, and why the last one was refused.
async fn config(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let mut shown = admin.status.config().json(&admin.config);
    shown["listeners"] = admin.listeners.clone();
    Json(shown)
}

/// `/api/v1/refusals`: clients that were refused before they had sent a request for the access log, oldest first.
async fn refusals(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let time = |at| humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + at).to_string();
    let refusals = admin.exporter.refusals().await.into_iter().map(|refusal| {
        json!({
            "time": time(refusal.last),
            "first": time(refusal.first),
            "times": refusal.times,
            "client": refusal.client.to_string(),
            "listener": *refusal.listener,
            "reason": refusal.reason,
            "detail": refusal.detail,
        })
    });
    Json(json!({ "refusals": refusals.collect::<Vec<_>>() }))
}

/// `/api/v1/events`: the latest events, oldest first.
async fn events(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let notes = admin.status.notes().into_iter().map(|note| {
        let time = humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + note.at).to_string();
        json!({"time": time, "kind": note.kind, "text": note.text})
    });
    Json(json!({ "events": notes.collect::<Vec<_>>() }))
}

/// `/api/v1/services`: services with their endpoints, breakers and watches.
async fn services(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let snapshot = admin.publisher.load();
    let now = clock::now();
    let watches = admin.status.watches();
    let samples = admin.exporter.samples().await;
    let seen = instances::merged(&samples);
    let services = snapshot.clusters.iter().map(|cluster| {
        let endpoints = cluster.endpoints.iter().map(|endpoint| {
            let (breaker, window) = health::breaker(cluster, endpoint, now);
            json!({
                "instance": endpoint.key().as_str(),
                "address": endpoint.address().to_string(),
                "protocol": if endpoint.tls().is_some() { "https" } else { "http" },
                "weight": endpoint.weight(),
                "in_flight": endpoint.state().in_flight(),
                "breaker": breaker,
                "breaker_window": window,
                "outlier": health::outlier(cluster, endpoint, now),
                "seen": seen.get(&(&*cluster.name, endpoint.key().as_str())).map(instances::json),
            })
        });
        let target = cluster.watched();
        let watch = target.and_then(|target| watches.get(target)).map(super::watches::json);
        json!({
            "name": &*cluster.name,
            "source": if target.is_some() { "consul" } else { "hosts" },
            "datacenter": target.and_then(|target| target.datacenter.as_deref()),
            "failover": failover(cluster),
            "watch": watch,
            "in_flight": cluster.concurrency.in_flight(),
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    });
    Json(json!({ "services": services.collect::<Vec<_>>() }))
}

/// For a service with `failover`: all its datacenters in order of preference; `null` is the agent's own.
fn failover(cluster: &Cluster) -> Option<Value> {
    let targets = cluster.settings.source.targets();
    let shown = |(at, target): (usize, &WatchTarget)| json!({"datacenter": target.datacenter.as_deref(), "active": at == cluster.target});
    (targets.len() > 1).then(|| targets.iter().enumerate().map(shown).collect())
}

/// `/api/v1/keys`: providers with their key sets, errors and the next fetch.
async fn keys(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(report::json(&admin.publisher.load(), clock::unix_now()))
}

/// `/api/v1/certificates`: certificates from ACME, with their last error and the next order.
async fn certificates(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(acme_report::json(&admin.status.acme))
}

async fn not_found() -> Response {
    let text = "not found; this is the admin listener: /livez /readyz /healthz /metrics /api/v1/routes /api/v1/services /api/v1/keys /api/v1/certificates /api/v1/config /api/v1/refusals /api/v1/events\n";
    (StatusCode::NOT_FOUND, text).into_response()
}
