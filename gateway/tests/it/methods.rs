//! Every registered method passes, and a route may name others.
//!
//! Before: `PROPFIND`, `REPORT`, `LOCK` and `QUERY` were 501, "not known here".

use crate::support::{
    backend::Backend,
    client::{header, request, send, text},
    gateway::TestGateway,
};

#[tokio::test]
async fn a_registered_method_reaches_the_service_and_another_one_where_a_route_names_it() {
    let backend = Backend::with(|request| http::Response::new(request.method().to_string().into())).await;
    let config = format!(
        "routes:\n  - {{path: /any, service: one}}\n  - {{path: BDELETE|GET /named, service: one}}\n\
         \x20 - {{path: /listed, methods: [PURGE, M-SEARCH], service: one}}\n\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    let gateway = TestGateway::start(&config).await;
    for (method, path, status) in [
        ("PROPFIND", "/any", 200),
        ("REPORT", "/any", 200),
        ("LOCK", "/any", 200),
        ("QUERY", "/any", 200),
        ("VERSION-CONTROL", "/any", 200),
        ("PURGE", "/listed", 200),
        ("M-SEARCH", "/listed", 200),
        ("BDELETE", "/named", 200),
        // A method that some route names is accepted; a route without methods takes it.
        ("PURGE", "/any", 200),
        ("PROPFIND", "/named", 405),
        ("BMOVE", "/any", 501),
        ("propfind", "/any", 501),
        ("TRACE", "/any", 405),
    ] {
        let reply = send(gateway.http, request(method, path, "<propfind/>")).await;
        assert_eq!(reply.status(), status, "{method} {path}");
        if status == 200 {
            assert_eq!(text(&reply), method, "{method} {path}");
            assert_eq!(backend.only_seen().body(), "<propfind/>", "{method}");
        }
        if path == "/named" && status == 405 {
            assert_eq!(header(&reply, "allow"), "BDELETE, GET, HEAD", "{reply:?}");
        }
    }
}
