//! What every service does the same way.

use axum::http::Method;
use serde_json::json;

use crate::support::{App, product};

async fn every_service() -> [App; 3] {
    [App::users().await, App::products().await, App::orders("http://127.0.0.1:9".to_owned()).await]
}

#[tokio::test]
async fn no_operation_takes_a_query_parameter_that_it_does_not_have() {
    for app in every_service().await {
        for (path, item) in app.document()["paths"].as_object().unwrap() {
            let path = path.replace("{id}", ID).replace("{reservation_id}", ID);
            for method in item.as_object().unwrap().keys() {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                for query in ["no_such=1", "no_such", "%6eo_such=", "limit=1&Limit=1"] {
                    let call = app.call(method.clone(), &format!("{path}?{query}")).staff();
                    call.send().await.problem(400, "unknown_parameter");
                }
            }
        }
    }
    let products = App::products().await;
    let reply = products.get("/products?categroy=tea").send().await.problem(400, "unknown_parameter");
    let names = json!(["category", "min_price", "max_price", "q", "sort", "limit", "cursor", "page"]);
    assert_eq!(reply.body["parameters"], names);
    products.call(Method::HEAD, "/products?categroy=tea").send().await.expect(400);
    products.get("/products?limit=1&limit=2").send().await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_reader_who_has_the_current_version_gets_304_without_a_body() {
    let app = App::products().await;
    let created = app.post("/products", product("Sencha", 1250, 10)).send().await.expect(201);
    let path = created.header("location");
    let read = app.get(path).send().await.expect(200);
    assert_eq!(read.header("cache-control"), "private, no-cache");
    for tags in [read.header("etag"), "W/\"1\"", "*", "\"a,b\", \"1\"", "\"0\",\"1\""] {
        let unchanged = app.get(path).header("if-none-match", tags).send().await.expect(304);
        assert_eq!(
            (unchanged.header("etag"), unchanged.header("cache-control")),
            ("\"1\"", "private, no-cache")
        );
        assert_eq!((&unchanged.body, unchanged.header("content-type")), (&json!(null), ""), "{tags}");
        app.call(Method::HEAD, path).header("if-none-match", tags).send().await.expect(304);
    }
    for tags in ["\"0\"", "\"a,1\"", "W/\"0\", \"2\""] {
        app.get(path).header("if-none-match", tags).send().await.expect(200);
    }
    app.get(path).header("if-none-match", "1").send().await.problem(400, "bad_if_none_match");
    let missing = app.get(&format!("/products/{ID}")).header("if-none-match", "*");
    missing.send().await.problem(404, "not_found");
    let list = app.get("/products").header("if-none-match", "*").send().await.expect(200);
    assert_eq!(list.header("cache-control"), "private, no-cache");
    // A tag with a comma is one tag.
    app.put(path, product("Bancha", 1, 1)).if_match("\"a,b\", \"1\"").send().await.expect(200);
    app.put(path, product("Hojicha", 1, 1))
        .if_match("\"a,2\"")
        .send()
        .await
        .problem(412, "precondition_failed");
}

#[tokio::test]
async fn what_does_not_exist_or_does_not_fit_is_a_problem_document() {
    let app = App::products().await;
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(70_000));
    for (call, status, code) in [
        (app.get("/nothing"), 404, "not_found"),
        (app.get("/products/not-an-id"), 404, "not_found"),
        (app.get("/products/%ff"), 404, "not_found"),
        (app.put("/products/%ff/reservations/x", json!({"quantity": 1})), 404, "not_found"),
        (app.call(Method::PUT, "/products"), 405, "method_not_allowed"),
        (app.call(Method::POST, "/products"), 415, "unsupported_media_type"),
        (app.call(Method::POST, "/products").body("text/plain", "{}"), 415, "unsupported_media_type"),
        (app.call(Method::POST, "/products").body("application/json", "{"), 400, "malformed_json"),
        (app.call(Method::POST, "/products").body("application/json", ""), 400, "malformed_json"),
        (app.call(Method::POST, "/products").body("application/json", huge), 413, "body_too_large"),
    ] {
        call.send().await.problem(status, code);
    }
    let reply = app.call(Method::PUT, "/products").send().await;
    assert_eq!(reply.header("allow"), "POST,GET,HEAD");
}

#[tokio::test]
async fn a_media_type_may_have_parameters_and_capitals() {
    let app = App::products().await;
    let call = app.call(Method::POST, "/products");
    let body = product("Sencha", 1, 1).to_string();
    call.body("Application/JSON; charset=utf-8", body).send().await.expect(201);
}

#[tokio::test]
async fn the_request_id_is_sent_back_and_made_where_it_is_missing_or_useless() {
    let app = App::products().await;
    let reply = app.get("/livez").header("x-request-id", "abc-1").send().await;
    assert_eq!(reply.header("x-request-id"), "abc-1");
    let long = "x".repeat(129);
    for id in [None, Some(""), Some("a b"), Some(long.as_str())] {
        let call = app.get("/livez");
        let call = if let Some(id) = id { call.header("x-request-id", id) } else { call };
        let made = call.send().await.header("x-request-id").to_owned();
        assert_eq!(made.len(), 36, "{id:?} became {made}");
    }
    let longest = "x".repeat(128);
    let reply = app.get("/livez").header("x-request-id", &longest).send().await;
    assert_eq!(reply.header("x-request-id"), longest);
}

#[tokio::test]
async fn health_is_answered_without_identity() {
    for app in every_service().await {
        assert_eq!(app.get("/livez").send().await.expect(200).body, json!({"status": "ok"}));
        assert_eq!(app.get("/readyz").send().await.expect(200).body, json!({"status": "ready"}));
    }
}

const ID: &str = "00000000-0000-0000-0000-000000000000";
