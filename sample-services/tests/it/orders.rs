//! Orders, against a real products service and against products that misbehave.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{App, FakeProducts, Products, Reply, eventually, product};

const SENCHA: &str = "00000000-0000-0000-0000-00000000000a";
const ASSAM: &str = "00000000-0000-0000-0000-00000000000b";

fn order(items: &[(&str, i64)]) -> Value {
    let items: Vec<_> = items.iter().map(|(id, n)| json!({"product_id": id, "quantity": n})).collect();
    json!({"items": items})
}

/// A shop with one product in stock.
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

    async fn place(&self, customer: &str, quantity: i64) -> Reply {
        let body = order(&[(&self.sencha, quantity)]);
        self.orders.post("/orders", body).customer(customer).send().await.expect(201)
    }
}

#[tokio::test]
async fn an_order_takes_price_and_stock_from_products() {
    let shop = Shop::open().await;
    let assam = shop.products.add(product("Assam", 900, 3)).await;
    let mut body = order(&[(&shop.sencha, 2), (&assam, 3)]);
    body["note"] = json!("ring twice");
    let placed = shop.orders.post("/orders", body).customer("ada").send().await.expect(201);
    assert_eq!(placed.header("location"), format!("/orders/{}", placed.id()));
    assert_eq!(placed.header("etag"), "\"1\"");
    assert_eq!(placed.body["total_cents"], 2 * 1250 + 3 * 900);
    assert_eq!((&placed.body["status"], &placed.body["currency"]), (&json!("pending"), &json!("EUR")));
    let item = json!({"product_id": assam, "product_name": "Assam", "unit_price_cents": 900, "quantity": 3});
    assert_eq!(placed.body["items"][1], item);
    assert_eq!((shop.products.stock(&shop.sencha).await, shop.products.stock(&assam).await), (8, 0));
    let read = shop.orders.get(placed.header("location")).customer("ada").send().await.expect(200);
    assert_eq!(read.body, placed.body);
}

#[tokio::test]
async fn without_a_user_there_is_no_order() {
    let shop = Shop::open().await;
    let reply = shop.orders.post("/orders", order(&[(&shop.sencha, 1)])).send().await;
    assert_eq!(reply.problem(401, "identity_missing").header("www-authenticate"), "Bearer realm=\"api\"");
    shop.orders.get("/orders").send().await.problem(401, "identity_missing");
    assert_eq!(shop.products.stock(&shop.sencha).await, 10);
}

#[tokio::test]
async fn an_order_that_cannot_be_filled_is_refused_and_takes_no_stock() {
    let shop = Shop::open().await;
    let dollars = {
        let mut body = product("Dollar tea", 900, 10);
        body["currency"] = json!("USD");
        shop.products.add(body).await
    };
    let sencha = shop.sencha.as_str();
    for (body, status, code) in [
        (order(&[(sencha, 1), (SENCHA, 1)]), 422, "unknown_product"),
        (order(&[(sencha, 1), ("../users", 1)]), 422, "unknown_product"),
        (order(&[(sencha, 11)]), 409, "insufficient_stock"),
        (order(&[(sencha, 1), (&dollars, 1)]), 422, "mixed_currencies"),
        (order(&[(sencha, 0)]), 422, "validation_failed"),
        (order(&[(sencha, 1001)]), 422, "validation_failed"),
        (order(&[(sencha, 1), (sencha, 1)]), 422, "validation_failed"),
        (order(&[]), 422, "validation_failed"),
        (order(&[(sencha, 1); 51]), 422, "validation_failed"),
        (json!({}), 422, "validation_failed"),
    ] {
        shop.orders.post("/orders", body).customer("ada").send().await.problem(status, code);
    }
    assert_eq!(shop.products.stock(sencha).await, 10);
    let short = shop.orders.post("/orders", order(&[(sencha, 11)])).customer("ada").send().await;
    assert_eq!((&short.body["product_id"], &short.body["available"]), (&json!(sencha), &json!(10)));
    let none = shop.orders.get("/orders").customer("ada").send().await.expect(200);
    assert_eq!(none.body["items"], json!([]));
}

