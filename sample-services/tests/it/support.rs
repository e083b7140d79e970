//! Applications in memory, and short ways to call them and to judge their answers.

#![allow(clippy::needless_pass_by_value, reason = "tests write `json!({…})` in the call")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use sample_services::{
    database::DatabaseLocation,
    service::{RunningService, Service, ServiceOptions, application},
    users::{TokenKey, TokenSigner},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt;

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub(crate) fn options(service: Service) -> ServiceOptions {
    ServiceOptions {
        service,
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        database: DatabaseLocation::Memory,
        registry: None,
    }
}

pub(crate) fn signer() -> TokenSigner {
    TokenSigner {
        key: TokenKey::from_secret(SECRET).unwrap(),
        issuer: "https://issuer.test".to_owned(),
        audience: "api".to_owned(),
        ttl: Duration::from_mins(1),
    }
}

/// One service in this process, called without a socket. Every answer must be one that its document lists.
#[derive(Clone)]
pub(crate) struct App {
    router: Router,
    document: Arc<Value>,
}

impl App {
    pub(crate) async fn start(service: Service) -> Self {
        Self::with(&options(service)).await
    }

    pub(crate) async fn with(options: &ServiceOptions) -> Self {
        let router = application(options).await.unwrap();
        let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
        let document = Reply::read(router.clone().oneshot(request).await.unwrap()).await.body;
        Self { router, document: Arc::new(document) }
    }

    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    pub(crate) async fn users() -> Self {
        Self::start(Service::Users { signer: Some(signer()) }).await
    }

    pub(crate) async fn products() -> Self {
        Self::start(Service::Products).await
    }

    pub(crate) async fn orders(products_url: String) -> Self {
        Self::start(Service::Orders { products_url: Some(products_url) }).await
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Call {
        self.call(Method::POST, path).json(body)
    }

    pub(crate) fn put(&self, path: &str, body: Value) -> Call {
        self.call(Method::PUT, path).json(body)
    }

    pub(crate) fn patch(&self, path: &str, body: Value) -> Call {
        self.call(Method::PATCH, path).body("application/merge-patch+json", body.to_string())
    }

    pub(crate) fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        Call { app: self.clone(), request }
    }

    /// Panics where the document does not list `status` for this operation.
    fn check_documented(&self, method: &Method, path: &str, status: StatusCode) {
        let segments: Vec<_> = path.split('/').collect();
        let matches = |template: &str| {
            let template: Vec<_> = template.split('/').collect();
            template.len() == segments.len()
                && template.iter().zip(&segments).all(|(t, segment)| t.starts_with('{') || t == segment)
        };
        let mut paths = self.document["paths"].as_object().unwrap().iter();
        let Some((template, item)) = paths.find(|(template, _)| matches(template)) else { return };
        let Some(operation) = item.get(method.as_str().to_lowercase()) else { return };
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key(status.as_str()), "{method} {template} does not list {status}");
    }
}

pub(crate) struct Call {
    app: App,
    request: Request,
}

