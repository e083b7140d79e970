//! Every endpoint of the three services as a client uses it: directly, as the gateway would send it, and through the
//! gateway with tokens. Both ways lead to the same answers.

#![allow(clippy::needless_pass_by_value, reason = "tests write `json!({…})` in the call")]

use axum::http::{HeaderMap, HeaderValue, Method};
use sample_services::{
    demo::{
        Demo, DemoOptions, RegistryChoice,
        client::{Answer, Client, Version},
    },
    service::{RunningService, Service},
};
use serde_json::{Value, json};

use crate::support::{options, product, signer};

/// Somebody who is known, by a token or by what the gateway makes of it.
#[derive(Clone, Default)]
struct Who {
    token: Option<String>,
    headers: HeaderMap,
}

impl Who {
    fn with_token(token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..Self::default() }
    }

    fn with_identity(user_id: &str, role: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("x-user-id", user_id.parse().unwrap());
        headers.insert("x-user-role", HeaderValue::from_static(role));
        Self { token: None, headers }
    }
}

/// The shop, on one of the two ways to it.
struct Shop {
    users: Client,
    products: Client,
    orders: Client,
    staff: Who,
    through_gateway: bool,
}

impl Shop {
    /// `request` is `METHOD /path`.
    async fn send(&self, who: &Who, request: &str, headers: &[(&'static str, &str)], body: Value) -> Answer {
        let (method, path) = request.split_once(' ').unwrap();
        let client = match path {
            _ if path.starts_with("/products") => &self.products,
            _ if path.starts_with("/orders") => &self.orders,
            _ => &self.users,
        };
        let mut all = who.headers.clone();
        for (name, value) in headers {
            all.insert(*name, value.parse().unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let body = (!body.is_null()).then_some(&body);
        client.send_with(method, path, who.token.as_deref(), all, body).await.unwrap()
    }

    async fn ask(&self, who: &Who, request: &str, body: Value, status: u16) -> Answer {
        self.ask_with(who, request, &[], body, status).await
    }

    async fn ask_with(
        &self,
        who: &Who,
        request: &str,
        headers: &[(&'static str, &str)],
        body: Value,
        status: u16,
    ) -> Answer {
        let answer = self.send(who, request, headers, body).await;
        let way = if self.through_gateway { "through the gateway" } else { "directly" };
        assert_eq!(answer.status.as_u16(), status, "{request} {way}: {}", answer.body);
        answer
    }

    /// A new customer.
    async fn customer(&self, name: &str) -> (String, Who) {
        let nobody = Who::default();
        let account =
            json!({"email": format!("{name}@shop.example"), "name": name, "password": "correct horse"});
        let created = self.ask(&nobody, "POST /users", account, 201).await;
        let id = text(&created, "id");
        assert_eq!(created.headers["location"], format!("/users/{id}"));
        let credentials = json!({"email": format!("{name}@shop.example"), "password": "correct horse"});
        let login = self.ask(&nobody, "POST /login", credentials, 200).await;
        let token = text(&login, "access_token");
        let who =
            if self.through_gateway { Who::with_token(&token) } else { Who::with_identity(&id, "customer") };
        (id, who)
    }

    async fn users(&self) {
        let (id, ada) = self.customer("ada").await;
        let one = format!("/users/{id}");
        self.ask(&Who::default(), &format!("GET {one}"), json!(null), 401).await;
        self.ask(&ada, "GET /users", json!(null), 403).await;
        self.ask(&self.staff, "GET /users?page=1&limit=10&sort=email_desc", json!(null), 200).await;
        let found = self.ask(&self.staff, "GET /users?email=ada@shop.example", json!(null), 200).await;
        assert_eq!(found.body["items"][0]["id"], id);
        let read = self.ask(&ada, &format!("GET {one}"), json!(null), 200).await;
        let tag = read.headers["etag"].to_str().unwrap();
        self.ask_with(&ada, &format!("GET {one}"), &[("if-none-match", tag)], json!(null), 304).await;
        let account = json!({"email": "ada@shop.example", "name": "Ada L."});
        self.ask_with(&ada, &format!("PUT {one}"), &[("if-match", tag)], account, 200).await;
        let named = self.ask(&ada, &format!("PATCH {one}"), json!({"name": "Countess"}), 200).await;
        assert_eq!(
            (text(&named, "name"), text(&named, "email")),
            ("Countess".to_owned(), "ada@shop.example".to_owned())
        );
        self.ask(&ada, &format!("DELETE {one}"), json!(null), 204).await;
        self.ask(&ada, &format!("GET {one}"), json!(null), 404).await;
    }

    async fn products(&self) {
        let (_, bob) = self.customer("bob").await;
        let reader = if self.through_gateway { bob } else { Who::default() };
        let staff = &self.staff;
        let created = self.ask(staff, "POST /products", product("Endpoint tea", 961, 5), 201).await;
        let one = created.headers["location"].to_str().unwrap();
        let list = "GET /products?category=tea&q=endpoint&min_price=900&max_price=1000&sort=price_desc&page=1&limit=10";
        let found = self.ask(&reader, list, json!(null), 200).await;
        assert_eq!(found.body["items"].as_array().unwrap().len(), 1);
        self.ask(&reader, "GET /products?categroy=tea", json!(null), 400).await;
        self.ask_with(&reader, &format!("GET {one}"), &[("if-none-match", "\"1\"")], json!(null), 304).await;
        self.ask(&reader, &format!("GET {one}"), json!(null), 200).await;
        let tag = [("if-match", "\"1\"")];
        self.ask_with(staff, &format!("PUT {one}"), &tag, product("Other tea", 961, 5), 200).await;
        let stock = json!({"stock": 6.0});
        self.ask_with(staff, &format!("PATCH {one}"), &[("if-match", "\"a,b\", \"2\"")], stock, 200).await;
        let merge = [("if-match", "\"3\""), ("content-type", "application/merge-patch+json")];
        self.ask_with(staff, &format!("PATCH {one}"), &merge, json!({"description": null}), 200).await;
        let held = format!("{one}/reservations/00000000-0000-0000-0000-000000000001");
        self.ask(staff, &format!("PUT {held}"), json!({"quantity": 2}), 201).await;
        self.ask(staff, &format!("PUT {held}"), json!({"quantity": 2}), 200).await;
        self.ask(staff, &format!("DELETE {held}"), json!(null), 204).await;
        self.ask_with(staff, &format!("DELETE {one}"), &[("if-match", "*")], json!(null), 204).await;
        self.ask(&reader, &format!("GET {one}"), json!(null), 404).await;
    }

    async fn orders(&self) {
        let (id, eve) = self.customer("eve").await;
        let staff = &self.staff;
        let tea = self.ask(staff, "POST /products", product("Order tea", 250, 9), 201).await;
        let order = json!({"items": [{"product_id": tea.body["id"], "quantity": 2}]});
        let key = [("idempotency-key", "\"a key of eve\"")];
        let placed = self.ask_with(&eve, "POST /orders", &key, order.clone(), 201).await;
        let repeat = self.ask_with(&eve, "POST /orders", &key, order.clone(), 201).await;
        assert_eq!(repeat.body, placed.body);
        let one = placed.headers["location"].to_str().unwrap();
        let own = self.ask(&eve, "GET /orders?page=1&limit=10&sort=created_at_desc", json!(null), 200).await;
        assert_eq!(own.body["items"], json!([placed.body]));
        let list = format!(
            "GET /orders?customer_id={id}&status=pending&created_from=2020-01-01&created_before=2120-01-01"
        );
        let found = self.ask(staff, &list, json!(null), 200).await;
        assert_eq!(found.body["items"], json!([placed.body]));
        self.ask(&eve, &format!("GET {one}"), json!(null), 200).await;
        self.ask_with(&eve, &format!("GET {one}"), &[("if-none-match", "\"1\"")], json!(null), 304).await;
        self.ask(&eve, &format!("PUT {one}"), json!({"note": "n"}), 200).await;
        self.ask(&eve, &format!("PATCH {one}"), json!({"shipping_address": "1 Tea Lane"}), 200).await;
        self.ask(staff, &format!("PATCH {one}"), json!({"status": "confirmed"}), 200).await;
        self.ask(staff, &format!("PATCH {one}/status"), json!({"status": "paid"}), 200).await;
        let (_, other) = self.customer("mallory").await;
        self.ask(&other, &format!("GET {one}"), json!(null), 404).await;
        self.ask(&other, &format!("PATCH {one}/status"), json!({"status": "shipped"}), 403).await;
        let second = self.ask(&other, "POST /orders", order, 201).await;
        let second = second.headers["location"].to_str().unwrap();
        self.ask(&other, &format!("DELETE {second}"), json!(null), 204).await;
        let read = format!("GET /products/{}", text(&tea, "id"));
        assert_eq!(self.ask(staff, &read, json!(null), 200).await.body["stock"], 7);
    }
}

fn text(answer: &Answer, member: &str) -> String {
    answer.body[member].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_endpoint_answers_directly() {
    let start = async |service| RunningService::start(options(service)).await.unwrap();
    let users = start(Service::Users { signer: Some(signer()) }).await;
    let products = start(Service::Products).await;
    let orders = start(Service::Orders { products_url: Some(format!("http://{}", products.addr())) }).await;
    let client = |service: &RunningService| Client::cleartext(service.addr(), Version::Http1);
    let shop = Shop {
        users: client(&users),
        products: client(&products),
        orders: client(&orders),
        staff: Who::with_identity("staff-1", "staff"),
        through_gateway: false,
    };
    shop.users().await;
    shop.products().await;
    shop.orders().await;
}

#[tokio::test]
async fn every_endpoint_answers_through_the_gateway() {
    let any = ([127, 0, 0, 1], 0).into();
    let registry = RegistryChoice::Embedded(any);
    let demo =
        Demo::start(DemoOptions { http: any, https: any, admin: any, registry, data: None }).await.unwrap();
    let client = Client::cleartext(demo.http, Version::Http2);
    let shop = Shop {
        users: client.clone(),
        products: client.clone(),
        orders: client,
        staff: Who::with_token(&demo.staff_token),
        through_gateway: true,
    };
    shop.users().await;
    shop.products().await;
    shop.orders().await;
    demo.shutdown().await;
}
