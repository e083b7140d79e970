//! The messages of a gateway whose ACL token may not see the services that the gateway needs.

use millgate_registry::{ServiceRegistration, testing::ConsulServer};

use crate::{
    faults::rig::Acl,
    support::{
        backend::Backend,
        client::{get, json, send, status, text},
        eventually,
        gateway::TestGateway,
    },
};

/// A gateway beside a real Consul that denies what no token allows; `token`: in its file.
async fn gateway(consul: &ConsulServer, token: &str) -> TestGateway {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), token).unwrap();
    let config = format!(
        "discovery: {{consul: {{address: \"{}\", token_file: token}}}}\nroutes:\n  - {{path: /**, service: web}}\n",
        consul.url()
    );
    TestGateway::start_in(dir, &config).await
}

async fn readyz(gateway: &TestGateway) -> (u16, String) {
    let reply = send(gateway.admin(), get("/readyz")).await;
    (reply.status().as_u16(), text(&reply).to_owned())
}

async fn kinds(gateway: &TestGateway) -> Vec<String> {
    let events = json(&send(gateway.admin(), get("/api/v1/events")).await);
    // The token's file is one of the configuration's, which is read again with it.
    let kinds = events["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap());
    kinds.filter(|kind| kind.starts_with("rights_")).map(str::to_owned).collect()
}

async fn says_what_is_missing(rules: Option<&str>, right: &str) {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let (acl, a) = (Acl::of(&consul), Backend::named("a").await);
    consul
        .client()
        .register(&ServiceRegistration::http("web", "a", "127.0.0.1", a.addr.port()))
        .await
        .unwrap();
    let token = match rules {
        Some(rules) => acl.token("gateway", rules).await,
        None => String::new(),
    };
    let mut gateway = gateway(&consul, &token).await;
    let is_said = || async { readyz(&gateway).await.1.contains(right) };
    eventually("what the token lacks is said", is_said).await;
    // No instance of the service was ever seen: another gateway serves it, or none does.
    let (code, said) = readyz(&gateway).await;
    assert!(code == 503 && said.contains("service `web`"), "{code} {said}");
    let is_detail = || async {
        let reply = send(gateway.http, get("/x")).await;
        assert_eq!(reply.status(), 503);
        json(&reply)["detail"] == "The gateway may not see the instances of the service in the registry."
    };
    eventually("and to clients", is_detail).await;
    eventually("and is an event", || async { kinds(&gateway).await == ["rights_missing"] }).await;
    assert!(gateway.shows("millgate_discovery_rights_missing{service=\"web\"} 1").await);
    let good = acl.token("good", Acl::READ).await;
    std::fs::write(gateway.dir.path().join("token"), good).unwrap();
    eventually("another token shows it", || async { status(gateway.http, "/x").await == 200 }).await;
    let all_is_well = || async { kinds(&gateway).await == ["rights_missing", "rights_restored"] };
    eventually("which is an event, too", all_is_well).await;
    assert_eq!(readyz(&gateway).await, (200, "ok\n".to_owned()));
    // Known instances stay in use, and a gateway that has them is ready.
    std::fs::write(gateway.dir.path().join("token"), token).unwrap();
    gateway.restart().await;
    gateway.ready().await;
    eventually("the right is lost again", || async { readyz(&gateway).await.1.contains(right) }).await;
    assert_eq!(readyz(&gateway).await.0, 200);
    assert_eq!(status(gateway.http, "/x").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_it_says_that_the_service_is_hidden() {
    says_what_is_missing(None, "lacks `service:read`").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_read_nodes_it_says_that_the_instances_are_hidden() {
    says_what_is_missing(Some("service_prefix \"\" { policy = \"read\" }"), "lacks `node:read`").await;
}

/// Not everything that is missing is a question of rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_is_no_question_of_rights() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let token = Acl::of(&consul).token("gateway", Acl::READ).await;
    let gateway = gateway(&consul, &token).await;
    gateway.ready().await;
    assert_eq!(status(gateway.http, "/x").await, 503);
    assert_eq!(readyz(&gateway).await, (200, "ok\n".to_owned()));
    assert!(gateway.shows("millgate_discovery_rights_missing{service=\"web\"} 0").await);
}
