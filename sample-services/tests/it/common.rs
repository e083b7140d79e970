//! What every service does the same way.

use axum::http::Method;
use serde_json::json;

use crate::support::{App, product};

#[tokio::test]
async fn what_does_not_exist_or_does_not_fit_is_a_problem_document() {
    let app = App::products().await;
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(70_000));
    for (call, status, code) in [
        (app.get("/nothing"), 404, "not_found"),
        (app.get("/products/not-an-id"), 404, "not_found"),
        (app.get("/products/%ff"), 404, "not_found"),
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
    for app in [App::users().await, App::products().await, App::orders("http://127.0.0.1:9".to_owned()).await]
    {
        assert_eq!(app.get("/livez").send().await.expect(200).body, json!({"status": "ok"}));
        assert_eq!(app.get("/readyz").send().await.expect(200).body, json!({"status": "ready"}));
    }
}
