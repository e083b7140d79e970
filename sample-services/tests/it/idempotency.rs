//! `Idempotency-Key` on orders: a client that heard nothing asks again, and there is one order.

use sample_services::{
    database::DatabaseLocation,
    service::{Service, ServiceOptions},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::support::{App, Between, Call, DEADLINE, Products, options, product};

struct Shop {
    products: Products,
    orders: App,
    sencha: String,
}

impl Shop {
    async fn open() -> Self {
        let products = Products::start().await;
        let orders = App::orders(products.url()).await;
        let sencha = products.add(product("Sencha", 1250, 10)).await;
        Self { products, orders, sencha }
    }

    fn order(&self, quantity: i64) -> Value {
        json!({"items": [{"product_id": self.sencha, "quantity": quantity}]})
    }

    fn place(&self, customer: &str, key: &str, quantity: i64) -> Call {
        self.orders.post("/orders", self.order(quantity)).customer(customer).header("idempotency-key", key)
    }

    async fn orders_of(&self, customer: &str) -> usize {
        let list = self.orders.get("/orders").customer(customer).send().await.expect(200);
        list.body["items"].as_array().unwrap().len()
    }
}

#[tokio::test]
async fn a_repeat_gets_the_same_answer_and_places_no_other_order() {
    let shop = Shop::open().await;
    let first = shop.place("ada", "\"k-1\"", 2).send().await.expect(201);
    // The answer is that of then, whatever became of the order.
    let path = first.header("location");
    shop.orders.patch(path, json!({"note": "changed"})).customer("ada").send().await.expect(200);
    for key in ["\"k-1\"", "k-1"] {
        let repeat = shop.place("ada", key, 2).send().await.expect(201);
        assert_eq!(repeat.body, first.body);
        for header in ["location", "etag", "content-type"] {
            assert_eq!(repeat.header(header), first.header(header), "{header}");
        }
    }
    // The same in other words.
    let text = format!(
        "{{\"note\": \"\", \"items\": [ {{\"quantity\": 2.0, \"product_id\": \"{}\"}} ]}}",
        shop.sencha
    );
    let call = shop.orders.call(axum::http::Method::POST, "/orders").customer("ada");
    let repeat =
        call.header("idempotency-key", "k-1").body("application/json", text).send().await.expect(201);
    assert_eq!(repeat.body, first.body);
    shop.orders.delete(path).customer("ada").send().await.expect(204);
    assert_eq!(shop.place("ada", "k-1", 2).send().await.expect(201).body, first.body);
    assert_eq!((shop.orders_of("ada").await, shop.products.stock(&shop.sencha).await), (0, 10));
}

#[tokio::test]
async fn a_key_belongs_to_one_customer_and_one_request() {
    let shop = Shop::open().await;
    let first = shop.place("ada", "k", 2).send().await.expect(201);
    shop.place("ada", "k", 3).send().await.problem(422, "idempotency_key_reused");
    let bob = shop.place("bob", "k", 3).send().await.expect(201);
    assert_ne!(bob.id(), first.id());
    let other = shop.place("ada", "k-2", 2).send().await.expect(201);
    assert_ne!(other.id(), first.id());
    let unnamed = || shop.orders.post("/orders", shop.order(1)).customer("ada").send();
    assert_ne!(unnamed().await.expect(201).id(), unnamed().await.expect(201).id());
    assert_eq!(shop.orders_of("ada").await, 4);
    for key in ["", "\"", &"x".repeat(129)] {
        shop.place("ada", key, 1).send().await.problem(400, "bad_idempotency_key");
    }
}

#[tokio::test]
async fn a_request_that_failed_frees_its_key() {
    let shop = Shop::open().await;
    shop.place("ada", "k", 11).send().await.problem(409, "insufficient_stock");
    shop.place("ada", "k", 0).send().await.problem(422, "validation_failed");
    let placed = shop.place("ada", "k", 10).send().await.expect(201);
    assert_eq!(shop.place("ada", "k", 10).send().await.expect(201).body, placed.body);
}

#[tokio::test]
async fn while_the_first_request_is_at_work_a_repeat_is_told_to_wait() {
    let products = Products::start().await;
    let sencha = products.add(product("Sencha", 1250, 10)).await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let (open, gate) = watch::channel(false);
    let between = Between::start(&products, move |passing| {
        let (arrived, mut gate) = (arrived.clone(), gate.clone());
        async move {
            arrived.send(()).unwrap();
            gate.wait_for(|open| *open).await.unwrap();
            passing.forward().await
        }
    })
    .await;
    let orders = App::orders(between.url).await;
    let body = json!({"items": [{"product_id": sencha, "quantity": 2}]});
    let place = || orders.post("/orders", body.clone()).customer("ada").header("idempotency-key", "k");
    let first = tokio::spawn(place().send());
    tokio::time::timeout(DEADLINE, arrivals.recv()).await.unwrap().unwrap();
    let early = place().send().await.problem(409, "idempotency_key_in_use");
    assert_eq!(early.header("retry-after"), "1");
    open.send(true).unwrap();
    let first = first.await.unwrap().expect(201);
    assert_eq!(place().send().await.expect(201).body, first.body);
    assert_eq!(products.stock(&sencha).await, 8);
}

#[tokio::test]
async fn keys_last_over_a_restart() {
    let products = Products::start().await;
    let sencha = products.add(product("Sencha", 1250, 10)).await;
    let folder = tempfile::tempdir().unwrap();
    let options = ServiceOptions {
        database: DatabaseLocation::File(folder.path().join("orders.db")),
        ..options(Service::Orders { products_url: Some(products.url()) })
    };
    let mut answers = Vec::new();
    for _ in 0..2 {
        let orders = App::with(&options).await;
        let body = json!({"items": [{"product_id": sencha, "quantity": 2}]});
        let call = orders.post("/orders", body).customer("ada").header("idempotency-key", "k");
        answers.push(call.send().await.expect(201).body);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(products.stock(&sencha).await, 8);
}