impl Call {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().append(name, value.parse().unwrap());
        self
    }

    /// As the gateway would send it for this user.
    pub(crate) fn customer(self, user_id: &str) -> Self {
        self.header("x-user-id", user_id).header("x-user-role", "customer")
    }

    pub(crate) fn staff(self) -> Self {
        self.header("x-user-id", "staff-1").header("x-user-role", "staff")
    }

    pub(crate) fn if_match(self, tag: &str) -> Self {
        self.header("if-match", tag)
    }

    pub(crate) fn json(self, body: Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(crate) fn body(mut self, media_type: &'static str, body: impl Into<Body>) -> Self {
        *self.request.body_mut() = body.into();
        self.header("content-type", media_type)
    }

    pub(crate) async fn send(self) -> Reply {
        let (method, path) = (self.request.method().clone(), self.request.uri().path().to_owned());
        let reply = Reply::read(self.app.router.clone().oneshot(self.request).await.unwrap()).await;
        self.app.check_documented(&method, &path, reply.status);
        reply
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    async fn read(response: Response) -> Self {
        let (head, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Self { status: head.status, headers: head.headers, body }
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self
    }

    /// A complete problem document with this status and code.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Self {
        assert_eq!(self.body["code"], code, "{} {}", self.status, self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{}", self.body);
        self.expect(status)
    }

    /// The header's value; empty without the header.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn id(&self) -> &str {
        self.body["id"].as_str().unwrap()
    }

    /// The path and query of `Link: <…>; rel="next"`.
    pub(crate) fn next(&self) -> Option<String> {
        let link = self.headers.get(header::LINK)?.to_str().unwrap();
        Some(link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned())
    }
}

pub(crate) fn product(name: &str, price_cents: i64, stock: i64) -> Value {
    json!({"name": name, "category": "tea", "price_cents": price_cents, "currency": "EUR", "stock": stock})
}

/// The products service behind a real listener, as orders needs it.
pub(crate) struct Products(RunningService);

impl Products {
    pub(crate) async fn start() -> Self {
        Self(RunningService::start(options(Service::Products)).await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.addr())
    }

    /// Adds a product and returns its id.
    pub(crate) async fn add(&self, product: Value) -> String {
        let request = reqwest::Client::new().post(format!("{}/products", self.url())).json(&product);
        let created: Value = request.send().await.unwrap().json().await.unwrap();
        created["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn stock(&self, id: &str) -> i64 {
        let product: Value =
            reqwest::get(format!("{}/products/{id}", self.url())).await.unwrap().json().await.unwrap();
        product["stock"].as_i64().unwrap()
    }

    /// Waits until so much is in stock.
    pub(crate) async fn stock_becomes(&self, id: &str, stock: i64) {
        eventually("the stock is there", async || self.stock(id).await == stock).await;
    }
}

/// Looks again and again until `holds` does.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}, in time"));
}

/// Far more than anything here takes; reached only by a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Stands between orders and products, and does to requests what `tamper` says.
pub(crate) struct Between {
    pub(crate) url: String,
}

/// A request on its way to products.
#[derive(Clone)]
pub(crate) struct Passing {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Value,
    to: String,
}

impl Passing {
    /// Sends it on, and returns the answer of products.
    pub(crate) async fn forward(&self) -> (u16, String) {
        let request =
            reqwest::Client::new().request(self.method.clone(), format!("{}{}", self.to, self.path));
        let request = if self.body.is_null() { request } else { request.json(&self.body) };
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

impl Between {
    pub(crate) async fn start<F, A>(products: &Products, tamper: F) -> Self
    where
        F: Fn(Passing) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = (u16, String)> + Send + 'static,
    {
        let to = products.url();
        let router = Router::new().fallback(move |request: Request| {
            let (tamper, to) = (tamper.clone(), to.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let passing = Passing { method: head.method, path: head.uri.path().to_owned(), body, to };
                // In a task of its own: what is under way goes on when orders has given up.
                let (status, body) = tokio::spawn(async move { tamper(passing).await }).await.unwrap();
                (StatusCode::from_u16(status).unwrap(), body).into_response()
            }
        });
        Self { url: serve(router).await }
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    url
}

/// Something that answers in the place of products, and remembers what it was asked.
pub(crate) struct FakeProducts {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl FakeProducts {
    /// `answer` gets `METHOD /path`.
    pub(crate) async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(String) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = (u16, String)> + Send + 'static,
    {
        let seen: Arc<Mutex<Vec<(String, HeaderMap)>>> = Arc::default();
        let log = seen.clone();
        let router = Router::new().fallback(move |request: Request| {
            let line = format!("{} {}", request.method(), request.uri().path());
            log.lock().unwrap().push((line.clone(), request.headers().clone()));
            let answer = answer(line);
            async move {
                let (status, body) = answer.await;
                (StatusCode::from_u16(status).unwrap(), body).into_response()
            }
        });
        Self { url: serve(router).await, seen }
    }

    pub(crate) fn seen(&self) -> Vec<(String, HeaderMap)> {
        self.seen.lock().unwrap().clone()
    }
}
