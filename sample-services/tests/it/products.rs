//! The catalogue and its stock.

use axum::http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{App, Reply, product};

async fn add(app: &App, body: Value) -> Reply {
    app.post("/products", body).send().await.expect(201)
}

#[tokio::test]
async fn a_product_is_created_read_replaced_patched_and_removed() {
    let app = App::products().await;
    let created = add(&app, product("Sencha", 1250, 10)).await;
    assert_eq!((created.header("etag"), created.body["price_cents"].clone()), ("\"1\"", json!(1250)));
    let path = created.header("location").to_owned();
    assert_eq!(app.get(&path).send().await.expect(200).body, created.body);

    let replaced = app.put(&path, product("Gyokuro", 2500, 5)).if_match("\"1\"").send().await.expect(200);
    assert_eq!((replaced.header("etag"), &replaced.body["name"]), ("\"2\"", &json!("Gyokuro")));
    let change = json!({"price_cents": 2400, "description": "shaded"});
    let patched = app.patch(&path, change).if_match("\"2\"").send().await.expect(200);
    assert_eq!(patched.body["description"], "shaded");
    assert_eq!((&patched.body["name"], &patched.body["price_cents"]), (&json!("Gyokuro"), &json!(2400)));
    let without = app.patch(&path, json!({"description": null})).if_match("*").send().await.expect(200);
    assert_eq!(without.body["description"], "");

    app.delete(&path).if_match("\"4\"").send().await.expect(204);
    app.get(&path).send().await.problem(404, "not_found");
}

#[tokio::test]
async fn a_change_needs_the_version_that_was_read() {
    let app = App::products().await;
    let path = add(&app, product("Sencha", 1250, 10)).await.header("location").to_owned();
    app.put(&path, product("Sencha", 1300, 10)).if_match("\"1\"").send().await.expect(200);
    let missing = "/products/00000000-0000-0000-0000-000000000000";
    let changes =
        [app.put(&path, product("x", 1, 1)), app.patch(&path, json!({"name": "x"})), app.delete(&path)];
    for call in changes {
        call.send().await.problem(428, "precondition_required");
    }
    for (tag, status, code) in [
        ("\"1\"", 412, "precondition_failed"),
        ("W/\"2\"", 412, "precondition_failed"),
        ("\"3\"", 412, "precondition_failed"),
        ("2", 400, "bad_if_match"),
    ] {
        app.put(&path, product("x", 1, 1)).if_match(tag).send().await.problem(status, code);
        app.patch(&path, json!({"name": "x"})).if_match(tag).send().await.problem(status, code);
        app.delete(&path).if_match(tag).send().await.problem(status, code);
    }
    assert_eq!(app.get(&path).send().await.body["name"], "Sencha");
    app.delete(missing).if_match("\"1\"").send().await.problem(404, "not_found");
}

#[tokio::test]
async fn of_many_writers_with_the_same_version_one_wins() {
    let app = App::products().await;
    let path = add(&app, product("Sencha", 1250, 10)).await.header("location").to_owned();
    let mut writers = JoinSet::new();
    for price in 0..8 {
        let call = app.put(&path, product("Sencha", price, 10)).if_match("\"1\"");
        writers.spawn(async move { call.send().await.status.as_u16() });
    }
    let mut statuses = writers.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
}

