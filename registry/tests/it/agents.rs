//! Which agent is asked, over how many connections, and with what credentials.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use millgate_registry::testing::ConsulServer;
use millgate_registry::{
    CheckStatus, Client, ClientConfig, QueryOptions, ServiceRegistration, ServiceUpdate, TlsOptions,
    WatchHandle, WatchStats, WatchTarget, watch,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::fake::{Fake, Reply};
use crate::support::{PATIENCE, client, ids, quick};

const ONE: &str =
    r#"[{"Node":{"Node":"n1","Address":"10.0.0.9"},"Service":{"ID":"a","Port":80},"Checks":[]}]"#;

/// Connections of this machine to a local port. Linux lists them by their hexadecimal addresses.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let established = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[2].ends_with(&remote) && fields[3] == "01"
    };
    table.lines().filter(established).count()
}

fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

/// Watches of many services with one receiver.
struct Many {
    watches: Vec<WatchHandle>,
    updates: mpsc::Receiver<ServiceUpdate>,
}

impl Many {
    fn start(client: &Client, count: usize) -> Self {
        let (sender, updates) = mpsc::channel(1000);
        let one =
            |n| watch::spawn(client.clone(), WatchTarget::service(format!("s{n}")), quick(), sender.clone());
        Self { watches: (0..count).map(one).collect(), updates }
    }

    fn stats(&self) -> Vec<WatchStats> {
        self.watches.iter().map(WatchHandle::stats).collect()
    }

    async fn next(&mut self) -> ServiceUpdate {
        tokio::time::timeout(PATIENCE, self.updates.recv()).await.expect("no update").unwrap()
    }

    /// Until each watch has reported once.
    async fn all(&mut self) {
        let mut seen = BTreeSet::new();
        while seen.len() < self.watches.len() {
            seen.insert(self.next().await.target);
        }
    }
}

