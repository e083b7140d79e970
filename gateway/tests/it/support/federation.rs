//! Two datacenters that one agent reaches: real ones, or two embedded registries behind a front that reads
//! `dc`.

use std::time::Duration;

use axum::{Router, body::Body, extract::Request, response::Response};
use http::{HeaderMap, StatusCode};
use millgate_registry::{
    Client, ClientConfig, EmbeddedRegistry, HttpClient, HttpOptions, RegistryOptions, testing::ConsulProcess,
};

/// Longer than any blocking query.
const PATIENCE: Duration = Duration::from_mins(2);
const BODY_BYTES_MAX: usize = 1024 * 1024;

pub(crate) struct Federation {
    /// The agent that the gateway uses, in `dc1`.
    pub(crate) url: String,
    pub(crate) dc1: Client,
    pub(crate) dc2: Client,
    _running: Running,
}

enum Running {
    Embedded { _registries: [EmbeddedRegistry; 2], front: tokio::task::JoinHandle<()> },
    Consul { _agents: [ConsulProcess; 2] },
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Embedded { front, .. } = self {
            front.abort();
        }
    }
}

impl Federation {
    pub(crate) async fn embedded() -> Option<Self> {
        let (dc1, dc2) = (registry("dc1").await, registry("dc2").await);
        let urls = [&dc1, &dc2].map(|registry| format!("http://{}", registry.addr()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (of_dc1, of_dc2) = (client(&urls[0]), client(&urls[1]));
        let front = Router::new().fallback(move |request: Request| forward(urls.clone(), request));
        let front = tokio::spawn(async move { axum::serve(listener, front).await.unwrap() });
        let running = Running::Embedded { _registries: [dc1, dc2], front };
        Some(Self { url, dc1: of_dc1, dc2: of_dc2, _running: running })
    }

    /// `None`: Consul is not on this machine.
    pub(crate) async fn consul() -> Option<Self> {
        let agents = ConsulProcess::start_federation().await?;
        let [dc1, dc2] = [agents[0].url(), agents[1].url()].map(|url| client(&url));
        let running = Running::Consul { _agents: agents };
        Some(Self { url: dc1.address().to_owned(), dc1, dc2, _running: running })
    }
}

async fn registry(datacenter: &str) -> EmbeddedRegistry {
    let listen = "127.0.0.1:0".parse().unwrap();
    let datacenter = datacenter.to_owned();
    EmbeddedRegistry::start(RegistryOptions { listen, datacenter, ..RegistryOptions::default() })
        .await
        .unwrap()
}

fn client(url: &str) -> Client {
    Client::new(ClientConfig::new(url)).unwrap()
}

/// Forwards to the datacenter in `dc`, as a server of Consul does.
async fn forward(urls: [String; 2], request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let at = usize::from(query.split('&').any(|pair| pair == "dc=dc2"));
    pass(&urls[at], request).await
}

/// The answer of the registry at `url` to a request without a body.
pub(crate) async fn pass(url: &str, request: Request) -> Response {
    let url = format!("{url}{}", request.uri());
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    let sent = http.send(
        request.method().clone(),
        &url,
        HeaderMap::new(),
        bytes::Bytes::new(),
        PATIENCE,
        BODY_BYTES_MAX,
    );
    let mut response = Response::new(Body::empty());
    match sent.await {
        Ok(answer) => {
            *response.status_mut() = answer.status;
            let consuls = answer.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-consul-"));
            response.headers_mut().extend(consuls.map(|(name, value)| (name.clone(), value.clone())));
            *response.body_mut() = Body::from(answer.body);
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_GATEWAY,
    }
    response
}
