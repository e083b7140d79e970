//! A service's life with rs-consul: `CONSUL_HTTP_ADDR=http://… rs-consul-client`. Fails by a panic.

use std::time::Duration;

use rs_consul::{Config, Consul, types::*};

#[tokio::main]
async fn main() {
    let consul = Consul::new(Config::from_env());
    let service = RegisterEntityService::builder()
        .ID("stock-1".to_owned())
        .Service("stock".to_owned())
        .Tags(vec!["v1".to_owned()])
        .Port(8003)
        .build();
    let check = RegisterEntityCheck::builder()
        .CheckID("stock".to_owned())
        .Name("stock".to_owned())
        .Status("passing".to_owned())
        .ServiceID("stock-1".to_owned())
        .build();
    let payload = RegisterEntityPayload::builder()
        .Node("rs".to_owned())
        .Address("10.0.0.7".to_owned())
        .Service(service)
        .Checks(vec![check])
        .build();
    consul.register_entity(&payload).await.expect("registers");

    let names = consul.get_all_registered_service_names(None).await.expect("names").response;
    assert!(names.contains(&"stock".to_owned()), "{names:?}");
    let addresses = consul.get_service_addresses_and_ports("stock", None).await.expect("addresses");
    assert_eq!(addresses, [("10.0.0.7".to_owned(), 8003)]);
    let request = GetServiceNodesRequest::builder().service("stock").passing(true).build();
    let found = consul.get_service_nodes(request.clone(), None).await.expect("nodes");
    assert_eq!(found.response[0].service.tags, ["v1"]);

    // A blocking query without a change ends at its time; rs-consul cuts the wait to whole seconds.
    let options = QueryOptions {
        index: Some(found.index),
        wait: Some(Duration::from_secs(1)),
        ..QueryOptions::default()
    };
    let begin = std::time::Instant::now();
    let again = consul.get_service_nodes(request, Some(options)).await.expect("nodes");
    assert!(begin.elapsed() > Duration::from_millis(950) && again.index == found.index);

    let nodes = consul.get_nodes(GetNodesRequest::builder().build(), None).await.expect("nodes").response;
    assert!(nodes.iter().any(|node| node.node == "rs"), "{nodes:?}");

    let put = CreateOrUpdateKeyRequest { key: "stock/limit", ..Default::default() };
    assert!(consul.create_or_update_key(put, b"10".to_vec()).await.expect("puts").0);
    let read = ReadKeyRequest { key: "stock/limit", ..Default::default() };
    let pairs = consul.read_key(read).await.expect("reads").response;
    assert_eq!(pairs[0].value.as_deref(), Some("10"));
    let delete = DeleteKeyRequest { key: "stock/limit", ..Default::default() };
    assert!(consul.delete_key(delete).await.expect("deletes"));

    let lock = LockRequest { key: "stock/lock", ..Default::default() };
    let held = consul.get_lock(lock, b"me").await.expect("the lock is free");
    assert!(consul.get_lock(lock, b"you").await.is_err(), "it is held");
    // Its drop releases the lock, by a blocking call.
    tokio::task::block_in_place(|| drop(held));

    let gone = DeregisterEntityPayload::builder().Node("rs".to_owned()).build();
    consul.deregister_entity(&gone).await.expect("deregisters");
    assert!(consul.get_service_addresses_and_ports("stock", None).await.expect("addresses").is_empty());
    println!("ok");
}