/// Products that have both teas on offer, but lose the race for the second one.
async fn second_reservation_fails(line: String) -> (u16, String) {
    let answer = match line.as_str() {
        _ if line.starts_with("GET ") => {
            let id = line.rsplit('/').next().unwrap();
            (200, json!({"id": id, "name": "Tea", "price_cents": 100, "currency": "EUR", "stock": 9}))
        }
        _ if line.starts_with("DELETE ") => (204, json!(null)),
        _ if line.contains(SENCHA) => (201, json!({})),
        _ => (409, json!({"code": "insufficient_stock", "available": 0})),
    };
    (answer.0, answer.1.to_string())
}

#[tokio::test]
async fn what_was_reserved_is_given_back_when_the_next_reservation_fails() {
    let products = FakeProducts::start(second_reservation_fails).await;
    let orders = App::orders(products.url.clone()).await;
    let body = order(&[(SENCHA, 1), (ASSAM, 1)]);
    orders.post("/orders", body).customer("ada").send().await.problem(409, "insufficient_stock");
    let lines: Vec<_> = products.seen().into_iter().map(|(line, _)| line).collect();
    let [offer, other_offer, taken, refused, released] = lines.as_slice() else { panic!("{lines:#?}") };
    assert_eq!(*offer, format!("GET /products/{SENCHA}"));
    assert_eq!(*other_offer, format!("GET /products/{ASSAM}"));
    let reservation = taken.strip_prefix(&format!("PUT /products/{SENCHA}/reservations/")).unwrap();
    assert!(refused.starts_with(&format!("PUT /products/{ASSAM}/reservations/")), "{refused}");
    assert_eq!(*released, format!("DELETE /products/{SENCHA}/reservations/{reservation}"));
}

#[tokio::test]
async fn no_stock_is_touched_for_an_order_that_a_look_at_the_offers_refuses() {
    let offer =
        json!({"id": SENCHA, "name": "Tea", "price_cents": 100, "currency": "EUR", "stock": 1}).to_string();
    let products = FakeProducts::start(move |_| std::future::ready((200, offer.clone()))).await;
    let orders = App::orders(products.url.clone()).await;
    let call = orders.post("/orders", order(&[(SENCHA, 2)])).customer("ada");
    call.send().await.problem(409, "insufficient_stock");
    // What is no id would change the path: it is not even asked for.
    let call = orders.post("/orders", order(&[("../users", 1)])).customer("ada");
    call.send().await.problem(422, "unknown_product");
    let lines: Vec<_> = products.seen().into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [format!("GET /products/{SENCHA}")]);
}

#[tokio::test]
async fn the_ids_of_the_request_travel_to_products() {
    let products = FakeProducts::start(second_reservation_fails).await;
    let orders = App::orders(products.url.clone()).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let call = orders.post("/orders", order(&[(SENCHA, 1)])).customer("ada");
    call.header("x-request-id", "abc-1").header("traceparent", traceparent).send().await.expect(201);
    // Offer, reservation, confirmation.
    eventually("the order is confirmed", async || products.seen().len() == 3).await;
    for (line, headers) in products.seen() {
        assert_eq!(headers["x-request-id"], "abc-1", "{line}");
        assert_eq!(headers["traceparent"], traceparent, "{line}");
    }
}

#[tokio::test]
async fn products_that_fail_are_told_apart_from_products_that_are_away() {
    for (status, body, answer, code) in [
        (500, "", 502, "products_failed"),
        (302, "", 502, "products_failed"),
        (200, "not json", 502, "products_failed"),
        (200, "{}", 502, "products_failed"),
        (503, "", 503, "products_unavailable"),
    ] {
        let products = FakeProducts::start(move |_| async move { (status, body.to_owned()) }).await;
        let orders = App::orders(products.url.clone()).await;
        let call = orders.post("/orders", order(&[(SENCHA, 1)])).customer("ada");
        call.send().await.problem(answer, code);
    }
    // A port that was free a moment ago: nobody listens.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let orders = App::orders(format!("http://{gone}")).await;
    let call = orders.post("/orders", order(&[(SENCHA, 1)])).customer("ada");
    call.send().await.problem(503, "products_unavailable");
}

#[tokio::test]
async fn products_that_do_not_answer_are_given_up_on() {
    let products = FakeProducts::start(|_| std::future::pending()).await;
    let orders = App::orders(products.url.clone()).await;
    let call = orders.post("/orders", order(&[(SENCHA, 1)])).customer("ada");
    call.send().await.problem(503, "products_unavailable");
}

