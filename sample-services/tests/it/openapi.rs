//! `/openapi.json` describes what the routers really serve.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::Value;

use crate::support::App;

async fn check(app: App, routes: &[&str]) {
    let document = app.get("/openapi.json").send().await.expect(200).body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{}", document["openapi"]);
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described.insert(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].is_string(), "{method} {path} says what it does");
            assert!(operation["responses"].as_object().is_some_and(|r| !r.is_empty()), "{method} {path}");
        }
    }
    let health = ["GET /livez", "GET /readyz"];
    let expected: BTreeSet<_> = routes.iter().chain(&health).map(|route| (*route).to_owned()).collect();
    assert_eq!(described, expected);
    every_operation_is_served(&app, &described).await;
    every_reference_resolves(&document, &document);
}

/// A described operation may refuse the empty request, but neither 405 nor "nothing at this path".
async fn every_operation_is_served(app: &App, described: &BTreeSet<String>) {
    for route in described {
        let (method, path) = route.split_once(' ').unwrap();
        let path =
            path.replace("{id}", "00000000-0000-0000-0000-000000000000").replace("{reservation_id}", "r");
        let reply = app.call(Method::from_bytes(method.as_bytes()).unwrap(), &path).send().await;
        assert_ne!(reply.status.as_u16(), 405, "{route}");
        assert_ne!(reply.body["detail"], "there is nothing at this path", "{route}");
    }
}

fn every_reference_resolves(document: &Value, part: &Value) {
    match part {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            members.values().for_each(|member| every_reference_resolves(document, member));
        }
        Value::Array(items) => items.iter().for_each(|item| every_reference_resolves(document, item)),
        _ => {}
    }
}

#[tokio::test]
async fn every_route_of_users_is_in_its_document() {
    let routes = [
        "POST /users",
        "GET /users",
        "GET /users/{id}",
        "PUT /users/{id}",
        "PATCH /users/{id}",
        "DELETE /users/{id}",
        "POST /login",
    ];
    check(App::users().await, &routes).await;
}

#[tokio::test]
async fn every_route_of_products_is_in_its_document() {
    let routes = [
        "POST /products",
        "GET /products",
        "GET /products/{id}",
        "PUT /products/{id}",
        "PATCH /products/{id}",
        "DELETE /products/{id}",
        "POST /products/{id}/reservations",
        "DELETE /products/{id}/reservations/{reservation_id}",
    ];
    check(App::products().await, &routes).await;
}

#[tokio::test]
async fn every_route_of_orders_is_in_its_document() {
    let routes = [
        "POST /orders",
        "GET /orders",
        "GET /orders/{id}",
        "PUT /orders/{id}",
        "PATCH /orders/{id}",
        "DELETE /orders/{id}",
        "PATCH /orders/{id}/status",
    ];
    check(App::orders("http://127.0.0.1:9".to_owned()).await, &routes).await;
}
