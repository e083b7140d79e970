//! Stock that is set aside, at the products service: named by its caller, the same when repeated, and not for ever.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{App, Call, eventually, product};

const FIRST: &str = "00000000-0000-0000-0000-000000000001";
const SECOND: &str = "00000000-0000-0000-0000-000000000002";

/// A product of which ten are in stock.
struct Shelf {
    app: App,
    path: String,
}

impl Shelf {
    async fn fill() -> Self {
        let app = App::products().await;
        let added = app.post("/products", product("Sencha", 1250, 10)).send().await.expect(201);
        let path = added.header("location").to_owned();
        Self { app, path }
    }

    fn reserve(&self, id: &str, body: Value) -> Call {
        self.app.put(&format!("{}/reservations/{id}", self.path), body)
    }

    fn release(&self, id: &str) -> Call {
        self.app.delete(&format!("{}/reservations/{id}", self.path))
    }

    async fn stock(&self) -> i64 {
        self.app.get(&self.path).send().await.expect(200).body["stock"].as_i64().unwrap()
    }
}

#[tokio::test]
async fn stock_is_never_reserved_twice() {
    let shelf = Shelf::fill().await;
    let mut takers = JoinSet::new();
    for n in 0..20 {
        let call = shelf.reserve(&format!("00000000-0000-0000-0000-{n:012}"), json!({"quantity": 1}));
        takers.spawn(async move { call.send().await.status.as_u16() });
    }
    let statuses = takers.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 10);
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 10);
    assert_eq!(shelf.stock().await, 0);
}

#[tokio::test]
async fn a_reservation_takes_stock_and_its_release_gives_it_back_once() {
    let shelf = Shelf::fill().await;
    let taken = shelf.reserve(FIRST, json!({"quantity": 4})).send().await.expect(201);
    assert_eq!((&taken.body["id"], &taken.body["confirmed"]), (&json!(FIRST), &json!(false)));
    assert!(taken.body["expires_at"].is_string(), "{}", taken.body);
    assert_eq!(shelf.stock().await, 6);
    let short = shelf.reserve(SECOND, json!({"quantity": 7})).send().await.problem(409, "insufficient_stock");
    assert_eq!(short.body["available"], 6);
    for body in [
        json!({"quantity": 0}),
        json!({"quantity": 1001}),
        json!({"quantity": 1, "hold_seconds": 0}),
        json!({"quantity": 1, "hold_seconds": 3601}),
        json!({}),
    ] {
        shelf.reserve(SECOND, body).send().await.problem(422, "validation_failed");
    }
    let nowhere = format!("/products/{SECOND}/reservations/{SECOND}");
    shelf.app.put(&nowhere, json!({"quantity": 1})).send().await.problem(404, "not_found");
    shelf.app.delete(&nowhere).send().await.problem(404, "not_found");
    shelf.reserve("not-an-id", json!({"quantity": 1})).send().await.problem(404, "not_found");
    for _ in 0..2 {
        shelf.release(FIRST).send().await.expect(204);
        assert_eq!(shelf.stock().await, 10);
    }
}

#[tokio::test]
async fn a_repeat_is_the_same_reservation() {
    let shelf = Shelf::fill().await;
    let first = shelf.reserve(FIRST, json!({"quantity": 4})).send().await.expect(201);
    let repeats: JoinSet<_> = (0..8).map(|_| shelf.reserve(FIRST, json!({"quantity": 4})).send()).collect();
    for repeat in repeats.join_all().await {
        assert_eq!(repeat.expect(200).body, first.body);
    }
    assert_eq!(shelf.stock().await, 6);
    let other = shelf.reserve(FIRST, json!({"quantity": 5})).send().await;
    other.problem(409, "reservation_differs");
    let elsewhere = shelf.app.post("/products", product("Assam", 900, 10)).send().await.expect(201);
    let path = format!("{}/reservations/{FIRST}", elsewhere.header("location"));
    shelf.app.put(&path, json!({"quantity": 4})).send().await.problem(409, "reservation_differs");
    // What another product has under this name is not given back.
    shelf.app.delete(&path).send().await.problem(409, "reservation_differs");
    assert_eq!(shelf.stock().await, 6);
}

#[tokio::test]
async fn what_is_not_confirmed_expires_and_what_is_confirmed_does_not() {
    let shelf = Shelf::fill().await;
    let brief = |more: Value| {
        let mut body = json!({"quantity": 4, "hold_seconds": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    shelf.reserve(FIRST, brief(json!({}))).send().await.expect(201);
    shelf.reserve(SECOND, brief(json!({}))).send().await.expect(201);
    let kept = shelf.reserve(SECOND, brief(json!({"confirmed": true}))).send().await.expect(200);
    assert_eq!((&kept.body["confirmed"], &kept.body["expires_at"]), (&json!(true), &json!(null)));
    assert_eq!(shelf.stock().await, 2);
    // No request makes it happen.
    eventually("the first one expires", async || shelf.stock().await == 6).await;
    // A repeat that forgets to confirm takes nothing back.
    assert_eq!(shelf.reserve(SECOND, brief(json!({}))).send().await.expect(200).body, kept.body);
    // Who confirms too late takes anew, if there is any.
    let late = shelf.reserve(FIRST, brief(json!({"confirmed": true}))).send().await.expect(201);
    assert_eq!((&late.body["confirmed"], shelf.stock().await), (&json!(true), 2));
}

#[tokio::test]
async fn a_reservation_that_comes_after_its_release_takes_nothing() {
    let shelf = Shelf::fill().await;
    shelf.release(FIRST).send().await.expect(204);
    for body in [json!({"quantity": 4}), json!({"quantity": 4, "confirmed": true})] {
        shelf.reserve(FIRST, body).send().await.problem(409, "reservation_released");
    }
    assert_eq!(shelf.stock().await, 10);
}
