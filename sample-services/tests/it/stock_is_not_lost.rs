//! Orders and products when an answer is late, or a process is gone: no piece of stock is lost, and none is sold twice.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::http::Method;
use sample_services::{
    database::DatabaseLocation,
    service::{RunningService, Service, ServiceOptions},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::support::{App, Between, DEADLINE, Passing, Products, eventually, options, product};

fn order(id: &str, quantity: i64) -> Value {
    json!({"items": [{"product_id": id, "quantity": quantity}]})
}

fn is_reservation(passing: &Passing) -> bool {
    passing.method == Method::PUT && passing.body["confirmed"] != true
}

fn is_confirmation(passing: &Passing) -> bool {
    passing.method == Method::PUT && passing.body["confirmed"] == true
}

/// Ten pieces of one tea.
async fn shelf() -> (Products, String) {
    let products = Products::start().await;
    let sencha = products.add(product("Sencha", 1250, 10)).await;
    (products, sencha)
}

#[tokio::test]
async fn a_reservation_that_is_answered_late_loses_no_stock() {
    let (products, sencha) = shelf().await;
    // The stock is taken; the answer does not come.
    let between = Between::start(&products, |passing| async move {
        let answer = passing.forward().await;
        if is_reservation(&passing) { std::future::pending().await } else { answer }
    })
    .await;
    let orders = App::orders(between.url).await;
    let late = orders.post("/orders", order(&sencha, 3)).customer("ada").send().await;
    late.problem(503, "products_unavailable");
    assert_eq!(products.stock(&sencha).await, 10);
}

#[tokio::test]
async fn a_reservation_that_arrives_after_orders_gave_up_takes_no_stock() {
    let (products, sencha) = shelf().await;
    let (released, is_released) = watch::channel(false);
    let (late, mut late_answers) = mpsc::unbounded_channel();
    let released = Arc::new(released);
    let between = Between::start(&products, move |passing| {
        let (released, mut is_released, late) = (released.clone(), is_released.clone(), late.clone());
        async move {
            if is_reservation(&passing) {
                is_released.wait_for(|released| *released).await.unwrap();
            }
            let answer = passing.forward().await;
            if is_reservation(&passing) {
                late.send(answer.clone()).unwrap();
            } else if passing.method == Method::DELETE {
                released.send_replace(true);
            }
            answer
        }
    })
    .await;
    let orders = App::orders(between.url).await;
    let given_up = orders.post("/orders", order(&sencha, 3)).customer("ada").send().await;
    given_up.problem(503, "products_unavailable");
    let (status, body) = tokio::time::timeout(DEADLINE, late_answers.recv()).await.unwrap().unwrap();
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("reservation_released"), "{body}");
    assert_eq!(products.stock(&sencha).await, 10);
}

#[test]
fn a_crash_between_the_reservation_and_the_order_loses_no_stock() {
    let here = tokio::runtime::Runtime::new().unwrap();
    let doomed = tokio::runtime::Runtime::new().unwrap();
    let (reserved, mut reservations) = mpsc::unbounded_channel();
    let (products, sencha) = here.block_on(shelf());
    let between = here.block_on(Between::start(&products, move |mut passing| {
        let reserved = reserved.clone();
        async move {
            if !is_reservation(&passing) {
                return passing.forward().await;
            }
            // Nobody wants to wait for ten minutes.
            passing.body["hold_seconds"] = json!(1);
            let answer = passing.forward().await;
            reserved.send(answer.0).unwrap();
            std::future::pending().await
        }
    }));
    let url = between.url;
    let body = order(&sencha, 3);
    doomed.spawn(async move {
        let orders = App::orders(url).await;
        orders.post("/orders", body).customer("ada").send().await
    });
    let taken = here.block_on(async { tokio::time::timeout(DEADLINE, reservations.recv()).await });
    assert_eq!(taken.unwrap(), Some(201));
    assert_eq!(here.block_on(products.stock(&sencha)), 7);
    doomed.shutdown_background();
    here.block_on(products.stock_becomes(&sencha, 10));
}

/// Orders on a file, so that it can be started again.
struct Kept {
    options: ServiceOptions,
    _folder: TempDir,
}