#[tokio::test]
async fn customers_see_their_own_orders_and_staff_see_all() {
    let shop = Shop::open().await;
    let ada = shop.place("ada", 1).await;
    let bob = shop.place("bob", 2).await;
    let path = bob.header("location");
    shop.orders.get(path).customer("ada").send().await.problem(404, "not_found");
    shop.orders.delete(path).customer("ada").send().await.problem(404, "not_found");
    shop.orders.get(path).staff().send().await.expect(200);
    let count = async |reply: Reply| reply.body["items"].as_array().unwrap().len();
    let own = shop.orders.get("/orders").customer("ada").send().await.expect(200);
    assert_eq!(own.body["items"], json!([ada.body]));
    assert_eq!(count(shop.orders.get("/orders").staff().send().await).await, 2);
    assert_eq!(count(shop.orders.get("/orders?status=pending").staff().send().await).await, 2);
    assert_eq!(count(shop.orders.get("/orders?status=paid").staff().send().await).await, 0);
    shop.orders.get("/orders?status=lost").staff().send().await.problem(400, "invalid_parameter");
    let page = shop.orders.get("/orders?sort=-total&limit=1").staff().send().await.expect(200);
    assert_eq!(page.body["items"][0]["id"], bob.id());
    let next = shop.orders.get(&page.next().unwrap()).staff().send().await.expect(200);
    assert_eq!((&next.body["items"][0]["id"], next.next()), (&json!(ada.id()), None));
}

