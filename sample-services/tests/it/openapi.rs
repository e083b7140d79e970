//! `/openapi.json` describes what the routers really serve.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{App, Products, product};

const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

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
    every_document_has_an_example(&document);
    assert!(!document["paths"].to_string().contains(":null,"), "a null is no part of a description");
    says_who_may_ask(&document);
}

/// Whatever is sent or received as JSON has an example, and the example has no field that the schema does not know.
fn every_document_has_an_example(document: &Value) {
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let Some(properties) = schema["properties"].as_object() else { continue };
        if name.starts_with("Page") || matches!(name.as_str(), "NewItem" | "OrderItem") {
            // Their parts have.
            continue;
        }
        let example = schema["example"].as_object().unwrap_or_else(|| panic!("{name} has no example"));
        for field in example.keys() {
            assert!(properties.contains_key(field), "the example of {name} has a {field}");
        }
        for field in schema["required"].as_array().into_iter().flatten() {
            assert!(example.contains_key(field.as_str().unwrap()), "the example of {name} has no {field}");
        }
    }
}

fn says_who_may_ask(document: &Value) {
    let info = document["info"].as_object().unwrap();
    assert!(!info.contains_key("contact") && !info.contains_key("license"), "{info:?}");
    assert!(info["title"].is_string() && info["description"].is_string() && info["version"].is_string());
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(
        (&schemes["bearer"]["scheme"], &schemes["identity"]["name"]),
        (&json!("bearer"), &json!("X-User-Id"))
    );
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = path.ends_with('z') || path == "/login" || (path == "/users" && method == "post");
            assert_eq!(operation["security"].is_null(), open, "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(
                    response["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{path} {status}"
                );
                if status.starts_with(['4', '5']) {
                    let types = response["content"].as_object().unwrap().keys().collect::<Vec<_>>();
                    assert_eq!(types, ["application/problem+json"], "{method} {path} {status}");
                }
            }
        }
    }
}

/// JSON has one kind of numbers: 961 and 961.0 are the same.
#[tokio::test]
async fn every_integer_of_a_body_may_be_written_with_a_fraction_of_zero() {
    let mut integers = BTreeSet::new();
    for app in [App::users().await, App::products().await, App::orders("http://127.0.0.1:9".to_owned()).await]
    {
        for (name, schema) in app.document()["components"]["schemas"].as_object().unwrap() {
            // What only the service writes is not read.
            if schema["additionalProperties"] != false {
                continue;
            }
            for (field, property) in schema["properties"].as_object().unwrap() {
                if property["type"] == "integer" {
                    integers.insert(format!("{name}.{field}"));
                }
            }
        }
    }
    let known = [
        "NewItem.quantity",
        "ProductInput.price_cents",
        "ProductInput.stock",
        "ProductPatch.price_cents",
        "ProductPatch.stock",
        "ReservationRequest.hold_seconds",
        "ReservationRequest.quantity",
    ];
    assert_eq!(integers.iter().collect::<Vec<_>>(), known, "a new one is to be tried below");

    let products = Products::start().await;
    let id = products
        .add(json!({"name": "Tea", "category": "tea", "price_cents": 961.0, "currency": "EUR", "stock": 9.0}))
        .await;
    assert_eq!(products.stock(&id).await, 9);
    let orders = App::orders(products.url()).await;
    let body = json!({"items": [{"product_id": id, "quantity": 2.0}]});
    let placed = orders.post("/orders", body).customer("ada").send().await.expect(201);
    assert_eq!(placed.body["total_cents"], 1922);
    let app = App::products().await;
    let path =
        app.post("/products", product("Tea", 1, 9)).send().await.expect(201).header("location").to_owned();
    let whole = json!({"price_cents": 5.0, "stock": 7e0});
    let patched = app.patch(&path, whole).if_match("*").send().await.expect(200);
    assert_eq!((&patched.body["price_cents"], &patched.body["stock"]), (&json!(5), &json!(7)));
    let reservation =
        app.put(&format!("{path}/reservations/{NO_ID}"), json!({"quantity": 1.0, "hold_seconds": 9.0}));
    assert_eq!(reservation.send().await.expect(201).body["quantity"], 1);
    app.patch(&path, json!({"stock": 7.5})).if_match("*").send().await.problem(422, "validation_failed");
}

/// A described operation may refuse the empty request, but neither 405 nor "nothing at this path".
async fn every_operation_is_served(app: &App, described: &BTreeSet<String>) {
    for route in described {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{id}", NO_ID).replace("{reservation_id}", "r");
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
        "PUT /products/{id}/reservations/{reservation_id}",
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
