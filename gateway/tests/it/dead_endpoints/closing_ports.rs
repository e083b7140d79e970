//! An instance whose port closes under traffic, fixed and from both registries.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use millgate::policy::retry::{BUDGET_TTL, FREE_PER_SECOND};
use serde_json::json;
use tokio::task::JoinSet;

use super::{failures_of, hosts, metric};
use crate::{
    discovery::{Registry, scenarios},
    instances::put,
    support::{
        backend::Backend,
        client::{Connection, get, status},
        eventually,
        gateway::TestGateway,
    },
};

scenarios![a_port_that_closes_fails_no_request_before_the_registry_knows_of_it];

/// Instances of a service, and requests a second. The slow ones run beside each other.
const SLOW: [(usize, u32); 6] = [(2, 20), (2, 100), (3, 20), (3, 100), (10, 20), (10, 100)];
const FAST: [(usize, u32); 3] = [(2, 500), (3, 500), (10, 500)];
/// No retry is paid for, neither from requests nor, once they are used up, from the free ones: a connect that is charged
/// fails its request.
const UNPAID: &str =
    "retry: {retries: 10, on: [connect, refused, reset, timeout, 429], budget: 0%, backoff: 1ms..1ms}";

/// A service with some instances that are up.
struct Row {
    name: String,
    rate: u32,
    backends: Vec<Backend>,
}

impl Row {
    async fn start((instances, rate): (usize, u32)) -> Self {
        let mut backends = Vec::new();
        for _ in 0..instances {
            // A 429 for `/busy` is not a failure of the instance, but a reason to retry.
            let answer = |request: &http::Request<Bytes>| {
                let status = if request.uri().path().ends_with("/busy") { 429 } else { 200 };
                Response::builder().status(status).body(Bytes::from_static(b"one")).unwrap()
            };
            backends.push(Backend::with(answer).await);
        }
        Self { name: format!("web{instances}-{rate}"), rate, backends }
    }

    /// Spends the free retries of ten seconds.
    async fn use_up_retries(self, gateway: &TestGateway) -> Self {
        let mut client = Connection::open(gateway.http).await;
        // Each request goes to all instances.
        let retries = self.backends.len() as u64 - 1;
        for _ in 0..=u64::from(FREE_PER_SECOND) * BUDGET_TTL.as_secs() / retries {
            assert_eq!(client.send(get(&format!("/{}/busy", self.name))).await.status(), 429);
        }
        let refused = format!("millgate_retry_budget_exhausted_total{{service=\"{}\"", self.name);
        assert!(metric(gateway, &refused).await > 0.0, "{}", self.name);
        self
    }

    /// Closes the port of one instance under traffic.
    async fn fails_no_request(self, gateway: Arc<TestGateway>, lasting: Duration) {
        let (name, leaving) = (&self.name, &self.backends[0]);
        let before = leaving.served();
        let traffic = failures_of(gateway.http, format!("/{name}/x"), self.rate, lasting);
        let traffic = tokio::spawn(traffic);
        eventually("there is good traffic", || async { leaving.served() > before }).await;
        leaving.leave().await;
        let failed = avoidable(traffic.await.unwrap());
        assert!(failed.is_empty(), "{name}: {} failed: {:?}", failed.len(), failed.first());
        let connects = format!("millgate_retries_total{{service=\"{name}\",reason=\"connect\"}}");
        let connects = metric(&gateway, &connects).await;
        // Three in a row, and those that are under way meanwhile.
        assert!(connects < 30.0, "{name}: {connects} requests tried it before it was left out");
    }
}

async fn no_row_fails_a_request(rows: Vec<Row>, gateway: TestGateway) {
    let gateway = Arc::new(gateway);
    let mut running = JoinSet::new();
    for row in rows {
        let gateway = Arc::clone(&gateway);
        running.spawn(async move { row.use_up_retries(&gateway).await });
    }
    let rows = running.join_all().await;
    let (slow, fast): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.rate < 500);
    let mut running = JoinSet::new();
    for row in slow {
        running.spawn(row.fails_no_request(Arc::clone(&gateway), Duration::from_millis(1_500)));
    }
    running.join_all().await;
    for row in fast {
        row.fails_no_request(Arc::clone(&gateway), Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_closes_under_traffic_fails_no_request() {
    let (mut rows, mut routes, mut services) = (Vec::new(), String::new(), String::new());
    for row in SLOW.into_iter().chain(FAST) {
        let row = Row::start(row).await;
        let (name, hosts) = (&row.name, hosts(row.backends.iter().map(|one| one.addr)));
        let _ = writeln!(routes, "  - {{path: /{name}/**, service: {name}}}");
        let _ = writeln!(services, "  {name}: {{hosts: [{hosts}]}}");
        rows.push(row);
    }
    let config = format!("defaults: {{{UNPAID}}}\nroutes:\n{routes}services:\n{services}");
    no_row_fails_a_request(rows, TestGateway::start(&config).await).await;
}

/// Checks run every ten seconds, so the registry does not see the failure, or not at once.
async fn a_port_that_closes_fails_no_request_before_the_registry_knows_of_it(registry: Registry) {
    let (mut rows, mut routes) = (Vec::new(), String::new());
    for row in SLOW.into_iter().chain(FAST) {
        let row = Row::start(row).await;
        let name = &row.name;
        let _ = writeln!(routes, "  - {{path: /{name}/**, service: {name}}}");
        for (at, one) in row.backends.iter().enumerate() {
            let id = format!("{name}-{at}");
            // It passes from the beginning; without `Status`, that would be after the first ten seconds.
            let check =
                json!({"HTTP": format!("http://{}/", one.addr), "Interval": "10s", "Status": "passing"});
            let (address, port) = ("127.0.0.1", one.addr.port());
            let body = json!({"Name": name, "ID": id, "Address": address, "Port": port, "Check": check});
            put(&registry, "/v1/agent/service/register", body).await;
        }
        rows.push(row);
    }
    let gateway = registry.gateway_with(&format!("defaults: {{{UNPAID}}}\nroutes:\n{routes}")).await;
    for row in &rows {
        eventually("all of them are routed to", || async {
            status(gateway.http, &format!("/{}/x", row.name)).await;
            row.backends.iter().all(|one| one.served() > 1)
        })
        .await;
    }
    no_row_fails_a_request(rows, gateway).await;
}

/// Without one that a closing port may reset: its connection was complete for the kernel, the service never accepted it, and
/// the request was sent, so that no proxy may send it again if it is a POST.
fn avoidable(mut failed: Vec<String>) -> Vec<String> {
    if let Some(at) = failed.iter().position(|failure| failure.contains("upstream_reset")) {
        failed.remove(at);
    }
    failed
}
