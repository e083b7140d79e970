//! Clients that services use, unchanged, through a service's life: against the embedded registry, and against a real
//! Consul so that what they are made to expect is what Consul does. `.ci/consul-clients` installs them.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use millgate_registry::{EmbeddedRegistry, HttpClient, HttpOptions, RegistryOptions, ServiceRegistration};
use tokio::process::Command;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::support::client;

/// Longer than any of them takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(2);

/// Where the clients are; `None`: nowhere, and the test is skipped.
fn installed() -> Option<PathBuf> {
    let found = std::env::var_os("MILLGATE_CLIENTS").filter(|path| !path.is_empty()).map(PathBuf::from);
    if found.is_none() {
        assert!(
            std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
            "no MILLGATE_CLIENTS, and MILLGATE_REQUIRE_SERVERS=1 (MILLGATE_CLIENTS=\"$(.ci/consul-clients)\" installs them)"
        );
        println!("skipped: no Consul clients in MILLGATE_CLIENTS");
    }
    found
}

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "clients", name].iter().collect()
}

/// What each client is called with; host, port and URL of the registry come after.
fn command(clients: &std::path::Path, which: &str, url: &str) -> Command {
    let (host, port) = url.trim_start_matches("http://").rsplit_once(':').unwrap();
    let mut command = match which {
        "rs-consul" => Command::new(clients.join("rs-consul")),
        "node" => Command::new("node"),
        _ => Command::new("python3"),
    };
    match which {
        "rs-consul" => command.env("CONSUL_HTTP_ADDR", url),
        "node" => command
            .env("NODE_MODULES", clients.join("node/node_modules"))
            .arg(script("service.mjs"))
            .args([host, port]),
        _ => command.env("PYTHONPATH", clients.join(which)).arg(script("service.py")).args([host, port]),
    };
    command
}

async fn runs(clients: &std::path::Path, which: &str, url: &str) {
    let run = command(clients, which, url).stdin(Stdio::null()).kill_on_drop(true).output();
    let Output { status, stdout, stderr } = tokio::time::timeout(LIMIT, run).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && said.ends_with("ok\n"), "{which} against {url}: {status}\n{said}");
}

/// Against both registries, at the same time.
async fn runs_everywhere(which: &str) {
    let Some(clients) = installed() else { return };
    let embedded = Backend::embedded().await;
    let Some(consul) = Backend::consul().await else { return };
    let (embedded_url, consul_url) = (embedded.url(), consul.url());
    tokio::join!(runs(&clients, which, &embedded_url), runs(&clients, which, &consul_url));
    // As it is by default, too.
    let current = EmbeddedRegistry::start(RegistryOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        ..RegistryOptions::default()
    });
    runs(&clients, which, &current.await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn py_consul_lives_a_services_life() {
    runs_everywhere("py-consul").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_consul_lives_a_services_life() {
    runs_everywhere("python-consul").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consul_of_npm_lives_a_services_life() {
    runs_everywhere("node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rs_consul_lives_a_services_life() {
    runs_everywhere("rs-consul").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_an_instance_with_its_tags_and_meta_and_loses_it_again() {
    let Some(clients) = installed() else { return };
    let registry = Backend::embedded().await;
    let mut service = ServiceRegistration::http("web", "web-1", "127.0.0.1", 8001);
    service.tags = vec!["v1".to_owned()];
    service.meta.insert("team".to_owned(), "shop".to_owned());
    client(&registry.url()).register(&service).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "scrape_configs:\n- job_name: consul\n  consul_sd_configs: [{{server: \"{}\", refresh_interval: 1s}}]\n",
        registry.url().trim_start_matches("http://")
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    let port = millgate_registry::testing::restartable_port();
    let _prometheus = Command::new(clients.join("prometheus"))
        .current_dir(folder.path())
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let labels = [r#""__meta_consul_service_id":"web-1""#, r#""__meta_consul_tags":",v1,""#]
        .into_iter()
        .chain([r#""__meta_consul_service_metadata_team":"shop""#, r#""__address__":"127.0.0.1:8001""#]);
    let labels: Vec<&str> = labels.collect();
    targets(port, "the instance", |found| labels.iter().all(|label| found.contains(label))).await;
    client(&registry.url()).deregister("web-1").await.unwrap();
    targets(port, "that it is gone", |found| found.contains("activeTargets") && !found.contains("web-1"))
        .await;
}

/// Asks Prometheus for its targets until they are as wanted.
async fn targets(port: u16, what: &str, wanted: impl Fn(&str) -> bool) {
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    let url = format!("http://127.0.0.1:{port}/api/v1/targets");
    let give_up = Instant::now() + LIMIT;
    let mut latest = String::new();
    while Instant::now() < give_up {
        if let Ok(answer) = http.get(&url, Duration::from_secs(5), 1 << 20).await {
            latest = String::from_utf8_lossy(&answer.body).into_owned();
            if wanted(&latest) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("prometheus never saw {what}; latest {latest}");
}
