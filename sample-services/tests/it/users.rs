//! Accounts and login.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use sample_services::service::Service;
use serde_json::{Value, json};

use crate::support::{App, Reply, SECRET};

fn ada() -> Value {
    json!({"email": "ada@example.org", "name": "Ada", "password": "correct horse"})
}

async fn sign_up(app: &App, email: &str) -> Reply {
    let body = json!({"email": email, "name": "Ada", "password": "correct horse"});
    app.post("/users", body).send().await.expect(201)
}

#[tokio::test]
async fn signing_up_creates_a_customer_and_shows_no_password() {
    let app = App::users().await;
    let reply = app.post("/users", ada()).send().await.expect(201);
    assert_eq!(reply.header("location"), format!("/users/{}", reply.id()));
    assert_eq!(reply.header("etag"), "\"1\"");
    assert_eq!(reply.body["role"], "customer");
    let text = reply.body.to_string();
    assert!(!text.contains("argon2") && !text.contains("password") && !text.contains("horse"), "{text}");
    let read = app.get(reply.header("location")).customer(reply.id()).send().await.expect(200);
    assert_eq!(read.body, reply.body);
}

#[tokio::test]
async fn one_address_has_one_account_however_it_is_spelled() {
    let app = App::users().await;
    sign_up(&app, "ada@example.org").await;
    let other = sign_up(&app, "bob@example.org").await;
    let again = json!({"email": "ADA@Example.org", "name": "Ada", "password": "correct horse"});
    app.post("/users", again).send().await.problem(409, "email_taken");
    let path = format!("/users/{}", other.id());
    let change = json!({"email": "Ada@example.org"});
    app.patch(&path, change).customer(other.id()).send().await.problem(409, "email_taken");
}

