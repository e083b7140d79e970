//! CORS: the gateway alone decides what a browser may do with pages of other origins (Fetch standard, "CORS
//! protocol").

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use serde_json::json as value;

use crate::support::{
    backend::Backend,
    client::{Reply, get, header, json, request, send},
    gateway::TestGateway,
    tokens,
};

const APP: &str = "https://app.example";

async fn gateway() -> (TestGateway, Backend) {
    // A service that has an opinion of its own.
    let backend = Backend::with(|_| {
        let reply =
            Response::builder().header("access-control-allow-origin", "*").header("vary", "Accept-Encoding");
        reply.header("access-control-allow-credentials", "false").body(Bytes::new()).unwrap()
    })
    .await;
    let config = format!(
        "auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\n\
         defaults: {{auth: none, cors: {{origins: [\"{APP}\", \"https://*.shop.example\"], expose: X-Total, credentials: true}}}}\n\
         routes:\n\
         \x20 - {{path: PUT|GET /closed, service: one, auth: main}}\n\
         \x20 - {{path: /small, service: one, body_limit: 1B}}\n\
         \x20 - {{path: /often, service: one, rate_limit: 1/h per route}}\n\
         \x20 - {{path: /inside, service: one, clients: {{deny: 127.0.0.0/8}}}}\n\
         \x20 - {{path: GET /public, service: one, cors: {{origins: \"*\", credentials: false, max_age: 0s}}}}\n\
         \x20 - {{path: /headers, service: one, headers: {{response: {{set: {{Access-Control-Allow-Origin: \"*\", Vary: Accept}}}}}}}}\n\
         \x20 - {{path: GET /own/**, service: one}}\n\
         \x20 - {{path: DELETE|OPTIONS /own/**, service: one, cors: off}}\n\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    (TestGateway::start_in(tokens::folder(), &config).await, backend)
}

fn with(fields: &[(&'static str, &str)], mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let fields =
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()));
    request.headers_mut().extend(fields.collect::<HeaderMap>());
    request
}

fn preflight(origin: &str, method: &str, path: &str) -> Request<Full<Bytes>> {
    let fields = [
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", "authorization"),
    ];
    with(&fields, request("OPTIONS", path, ""))
}

/// The origin that may read the reply, whether with credentials, and which fields of it.
fn told(reply: &Reply) -> [&str; 3] {
    ["allow-origin", "allow-credentials", "expose-headers"]
        .map(|name| header(reply, &format!("access-control-{name}")))
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_token_for_the_route_of_the_announced_method() {
    let (gateway, backend) = gateway().await;
    let reply = send(gateway.http, preflight(APP, "PUT", "/closed")).await;
    assert_eq!((reply.status().as_u16(), told(&reply)), (204, [APP, "true", ""]), "{reply:?}");
    assert_eq!(header(&reply, "access-control-allow-methods"), "PUT");
    assert_eq!(header(&reply, "access-control-allow-headers"), "authorization");
    assert_eq!((header(&reply, "access-control-max-age"), header(&reply, "vary")), ("600", "Origin"));
    let reply = send(gateway.http, preflight("https://evil.test", "GET", "/public")).await;
    assert_eq!((reply.status().as_u16(), told(&reply)), (204, ["*", "", ""]), "{reply:?}");
    for origin in ["https://evil.test", "null"] {
        let reply = send(gateway.http, preflight(origin, "PUT", "/closed")).await;
        assert_eq!((reply.status().as_u16(), told(&reply)), (204, ["", "", ""]), "{reply:?}");
        assert!(
            !reply.headers().contains_key("access-control-allow-methods")
                && header(&reply, "vary") == "Origin"
        );
    }
    assert_eq!(backend.served(), 0, "the service is not asked");
    // A cache may give an answer to a request without an origin to a page.
    let reply = send(gateway.http, get("/public")).await;
    assert_eq!(header(&reply, "access-control-allow-origin"), "*");
}

#[tokio::test]
async fn what_is_not_a_preflight_for_a_route_with_the_policy_goes_its_usual_way() {
    let (gateway, backend) = gateway().await;
    // No route takes the method; the origin learns that, since `defaults` allow it.
    let reply = send(gateway.http, preflight(APP, "DELETE", "/closed")).await;
    assert_eq!((reply.status().as_u16(), told(&reply)), (405, [APP, "true", "x-total"]), "{reply:?}");
    let options = || request("OPTIONS", "/small", "");
    assert_eq!(
        send(gateway.http, with(&[("origin", APP)], options())).await.status(),
        200,
        "no method is announced"
    );
    let no_origin = with(&[("access-control-request-method", "GET")], options());
    assert_eq!(send(gateway.http, no_origin).await.status(), 200);
    let reply = send(gateway.http, preflight(APP, "DELETE", "/own/x")).await;
    assert_eq!(
        (reply.status().as_u16(), told(&reply)),
        (200, ["*", "false", ""]),
        "its service speaks CORS: {reply:?}"
    );
    assert_eq!(send(gateway.http, preflight(APP, "GET", "/own/x")).await.status(), 204);
    assert_eq!(backend.served(), 3);
}

#[tokio::test]
async fn every_reply_has_the_fields_the_gateways_own_included() {
    let (gateway, _backend) = gateway().await;
    assert_eq!(send(gateway.http, get("/often")).await.status(), 200);
    for (request, status) in [
        (get("/small"), 200),
        (get("/headers"), 200),
        (get("/closed"), 401),
        (get("/inside"), 403),
        (get("/nowhere"), 404),
        (request("POST", "/public", ""), 405),
        (request("POST", "/small", "more than one byte"), 413),
        (get("/often"), 429),
        (get("/a/%2e%2e/b"), 400),
    ] {
        let reply = send(gateway.http, with(&[("origin", "https://x.shop.example")], request)).await;
        assert_eq!(reply.status(), status, "{reply:?}");
        assert_eq!(told(&reply), ["https://x.shop.example", "true", "x-total"], "{reply:?}");
        assert_eq!(reply.headers().get_all("access-control-allow-origin").iter().count(), 1, "{reply:?}");
        let vary: Vec<_> = reply.headers().get_all("vary").iter().collect();
        assert!(vary.last().is_some_and(|last| *last == "Origin"), "{reply:?}");
    }
    let reply = send(gateway.http, get("/small")).await;
    assert_eq!(told(&reply), ["", "", ""], "no origin, no fields: {reply:?}");
    assert_eq!(reply.headers().get_all("vary").iter().next_back().unwrap(), "Origin");
}

#[tokio::test]
async fn the_table_of_routes_has_the_origins_and_whether_they_get_credentials() {
    let (gateway, _backend) = gateway().await;
    let routes = json(&send(gateway.admin(), get("/api/v1/routes")).await)["routes"].clone();
    let shown = |path: &str, method: &str| {
        let all = routes.as_array().unwrap().iter();
        let mut of_path = all.filter(|route| route["path"] == path);
        let route = of_path.find(|route| route["methods"].to_string().contains(method)).unwrap();
        (route["cors"].clone(), route["cors_credentials"].clone())
    };
    assert_eq!(shown("/small", ""), (value!([APP, "https://*.shop.example"]), value!(true)));
    assert_eq!(shown("/public", "GET"), (value!(["*"]), value!(false)));
    assert_eq!(shown("/own/**", "DELETE"), (value!(null), value!(null)));
}