impl Kept {
    fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = DatabaseLocation::File(folder.path().join("orders.db"));
        let service = Service::Orders { products_url: Some(url.to_owned()) };
        Self { options: ServiceOptions { database, ..options(service) }, _folder: folder }
    }

    async fn start(&self) -> RunningService {
        RunningService::start(self.options.clone()).await.unwrap()
    }
}

async fn call(orders: &RunningService, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, format!("http://{}{path}", orders.addr()));
    let request = request.header("x-user-id", "ada").header("x-user-role", "staff").json(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

#[tokio::test]
async fn an_order_that_was_not_confirmed_before_a_crash_is_confirmed_after_it() {
    let (products, sencha) = shelf().await;
    let (away, confirmed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_away, count) = (away.clone(), confirmed.clone());
    let between = Between::start(&products, move |passing| {
        let (is_away, count) = (is_away.clone(), count.clone());
        async move {
            if is_confirmation(&passing) {
                if is_away.load(Ordering::SeqCst) {
                    return (503, String::new());
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
            passing.forward().await
        }
    })
    .await;
    let kept = Kept::new(&between.url);
    let orders = kept.start().await;
    let (status, placed) = call(&orders, Method::POST, "/orders", &order(&sencha, 3)).await;
    assert_eq!(status, 201, "{placed}");
    orders.shutdown().await;
    away.store(false, Ordering::SeqCst);
    let orders = kept.start().await;
    eventually("the order is confirmed", async || confirmed.load(Ordering::SeqCst) == 1).await;
    assert_eq!(products.stock(&sencha).await, 7);
    let path = format!("/orders/{}", placed["id"].as_str().unwrap());
    assert_eq!(call(&orders, Method::DELETE, &path, &json!(null)).await.0, 204);
    assert_eq!(products.stock(&sencha).await, 10);
    orders.shutdown().await;
}

#[tokio::test]
async fn stock_of_a_cancelled_order_comes_back_when_products_does() {
    let (products, sencha) = shelf().await;
    let away = Arc::new(AtomicBool::new(false));
    let is_away = away.clone();
    let between =
        Between::start(&products, move |passing| {
            let is_away = is_away.clone();
            async move {
                if is_away.load(Ordering::SeqCst) { (503, String::new()) } else { passing.forward().await }
            }
        })
        .await;
    let kept = Kept::new(&between.url);
    let orders = kept.start().await;
    let mut paths = Vec::new();
    for _ in 0..2 {
        let (status, placed) = call(&orders, Method::POST, "/orders", &order(&sencha, 3)).await;
        assert_eq!(status, 201, "{placed}");
        paths.push(format!("/orders/{}", placed["id"].as_str().unwrap()));
    }
    away.store(true, Ordering::SeqCst);
    let cancel = json!({"status": "cancelled"});
    assert_eq!(call(&orders, Method::PATCH, &paths[0], &cancel).await.0, 200);
    assert_eq!(call(&orders, Method::DELETE, &paths[1], &json!(null)).await.0, 204);
    assert_eq!(products.stock(&sencha).await, 4);
    orders.shutdown().await;
    away.store(false, Ordering::SeqCst);
    let orders = kept.start().await;
    products.stock_becomes(&sencha, 10).await;
    orders.shutdown().await;
}

#[tokio::test]
async fn an_order_whose_stock_was_sold_to_others_meanwhile_is_cancelled_and_sells_nothing_twice() {
    let (products, sencha) = shelf().await;
    let assam = products.add(product("Assam", 900, 10)).await;
    let gone = sencha.clone();
    let between = Between::start(&products, move |passing| {
        let gone = gone.clone();
        async move {
            if is_confirmation(&passing) && passing.path.contains(&gone) {
                return (409, json!({"code": "insufficient_stock", "available": 0}).to_string());
            }
            passing.forward().await
        }
    })
    .await;
    let orders = App::orders(between.url).await;
    let body = json!({"items": [
        {"product_id": assam, "quantity": 2},
        {"product_id": sencha, "quantity": 3},
    ]});
    let placed = orders.post("/orders", body).customer("ada").send().await.expect(201);
    let path = placed.header("location");
    eventually("the order is cancelled", async || {
        orders.get(path).customer("ada").send().await.expect(200).body["status"] == "cancelled"
    })
    .await;
    products.stock_becomes(&assam, 10).await;
}