#[tokio::test]
async fn a_sign_up_that_does_not_fit_is_refused_with_every_wrong_field() {
    let app = App::users().await;
    for (body, fields) in [
        (json!({"email": "ada", "name": "Ada", "password": "correct horse"}), vec!["email"]),
        (json!({"email": "a@b.c", "name": "", "password": "correct horse"}), vec!["name"]),
        (json!({"email": "a@b.c", "name": "Ada", "password": "1234567"}), vec!["password"]),
        (json!({"email": "", "name": " ", "password": ""}), vec!["email", "name", "password"]),
    ] {
        let reply = app.post("/users", body.clone()).send().await.problem(422, "validation_failed");
        let wrong: Vec<_> =
            reply.body["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
        assert_eq!(wrong, fields, "{body}");
    }
    for body in [
        json!({"email": "a@b.c", "name": "Ada"}),
        json!({"email": "a@b.c", "name": "Ada", "password": "correct horse", "role": "staff"}),
        json!([]),
    ] {
        app.post("/users", body).send().await.problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn an_account_is_seen_by_its_owner_and_by_staff_only() {
    let app = App::users().await;
    let user = sign_up(&app, "ada@example.org").await;
    let path = format!("/users/{}", user.id());
    app.get(&path).customer(user.id()).send().await.expect(200);
    app.get(&path).staff().send().await.expect(200);
    app.get(&path).customer("somebody-else").send().await.problem(403, "forbidden");
    let reply = app.get(&path).send().await.problem(401, "identity_missing");
    assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"api\"");
    app.get("/users/00000000-0000-0000-0000-000000000000").staff().send().await.problem(404, "not_found");
    app.get("/users/not-an-id").staff().send().await.problem(404, "not_found");
}

#[tokio::test]
async fn staff_list_accounts_page_by_page_and_customers_do_not() {
    let app = App::users().await;
    for name in ["c", "a", "b"] {
        sign_up(&app, &format!("{name}@example.org")).await;
    }
    app.get("/users").customer("me").send().await.problem(403, "forbidden");
    let mut path = Some("/users?sort=-email&limit=2".to_owned());
    let mut emails = Vec::new();
    while let Some(page) = path {
        let reply = app.get(&page).staff().send().await.expect(200);
        emails.extend(reply.body["items"].as_array().unwrap().iter().map(|user| user["email"].clone()));
        path = reply.next();
    }
    assert_eq!(emails, ["c@example.org", "b@example.org", "a@example.org"]);
    let one = app.get("/users?email=B@example.org").staff().send().await.expect(200);
    assert_eq!(one.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_account_is_replaced_patched_and_removed() {
    let app = App::users().await;
    let user = sign_up(&app, "ada@example.org").await;
    let path = format!("/users/{}", user.id());
    let body = json!({"email": "ada@example.org", "name": "Ada L."});
    let replaced = app.put(&path, body).customer(user.id()).send().await.expect(200);
    assert_eq!((replaced.header("etag"), &replaced.body["name"]), ("\"2\"", &json!("Ada L.")));
    let change = app.patch(&path, json!({"name": "Countess"})).customer(user.id());
    let patched = change.if_match("\"2\"").send().await.expect(200);
    assert_eq!(patched.body["email"], "ada@example.org");
    assert_eq!(patched.body["name"], "Countess");
    let late = app.patch(&path, json!({"name": "Late"})).customer(user.id());
    late.if_match("\"2\"").send().await.problem(412, "precondition_failed");
    let removed = json!({"name": null});
    app.patch(&path, removed).customer(user.id()).send().await.problem(422, "validation_failed");
    app.delete(&path).customer("somebody-else").send().await.problem(403, "forbidden");
    app.delete(&path).customer(user.id()).send().await.expect(204);
    app.get(&path).customer(user.id()).send().await.problem(404, "not_found");
}

#[tokio::test]
async fn only_staff_give_roles() {
    let app = App::users().await;
    let user = sign_up(&app, "ada@example.org").await;
    let path = format!("/users/{}", user.id());
    let promotion = json!({"role": "staff"});
    app.patch(&path, promotion.clone()).customer(user.id()).send().await.problem(403, "forbidden");
    let promoted = app.patch(&path, promotion).staff().send().await.expect(200);
    assert_eq!(promoted.body["role"], "staff");
    app.patch(&path, json!({"role": "king"})).staff().send().await.problem(422, "validation_failed");
}

#[tokio::test]
async fn whoever_knows_the_password_gets_a_token_for_the_account() {
    let app = App::users().await;
    let user = sign_up(&app, "ada@example.org").await;
    let credentials = json!({"email": "Ada@example.org", "password": "correct horse"});
    let reply = app.post("/login", credentials).send().await.expect(200);
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!((&reply.body["token_type"], &reply.body["expires_in"]), (&json!("Bearer"), &json!(60)));
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_issuer(&["https://issuer.test"]);
    validation.set_audience(&["api"]);
    let token = reply.body["access_token"].as_str().unwrap();
    let claims =
        jsonwebtoken::decode::<Value>(token, &DecodingKey::from_secret(SECRET), &validation).unwrap().claims;
    assert_eq!(claims["sub"], user.id());
    assert_eq!((&claims["role"], &claims["scope"]), (&json!("customer"), &reply.body["scope"]));
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_get_the_same_answer() {
    let app = App::users().await;
    sign_up(&app, "ada@example.org").await;
    let mut bodies = Vec::new();
    for (email, password) in [("ada@example.org", "wrong horse"), ("bob@example.org", "correct horse")] {
        let credentials = json!({"email": email, "password": password});
        let reply = app.post("/login", credentials).send().await.problem(401, "wrong_credentials");
        assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"api\"");
        bodies.push(reply.body);
    }
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn a_new_password_replaces_the_old_one() {
    let app = App::users().await;
    let user = sign_up(&app, "ada@example.org").await;
    let change = json!({"password": "battery staple"});
    app.patch(&format!("/users/{}", user.id()), change).customer(user.id()).send().await.expect(200);
    for (password, status) in [("correct horse", 401), ("battery staple", 200)] {
        let credentials = json!({"email": "ada@example.org", "password": password});
        app.post("/login", credentials).send().await.expect(status);
    }
}

#[tokio::test]
async fn without_a_signing_key_nobody_logs_in() {
    let app = App::start(Service::Users { signer: None }).await;
    app.post("/users", ada()).send().await.expect(201);
    let credentials = json!({"email": "ada@example.org", "password": "correct horse"});
    app.post("/login", credentials).send().await.problem(503, "login_not_configured");
}
