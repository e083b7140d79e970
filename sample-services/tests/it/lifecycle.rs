//! Starting and stopping: what is kept, what is finished, what the registry hears.

use std::time::Duration;

use millgate_registry::{
    Client, ClientConfig, EmbeddedRegistry, RegistryOptions, ServiceRegistration, WatchOptions, WatchTarget,
};
use sample_services::{
    database::DatabaseLocation,
    service::{RunningService, Service, ServiceOptions},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use crate::support::{FakeProducts, options, product};

const ID: &str = "00000000-0000-0000-0000-00000000000a";
/// Far more than anything here takes; reached only by a failure.
const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_database_file_keeps_its_data_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = ServiceOptions {
        database: DatabaseLocation::File(folder.path().join("new/products.db")),
        ..options(Service::Products)
    };
    let first = RunningService::start(options.clone()).await.unwrap();
    let url = format!("http://{}/products", first.addr());
    reqwest::Client::new().post(url).json(&product("Sencha", 1250, 10)).send().await.unwrap();
    first.shutdown().await;

    let second = RunningService::start(options).await.unwrap();
    let url = format!("http://{}/products?q=sencha", second.addr());
    let list: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    assert_eq!(list["items"][0]["price_cents"], 1250);
    second.shutdown().await;
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_service_stops() {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let (open, gate) = watch::channel(false);
    let products = FakeProducts::start(move |line: String| {
        let (arrived, mut gate) = (arrived.clone(), gate.clone());
        async move {
            arrived.send(()).unwrap();
            gate.wait_for(|open| *open).await.unwrap();
            if line.starts_with("GET ") {
                let offer = json!({"id": ID, "name": "Tea", "price_cents": 1, "currency": "EUR", "stock": 1});
                (200, offer.to_string())
            } else {
                (201, json!({"id": "r-1", "product_id": ID, "quantity": 1}).to_string())
            }
        }
    })
    .await;
    let orders = Service::Orders { products_url: Some(products.url.clone()) };
    let running = RunningService::start(options(orders)).await.unwrap();
    let addr = running.addr();

    let body = json!({"items": [{"product_id": ID, "quantity": 1}]});
    let call =
        reqwest::Client::new().post(format!("http://{addr}/orders")).header("x-user-id", "ada").json(&body);
    let answer = tokio::spawn(call.send());
    arrivals.recv().await.unwrap();
    let stopping = tokio::spawn(running.shutdown());
    tokio::time::timeout(DEADLINE, async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("no new connection is accepted");
    open.send(true).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), 201);
    stopping.await.unwrap();
}

#[tokio::test]
async fn an_instance_that_listens_everywhere_must_say_where_it_is_reached() {
    let options = ServiceOptions {
        listen: ([0, 0, 0, 0], 0).into(),
        registry: Some(ClientConfig::new("http://127.0.0.1:9")),
        ..options(Service::Products)
    };
    let error = RunningService::start(options).await.unwrap_err().to_string();
    assert!(error.contains("--advertise"), "{error}");
}

#[tokio::test]
async fn an_instance_is_in_the_registry_from_its_start_to_its_stop() {
    let (registry, client) = registry().await;
    let running = RunningService::start(registered(Service::Products, &registry)).await.unwrap();
    let found = client.agent_services().await.unwrap();
    let id = format!("products-127.0.0.1-{}", running.addr().port());
    let instance = &found[&id];
    assert_eq!((instance.service.as_str(), instance.address.as_str()), ("products", "127.0.0.1"));
    assert_eq!(instance.port, i64::from(running.addr().port()));
    assert_eq!(instance.meta["openapi"], "/openapi.json");
    assert!(instance.tags.contains(&"sample".to_owned()), "{:?}", instance.tags);
    becomes_healthy(&client, "products", 1).await;

    running.shutdown().await;
    assert!(!client.agent_services().await.unwrap().contains_key(&id));
    registry.shutdown().await;
}

#[tokio::test]
async fn a_service_starts_without_its_registry_and_registers_when_that_comes() {
    // A port that was free a moment ago: nobody listens yet.
    let later = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let registry = Some(ClientConfig::new(format!("http://{later}")));
    let running =
        RunningService::start(ServiceOptions { registry, ..options(Service::Products) }).await.unwrap();
    let ready = reqwest::get(format!("http://{}/readyz", running.addr())).await.unwrap();
    assert_eq!(ready.status(), 200);

    let options = RegistryOptions { listen: later, ..RegistryOptions::default() };
    let registry = EmbeddedRegistry::start(options).await.unwrap();
    let client = Client::new(ClientConfig::new(registry.url())).unwrap();
    becomes_healthy(&client, "products", 1).await;
    running.shutdown().await;
    registry.shutdown().await;
}