#[tokio::test]
async fn a_product_that_does_not_fit_is_refused() {
    let app = App::products().await;
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("x".repeat(201))),
        ("name", json!("  ")),
        ("description", json!("x".repeat(2001))),
        ("category", json!(" ")),
        ("price_cents", json!(-1)),
        ("price_cents", json!(100_000_001)),
        ("currency", json!("eur")),
        ("currency", json!("EURO")),
        ("stock", json!(-1)),
    ] {
        let mut body = product("Sencha", 1250, 10);
        body[field] = value;
        let reply = app.post("/products", body.clone()).send().await.problem(422, "validation_failed");
        assert_eq!(reply.body["errors"][0]["field"], field, "{body}");
    }
    for (field, value) in
        [("price_cents", json!(12.5)), ("price_cents", json!("12")), ("colour", json!("green"))]
    {
        let mut body = product("Sencha", 1250, 10);
        body[field] = value;
        app.post("/products", body).send().await.problem(422, "validation_failed");
    }
    let path = add(&app, product("Sencha", 0, 0)).await.header("location").to_owned();
    for patch in [json!({"name": null}), json!({"stock": -1}), json!({"id": "mine"}), json!(7)] {
        app.patch(&path, patch).if_match("*").send().await.problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn a_patch_of_another_media_type_is_told_the_right_one() {
    let app = App::products().await;
    let path = add(&app, product("Sencha", 1250, 10)).await.header("location").to_owned();
    let call = || app.call(Method::PATCH, &path).if_match("*");
    let reply = call().body("application/json-patch+json", "[]").send().await;
    let reply = reply.problem(415, "unsupported_media_type");
    assert_eq!(reply.header("accept-patch"), "application/merge-patch+json, application/json");
    call().send().await.problem(415, "unsupported_media_type");
    // Most clients know one name for JSON; what they send is a merge patch all the same.
    assert_eq!(call().json(json!({"stock": 3})).send().await.expect(200).body["stock"], 3);
    call().json(json!([{"op": "remove", "path": "/name"}])).send().await.problem(422, "validation_failed");
}

#[tokio::test]
async fn a_list_holds_what_the_filters_let_through() {
    let app = App::products().await;
    for (name, category, price, description) in [
        ("Sencha", "green", 1250, "steamed leaves"),
        ("Gyokuro", "green", 2500, "shaded leaves"),
        ("Assam", "black", 900, "malty"),
        ("Earl Grey", "black", 1250, "with bergamot"),
    ] {
        let mut body = product(name, price, 1);
        body["category"] = json!(category);
        body["description"] = json!(description);
        add(&app, body).await;
    }
    for (query, names) in [
        ("sort=name", vec!["Assam", "Earl Grey", "Gyokuro", "Sencha"]),
        ("sort=-price,name", vec!["Gyokuro", "Earl Grey", "Sencha", "Assam"]),
        ("sort=price_desc,name_asc", vec!["Gyokuro", "Earl Grey", "Sencha", "Assam"]),
        ("sort=price,-name", vec!["Assam", "Sencha", "Earl Grey", "Gyokuro"]),
        ("sort=name&category=black", vec!["Assam", "Earl Grey"]),
        ("sort=name&min_price=1250", vec!["Earl Grey", "Gyokuro", "Sencha"]),
        ("sort=name&max_price=1250", vec!["Assam", "Earl Grey", "Sencha"]),
        ("sort=name&min_price=1250&max_price=1250", vec!["Earl Grey", "Sencha"]),
        ("sort=name&q=leaves", vec!["Gyokuro", "Sencha"]),
        ("sort=name&q=LEAV+sha", vec!["Gyokuro"]),
        ("sort=name&q=earl", vec!["Earl Grey"]),
        ("sort=name&q=nothing", vec![]),
        ("sort=name&category=black&q=malty", vec!["Assam"]),
        ("category=white", vec![]),
    ] {
        let reply = app.get(&format!("/products?{query}")).send().await.expect(200);
        let got: Vec<_> = reply.body["items"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
        assert_eq!(got, names, "{query}");
        assert!(reply.next().is_none(), "{query}");
    }
}

#[tokio::test]
async fn a_search_is_words_and_never_an_expression() {
    let app = App::products().await;
    add(&app, product("Sencha", 1250, 1)).await;
    for q in ["%22", "*", "name%3Aa", "a+AND", "NEAR(", "-a", "%27;--", "%00", "%F0%9F%8D%B5", "("] {
        app.get(&format!("/products?q={q}")).send().await.expect(200);
    }
}

#[tokio::test]
async fn search_follows_changes_of_the_text() {
    let app = App::products().await;
    let path = add(&app, product("Sencha", 1250, 1)).await.header("location").to_owned();
    let found = async |q: &str| {
        let reply = app.get(&format!("/products?q={q}")).send().await.expect(200);
        reply.body["items"].as_array().unwrap().len()
    };
    app.patch(&path, json!({"name": "Bancha"})).if_match("*").send().await.expect(200);
    assert_eq!((found("sencha").await, found("bancha").await), (0, 1));
    app.delete(&path).if_match("*").send().await.expect(204);
    assert_eq!(found("bancha").await, 0);
}

#[tokio::test]
async fn following_the_links_visits_every_product_once() {
    let app = App::products().await;
    for n in 0..25 {
        add(&app, product(&format!("Tea {n:02}"), 100 * (n % 4), 1)).await;
    }
    let mut path = Some("/products?category=tea&sort=-price&limit=7".to_owned());
    let (mut names, mut sizes) = (Vec::new(), Vec::new());
    while let Some(page) = path {
        let reply = app.get(&page).send().await.expect(200);
        let items = reply.body["items"].as_array().unwrap();
        sizes.push(items.len());
        names.extend(items.iter().map(|p| p["name"].as_str().unwrap().to_owned()));
        path = reply.next();
        assert_eq!(path.is_some(), reply.body["next"].is_string());
    }
    assert_eq!(sizes, [7, 7, 7, 4]);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
}

#[tokio::test]
async fn pages_have_numbers_and_the_link_of_a_numbered_page_leads_on() {
    let app = App::products().await;
    for n in 0..25 {
        add(&app, product(&format!("Tea {n:02}"), 100, 1)).await;
    }
    let names = |reply: &Reply| {
        let items = reply.body["items"].as_array().unwrap().iter();
        items.map(|p| p["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let teas = |range: std::ops::Range<usize>| range.map(|n| format!("Tea {n:02}")).collect::<Vec<_>>();
    for (page, range) in [(1, 0..10), (2, 10..20), (3, 20..25), (4, 25..25)] {
        let reply = app.get(&format!("/products?page={page}&limit=10&sort=name")).send().await.expect(200);
        assert_eq!(names(&reply), teas(range.clone()), "page {page}");
        assert_eq!(reply.next().is_some(), range.end == 10 || range.end == 20, "page {page}");
    }
    let second = app.get("/products?page=2&limit=10&sort=name").send().await.expect(200);
    let third = app.get(&second.next().unwrap()).send().await.expect(200);
    assert_eq!((names(&third), third.next()), (teas(20..25), None));
    let both =
        format!("/products?page=2&limit=10&sort=name&cursor={}", second.body["next"].as_str().unwrap());
    app.get(&both).send().await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_page_that_cannot_be_is_refused() {
    let app = App::products().await;
    for query in [
        "limit=0",
        "limit=101",
        "limit=x",
        "page=0",
        "page=101",
        "page=x",
        "sort=version",
        "sort=",
        "cursor=%3F",
        "min_price=cheap",
        "min_price=-1",
        "max_price=100000001",
    ] {
        app.get(&format!("/products?{query}")).send().await.problem(400, "invalid_parameter");
    }
    app.get("/products?cursor=x").send().await.problem(404, "unknown_cursor");
}
