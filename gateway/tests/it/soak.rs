//! Everything at once, for a while: services that refuse, hang, reset, trickle and truncate at random, clients that stall,
//! reset and leave at random, one healthy instance always there, a reload every second.
//!
//! Honest clients get no wrong answer: each one is theirs, whole, and 200. A response that a service breaks off after its head
//! is visibly broken and counted apart, since no proxy can take its head back. At the end nothing is left over: no request
//! in flight, no connection, no file, no memory. Half a minute here; `benches/soak` runs it for ten.

mod clients;
mod services;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    commands::Serving,
    support::{
        DEADLINE,
        client::{get, json, send, text},
    },
};

/// What the clients have seen so far.
#[derive(Default)]
pub(crate) struct Seen {
    /// Whole answers of honest clients.
    pub(crate) right: AtomicU64,
    /// Responses that broke off visibly.
    pub(crate) broken: AtomicU64,
    /// Times that some other client did what it does.
    pub(crate) mischief: AtomicU64,
    pub(crate) over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_get_no_wrong_answer_and_nothing_is_left_over() {
    let seconds =
        std::env::var("MILLGATE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let start =
        std::env::var("MILLGATE_SOAK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(seconds);
    println!("{seconds} s; MILLGATE_SOAK_SEED={start}");
    let mut rng = SmallRng::seed_from_u64(start);
    let services = services::start(&mut rng).await;
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &services.addrs, 0);
    let gateway = Serving::start(dir.path(), &["run", "--state-dir", "state"], "admin").await;
    let (http, admin) = (address(&gateway, "http"), address(&gateway, "admin"));
    let before = Left::of(&gateway, admin).await;

    let seen = Arc::new(Seen::default());
    let ends = Instant::now() + Duration::from_secs(seconds);
    let mut running = JoinSet::new();
    for at in 0..clients::HONEST {
        running.spawn(clients::honest(http, at, Arc::clone(&seen)));
    }
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let mut reloads = 0;
    while Instant::now() < ends {
        every_second.tick().await;
        reloads += 1;
        // At first the state of the instances is unknown, and the budget of retries is that of a quiet service.
        if reloads == ALONE {
            for _ in 0..clients::OTHERS {
                running.spawn(clients::other(http, SmallRng::from_rng(&mut rng), Arc::clone(&seen)));
            }
        }
        write(dir.path(), &services.addrs, reloads);
        if rng.random_bool(0.5) {
            services.shuffle(&mut rng);
        }
    }
    seen.over.store(true, SeqCst);
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();

    let (right, broken) = (seen.right.load(SeqCst), seen.broken.load(SeqCst));
    println!(
        "{right} right, {broken} broken off, {} times mischief, {reloads} reloads",
        seen.mischief.load(SeqCst)
    );
    assert!(
        wrong.is_empty(),
        "{} wrong answers, of {right}: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    assert!(right > seconds * 10 && seen.mischief.load(SeqCst) > seconds, "there was traffic");
    assert!(broken <= services.truncated(), "only what a service broke off is broken");
    drop(services);
    println!("before {before:?}");
    let left = async || Left::of(&gateway, admin).await;
    let patience = Instant::now() + DEADLINE;
    let mut after = left().await;
    while !after.is_at_most(&before) && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = left().await;
    }
    println!("after  {after:?}");
    println!(
        "memory: {} MiB before, {} after, {} at most",
        before.memory_kib / 1024,
        after.memory_kib / 1024,
        after.peak_kib / 1024
    );
    assert!(after.is_at_most(&before), "something is left over: {after:?}, before {before:?}");
}

/// Seconds before the other clients come.
const ALONE: u64 = 5;

fn address(gateway: &Serving, name: &str) -> SocketAddr {
    gateway.value(name).parse().unwrap()
}

/// The instances stay the same, and so must their states. Six of seven may be bad at once, which takes more retries than any
/// budget allows unless all of them may be left out.
fn write(dir: &Path, addrs: &[SocketAddr], reload: u64) {
    let hosts: Vec<_> = addrs.iter().map(|addr| format!("\"{addr}\"")).collect();
    let text = format!(
        "version: 1\nworkers: 2\n\
         listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", admin_hosts: [gw], header_timeout: 2s, idle_timeout: 2s}}\n\
         access_log: {{format: off}}\n\
         routes:\n\
         \x20 - {{path: /**, service: s, timeout: {{total: 15s, try: 1s, connect: 500ms, idle: 2s}}, \
         retry: {{retries: 8, budget: 100%, backoff: 1ms..20ms}}}}\n\
         \x20 - {{path: /reload-{reload}, service: s}}\n\
         services:\n  s: {{hosts: [{}], pool: {{max: 64, idle: 1s, max_age: 30s}}, outlier: {{pause: 2s, max: 100%, panic: 0%}}, breaker: {{open: 1s}}}}\n",
        hosts.join(", ")
    );
    std::fs::write(dir.join("routes.yaml.new"), text).unwrap();
    std::fs::rename(dir.join("routes.yaml.new"), dir.join("routes.yaml")).unwrap();
}

/// The resources that the gateway has in use.
#[derive(Debug)]
struct Left {
    /// Requests that hold a slot of the service (`max_inflight`).
    slots: u64,
    /// Attempts in flight, over all instances.
    attempts: u64,
    connections: u64,
    /// Connections in the account of files: of clients, and to instances.
    places: u64,
    files: usize,
    memory_kib: u64,
    /// The most that it ever was.
    peak_kib: u64,
}

impl Left {
    async fn of(gateway: &Serving, admin: SocketAddr) -> Self {
        let services = json(&send(admin, get("/api/v1/services")).await);
        let endpoints = services["services"][0]["endpoints"].as_array().unwrap();
        let metrics = send(admin, get("/metrics")).await;
        let sum = |series: &str| {
            let lines = text(&metrics).lines().filter(|line| line.starts_with(series));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        let process = format!("/proc/{}", gateway.pid());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            slots: services["services"][0]["in_flight"].as_u64().unwrap(),
            attempts: endpoints.iter().map(|one| one["in_flight"].as_u64().unwrap()).sum(),
            connections: sum("millgate_connections{"),
            places: sum("millgate_file_places_used{part=\"clients\"}")
                + sum("millgate_file_places_used{part=\"upstreams\"}"),
            files: std::fs::read_dir(format!("{process}/fd")).unwrap().count(),
            memory_kib: kib("VmRSS:"),
            peak_kib: kib("VmHWM:"),
        }
    }

    fn is_at_most(&self, before: &Self) -> bool {
        self.slots + self.attempts + self.connections + self.places == 0
            // The connection of this look, and one that it replaces.
            && self.files <= before.files + 2
            && self.memory_kib < before.memory_kib + 64 * 1024
    }
}