/// The one instance of service `s<n>`.
async fn register(client: &Client, n: usize, port: u16) {
    let registration = ServiceRegistration::http(format!("s{n}"), "a", "10.0.0.1", port);
    let registration = ServiceRegistration { id: format!("s{n}-a"), ..registration };
    client.register(&registration).await.unwrap();
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn past_the_budget_services_are_polled_and_changes_are_still_seen() {
    let Some(consul) = ConsulServer::dev(json!({})).await else { return };
    let config = ClientConfig { blocking_queries_max: 3, ..ClientConfig::new(consul.url()) };
    let mut many = Many::start(&Client::new(config).unwrap(), 120);
    many.all().await;
    let polling = |many: &Many| many.stats().iter().filter(|stats| stats.polling).count();
    until("all but three poll", || polling(&many) == 117).await;
    // Three that wait, one for the list of services, and those that poll at this moment.
    until("few connections", || connections_to(port(consul.url())) <= 8).await;
    // A new service shows in the list, which wakes its watch. Each polls every six seconds only.
    let other = consul.client();
    for n in 0..120 {
        register(&other, n, 80).await;
    }
    let begin = Instant::now();
    many.all().await;
    assert!(begin.elapsed() < Duration::from_millis(3500), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn over_https_two_hundred_watches_share_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    if !ConsulServer::certificates(folder.path()) {
        return;
    }
    let server = ConsulServer::dev_with_tls(folder.path(), |addr| secure(folder.path(), folder.path(), addr));
    let consul = server.await.unwrap();
    let client = Client::new(secure(folder.path(), folder.path(), url_addr(consul.url()))).unwrap();
    let mut many = Many::start(&client, 30);
    many.all().await;
    until("all wait for a change", || many.watches.iter().all(|watch| watch.stats().queries >= 1)).await;
    assert_eq!(connections_to(port(consul.url())), 1);
    // Go's server admits 250 queries on one connection, and lets the others wait without a word.
    drop(many);
    let mut many = Many::start(&client, 260);
    many.all().await;
    assert!(many.watches.iter().all(|watch| !watch.stats().polling));
    until("two connections are enough", || connections_to(port(consul.url())) == 2).await;
    let registration = ServiceRegistration::http("s7", "a", "10.0.0.1", 80);
    consul.client().register(&registration).await.unwrap();
    let update = many.next().await;
    assert_eq!((update.target.service.as_str(), ids(&update.instances)), ("s7", vec!["a"]));
    // Of those that found no place on the first one.
    let begin = Instant::now();
    for n in [130, 259] {
        register(&consul.client(), n, 80).await;
        let update = many.next().await;
        assert_eq!((update.target.service, update.instances.len()), (format!("s{n}"), 1));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // The test's own client has one as well.
    assert!(connections_to(port(consul.url())) <= 3);
}

#[tokio::test]
async fn a_client_certificate_that_is_replaced_is_used_without_a_restart() {
    let (right, wrong) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if !ConsulServer::certificates(right.path()) || !ConsulServer::certificates(wrong.path()) {
        return;
    }
    let server = ConsulServer::dev_with_tls(right.path(), |addr| secure(right.path(), right.path(), addr));
    let consul = server.await.unwrap();
    let client = Client::new(secure(right.path(), wrong.path(), url_addr(consul.url()))).unwrap();
    let refused = client.status_leader().await.unwrap_err();
    assert!(refused.is_transport(), "{refused}");
    for file in ["client.pem", "client.key"] {
        std::fs::copy(right.path().join(file), wrong.path().join(file)).unwrap();
    }
    assert!(client.status_leader().await.unwrap().is_some());
}

fn url_addr(url: &str) -> std::net::SocketAddr {
    url.trim_start_matches("https://").parse().unwrap()
}

/// Trusts the authority in `ca`, and shows the client certificate in `own`.
fn secure(ca: &Path, own: &Path, addr: std::net::SocketAddr) -> ClientConfig {
    ClientConfig {
        tls: TlsOptions {
            ca_file: Some(ca.join("ca.pem")),
            cert_file: Some(own.join("client.pem")),
            key_file: Some(own.join("client.key")),
            server_name: Some("server.dc1.consul".to_owned()),
        },
        ..ClientConfig::new(format!("https://{addr}"))
    }
}

#[tokio::test]
async fn when_an_agent_fails_the_next_one_is_asked_without_the_index_of_the_first() {
    let script = |number: usize, _: &str| match number {
        0 => Reply::list(1000, ONE),
        1 => Reply::Status(500, String::new(), "No cluster leader".to_owned()),
        _ => Reply::Silence,
    };
    let (first, second) = (Fake::start(script).await, Fake::start(script).await);
    let config =
        ClientConfig { further_addresses: vec![second.url.clone()], ..ClientConfig::new(&first.url) };
    let (sender, mut updates) = mpsc::channel(8);
    let target = WatchTarget::service("web");
    let _watch = watch::spawn(Client::new(config).unwrap(), target, quick(), sender);
    updates.recv().await.unwrap();
    until("both were asked", || !first.requests().is_empty() && !second.requests().is_empty()).await;
    for fake in [&first, &second] {
        assert!(!fake.requests()[0].contains("index="), "{:?}", fake.requests());
    }
}

#[tokio::test]
async fn requests_go_to_an_agent_that_lives() {
    let Some(mut servers) = ConsulServer::three().await else { return };
    let mut addresses = servers.iter().map(|server| server.url().to_owned());
    let first = ClientConfig::new(addresses.next().unwrap());
    let client = Client::new(ClientConfig { further_addresses: addresses.collect(), ..first }).unwrap();
    let (sender, mut updates) = mpsc::channel(8);
    let _watch = watch::spawn(client.clone(), WatchTarget::service("web"), quick(), sender);
    assert_eq!(*updates.recv().await.unwrap().instances, []);
    // Whichever it asks.
    servers.remove(0);
    let registration = ServiceRegistration::http("web", "a", "10.0.0.1", 80).ttl(PATIENCE);
    let survivor = servers[0].client();
    let begin = Instant::now();
    while survivor.register(&registration).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "no leader");
    }
    survivor.check_update(&registration.ttl_check_id(), CheckStatus::Passing, "").await.unwrap();
    let routable = async {
        while !updates.recv().await.unwrap().instances.iter().any(millgate_registry::Instance::is_routable) {}
    };
    tokio::time::timeout(PATIENCE, routable).await.expect("never routable");
}

#[tokio::test]
async fn an_agent_that_admits_fewer_connections_than_there_are_watches_still_shows_all_of_them_what_changes()
{
    let limits = json!({"limits": {"http_max_conns_per_client": 20}});
    let Some(consul) = ConsulServer::dev(limits).await else { return };
    // Made now, as it needs a connection, too.
    let other = consul.client();
    other.status_leader().await.unwrap();
    let mut many = Many::start(&client(consul.url()), 40);
    many.all().await;
    let settled = |many: &Many| {
        let stats = many.stats();
        let blocking = stats.iter().filter(|stats| !stats.polling).count();
        (5..20).contains(&blocking) && stats.iter().all(|stats| stats.last_error.is_none())
    };
    until("some block, some poll, and all are answered", || settled(&many)).await;
    for n in 0..40 {
        register(&other, n, 80).await;
    }
    many.all().await;
}

/// A connection that ends with the agent looks like one that the agent refuses, if its query is young.
#[tokio::test]
async fn after_a_restart_of_the_agent_every_watch_blocks_again_within_seconds() {
    let Some(mut consul) = ConsulServer::dev(json!({})).await else { return };
    let other = consul.client();
    for n in 0..40 {
        register(&other, n, 80).await;
    }
    let mut many = Many::start(&client(consul.url()), 40);
    many.all().await;
    until("all queries are pending", || connections_to(port(consul.url())) >= 40).await;
    // Longer than a query that counts as refused when it is cut.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for n in 0..20 {
        register(&other, n, 81).await;
    }
    until("half of them ask again", || many.stats().iter().filter(|stats| stats.wakeups > 0).count() == 20)
        .await;
    until("all queries are pending", || connections_to(port(consul.url())) >= 40).await;
    consul.restart().await;
    let begin = Instant::now();
    until("all failed", || many.stats().iter().all(|stats| stats.errors > 0)).await;
    until("all are answered", || many.stats().iter().all(|stats| stats.last_error.is_none())).await;
    until("all block", || many.stats().iter().all(|stats| !stats.polling)).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_refusal_for_too_many_queries_turns_half_of_them_into_polls() {
    let fake = Fake::start(|_, head| {
        if head.contains("index=") {
            Reply::Status(429, String::new(), String::new())
        } else {
            Reply::list(15, "[]")
        }
    })
    .await;
    let client =
        Client::new(ClientConfig { blocking_queries_max: 8, ..ClientConfig::new(&fake.url) }).unwrap();
    let mut many = Many::start(&client, 8);
    many.all().await;
    let polling = |many: &Many| many.watches.iter().filter(|watch| watch.stats().polling).count();
    until("half of them poll", || polling(&many) >= 4).await;
    let error = client.health_service("x", &QueryOptions { index: Some(1), ..QueryOptions::default() }).await;
    assert_eq!(error.unwrap_err().status().map(|status| status.as_u16()), Some(429));
}