#[tokio::test]
async fn orders_goes_on_with_the_instances_it_knows_when_the_registry_is_gone() {
    let (registry, client) = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let database = DatabaseLocation::File(folder.path().join("products.db"));
    let of = |service| registered(service, &registry);
    let products = || ServiceOptions { database: database.clone(), ..of(Service::Products) };
    let first = RunningService::start(products()).await.unwrap();
    let second = RunningService::start(products()).await.unwrap();
    becomes_healthy(&client, "products", 2).await;
    let orders = RunningService::start(of(Service::Orders { products_url: None })).await.unwrap();

    let http = reqwest::Client::new();
    let url = format!("http://{}/products", first.addr());
    let added: Value = http.post(url).json(&product("Tea", 1, 9)).send().await.unwrap().json().await.unwrap();
    let body = json!({"items": [{"product_id": added["id"], "quantity": 1}]});
    let place = async || {
        let call =
            http.post(format!("http://{}/orders", orders.addr())).header("x-user-id", "ada").json(&body);
        call.send().await.unwrap().status().as_u16()
    };
    assert_eq!(place().await, 201);
    registry.shutdown().await;
    assert_eq!(place().await, 201);
    // One instance goes away, and nobody is there to tell: its turn falls to the other one.
    second.shutdown().await;
    for _ in 0..3 {
        assert_eq!(place().await, 201);
    }
    first.shutdown().await;
    assert_eq!(place().await, 503);
    orders.shutdown().await;
}

#[tokio::test]
async fn orders_takes_turns_among_the_healthy_instances_of_products() {
    let (registry, client) = registry().await;
    let mut instances = Vec::new();
    for n in 0..3 {
        let products = FakeProducts::start(|_| async { (404, String::new()) }).await;
        let port = products.url.rsplit(':').next().unwrap().parse().unwrap();
        let instance = ServiceRegistration::http("products", format!("products-{n}"), "127.0.0.1", port);
        // The last one owes a heartbeat that never comes.
        let instance = if n == 2 { instance.ttl(Duration::from_mins(1)) } else { instance };
        client.register(&instance).await.unwrap();
        instances.push(products);
    }
    let orders = registered(Service::Orders { products_url: None }, &registry);
    let orders = RunningService::start(orders).await.unwrap();
    let body = json!({"items": [{"product_id": ID, "quantity": 1}]});
    for _ in 0..4 {
        let call = reqwest::Client::new().post(format!("http://{}/orders", orders.addr()));
        assert_eq!(call.header("x-user-id", "ada").json(&body).send().await.unwrap().status(), 422);
    }
    let requests: Vec<_> = instances.iter().map(|instance| instance.seen().len()).collect();
    assert_eq!(requests, [2, 2, 0]);
    orders.shutdown().await;
    registry.shutdown().await;
}

async fn registry() -> (EmbeddedRegistry, Client) {
    let options = RegistryOptions { listen: ([127, 0, 0, 1], 0).into(), ..RegistryOptions::default() };
    let registry = EmbeddedRegistry::start(options).await.unwrap();
    let client = Client::new(ClientConfig::new(registry.url())).unwrap();
    (registry, client)
}

fn registered(service: Service, registry: &EmbeddedRegistry) -> ServiceOptions {
    let registry = ClientConfig::new(registry.url());
    ServiceOptions { registry: Some(registry), ..options(service) }
}

/// Waits, with blocking queries, until so many instances pass all their checks.
async fn becomes_healthy(client: &Client, service: &str, count: usize) {
    let (sender, mut updates) = mpsc::channel(16);
    let target = WatchTarget::service(service);
    let _watch = millgate_registry::watch::spawn(client.clone(), target, WatchOptions::default(), sender);
    let all_healthy = async {
        while let Some(update) = updates.recv().await {
            if update.instances.iter().filter(|instance| instance.is_routable()).count() == count {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, all_healthy).await.expect("all instances become healthy");
}