#[tokio::test]
async fn orders_are_listed_by_customer_status_and_date() {
    let shop = Shop::open().await;
    let (ada, bob) = (shop.place("ada", 1).await, shop.place("bob", 1).await);
    let at = |reply: &Reply| reply.body["created_at"].as_str().unwrap().to_owned();
    let status = format!("{}/status", bob.header("location"));
    shop.orders.patch(&status, json!({"status": "confirmed"})).staff().send().await.expect(200);
    let (ada_at, bob_at) = (at(&ada), at(&bob));
    for (query, found) in [
        ("customer_id=ada".to_owned(), vec![&ada]),
        ("customer_id=eve".to_owned(), vec![]),
        ("customer_id=bob&status=confirmed".to_owned(), vec![&bob]),
        ("customer_id=bob&status=pending".to_owned(), vec![]),
        (format!("created_from={bob_at}"), vec![&bob]),
        (format!("created_before={bob_at}"), vec![&ada]),
        (format!("created_from={ada_at}&created_before={bob_at}"), vec![&ada]),
        ("created_before=2020-01-01".to_owned(), vec![]),
        ("created_from=2020-01-01&sort=created_at".to_owned(), vec![&ada, &bob]),
        ("created_from=2020-01-01T00:00:00%2B02:00&sort=created_at_desc".to_owned(), vec![&bob, &ada]),
    ] {
        let list = shop.orders.get(&format!("/orders?{query}")).staff().send().await.expect(200);
        let ids: Vec<_> = list.body["items"].as_array().unwrap().iter().map(|o| o["id"].clone()).collect();
        assert_eq!(ids, found.iter().map(|reply| reply.body["id"].clone()).collect::<Vec<_>>(), "{query}");
    }
    let own = shop.orders.get("/orders?customer_id=ada").customer("ada").send().await.expect(200);
    assert_eq!(own.body["items"], json!([ada.body]));
    shop.orders.get("/orders?customer_id=bob").customer("ada").send().await.problem(403, "forbidden");
    for query in ["created_from=yesterday", "created_before=2026-02-30", "status=lost"] {
        shop.orders.get(&format!("/orders?{query}")).staff().send().await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn a_patch_takes_a_step_and_edits_in_one() {
    let shop = Shop::open().await;
    let path = shop.place("ada", 4).await.header("location").to_owned();
    let change = |body: Value| shop.orders.patch(&path, body);
    change(json!({"status": "confirmed"})).customer("ada").send().await.problem(403, "forbidden");
    let jump = change(json!({"status": "shipped"})).staff().send().await.problem(409, "illegal_step");
    assert_eq!(jump.body["allowed"], json!(["confirmed", "cancelled"]));
    // Who sends a document back that was only read changes nothing.
    let same = change(json!({"status": "pending"})).customer("ada").send().await.expect(200);
    assert_eq!(same.header("etag"), "\"1\"");
    let both = change(json!({"status": "confirmed", "note": "ring twice"})).staff().if_match("\"1\"");
    let both = both.send().await.expect(200);
    assert_eq!((&both.body["status"], &both.body["note"]), (&json!("confirmed"), &json!("ring twice")));
    assert_eq!(both.header("etag"), "\"2\"");
    change(json!({"note": "late"})).customer("ada").send().await.problem(409, "order_not_pending");
    change(json!({"status": "paid", "note": "late"})).staff().send().await.problem(409, "order_not_pending");
    change(json!({"status": "paid"}))
        .staff()
        .if_match("\"1\"")
        .send()
        .await
        .problem(412, "precondition_failed");
    for status in [json!(null), json!("lost"), json!(1)] {
        change(json!({"status": status})).staff().send().await.problem(422, "validation_failed");
    }
    change(json!({"status": "cancelled"})).staff().send().await.expect(200);
    assert_eq!(shop.products.stock(&shop.sencha).await, 10);
    let plain = shop.orders.call(axum::http::Method::PATCH, &format!("{path}/status")).staff();
    plain.json(json!({"status": "paid"})).send().await.problem(409, "illegal_step");
}

#[tokio::test]
async fn a_pending_order_is_edited_and_deleted_and_gives_its_stock_back() {
    let shop = Shop::open().await;
    let placed = shop.place("ada", 4).await;
    let path = placed.header("location").to_owned();
    let body = json!({"note": "n", "shipping_address": "a"});
    let replaced = shop.orders.put(&path, body).customer("ada").send().await.expect(200);
    assert_eq!((&replaced.body["note"], replaced.header("etag")), (&json!("n"), "\"2\""));
    let change = shop.orders.patch(&path, json!({"note": null})).customer("ada");
    let patched = change.if_match("\"2\"").send().await.expect(200);
    assert_eq!((&patched.body["note"], &patched.body["shipping_address"]), (&json!(""), &json!("a")));
    let late = shop.orders.patch(&path, json!({"note": "late"})).customer("ada");
    late.if_match("\"2\"").send().await.problem(412, "precondition_failed");
    let forbidden = json!({"total_cents": 1});
    shop.orders.patch(&path, forbidden).customer("ada").send().await.problem(422, "validation_failed");
    assert_eq!(shop.products.stock(&shop.sencha).await, 6);
    shop.orders.delete(&path).customer("ada").send().await.expect(204);
    shop.orders.get(&path).customer("ada").send().await.problem(404, "not_found");
    assert_eq!(shop.products.stock(&shop.sencha).await, 10);
}

#[tokio::test]
async fn staff_move_an_order_step_by_step_and_no_other_way() {
    let shop = Shop::open().await;
    let path = shop.place("ada", 1).await.header("location").to_owned();
    let status = format!("{path}/status");
    let step = |to: &str| shop.orders.patch(&status, json!({"status": to}));
    step("confirmed").customer("ada").send().await.problem(403, "forbidden");
    let jump = step("shipped").staff().send().await.problem(409, "illegal_step");
    assert_eq!(jump.body["allowed"], json!(["confirmed", "cancelled"]));
    for to in ["confirmed", "paid", "shipped", "delivered"] {
        assert_eq!(step(to).staff().send().await.expect(200).body["status"], to);
    }
    let end = step("cancelled").staff().send().await.problem(409, "illegal_step");
    assert_eq!(end.body["allowed"], json!([]));
    step("lost").staff().send().await.problem(422, "validation_failed");
    for call in [shop.orders.put(&path, json!({})), shop.orders.delete(&path)] {
        call.customer("ada").send().await.problem(409, "order_not_pending");
    }
}

#[tokio::test]
async fn a_cancelled_order_gives_its_stock_back() {
    let shop = Shop::open().await;
    let path = shop.place("ada", 4).await.header("location").to_owned();
    let cancel = shop.orders.patch(&format!("{path}/status"), json!({"status": "cancelled"}));
    assert_eq!(cancel.staff().send().await.expect(200).body["status"], "cancelled");
    assert_eq!(shop.products.stock(&shop.sencha).await, 10);
}
