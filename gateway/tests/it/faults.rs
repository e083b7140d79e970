//! What Consul does on its bad days, done to a real one (1.8.7), with requests flowing all the time.
//!
//! Each scenario promises the same two things: not one request to an instance that lives fails, and the gateway sends the
//! registry at most ten queries in any ten seconds. And when the day is over, a new instance is routed to.
//!
//! Each names what it stands for: the protection without which it fails.

pub(crate) mod rig;

use std::time::Duration;

use millgate_registry::testing::ConsulServer;
use serde_json::json;

use self::rig::{Acl, Fault, Rig, on_a_thread_of_its_own, pause};
use crate::support::{eventually, within};

/// For how long each fault lasts. Longer than a query waits ([`rig::WAIT`]), so that the fault is met.
const FAULT: Duration = Duration::from_secs(5);

/// [`rig::WAIT`], ten seconds on top, and time for a busy machine.
const QUERY_DEADLINE: Duration = Duration::from_secs(18);

/// Runs each scenario on a thread and runtime of its own, a few at a time.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod consul_1_8_7 {
            $(#[test]
            fn $name() {
                super::on_a_thread_of_its_own(super::$name);
            })*
        }
    };
}

scenarios![
    a_leader_that_is_killed,
    the_agent_in_use_is_killed_and_others_live,
    an_agent_that_freezes_and_goes_on,
    an_agent_that_is_back_empty_with_a_lower_index,
    a_policy_that_is_narrowed,
    a_policy_that_is_narrowed_before_a_change,
    a_policy_that_is_taken_away_before_a_change,
    a_token_that_is_deleted,
    a_token_that_is_rotated_all_the_time,
    an_agent_that_takes_no_more_connections,
    a_server_that_accepts_and_never_answers,
    answers_that_end_in_the_middle,
    a_proxy_that_strips_the_index,
    empty_answers_that_are_not_true,
];

async fn dev() -> Option<ConsulServer> {
    ConsulServer::dev(json!({})).await
}

/// Stands for reads from any server (`stale`): while there is no leader, the others answer.
async fn a_leader_that_is_killed() {
    let Some(mut servers) = ConsulServer::three().await else { return };
    let leader = servers[0].client().status_leader().await.unwrap().unwrap();
    let leader = servers.iter().position(|server| server.url().contains(host(&leader))).unwrap();
    let mut killed = servers.remove(leader);
    let mut rig = Rig::start(&servers[0], None).await;
    let load = rig.load();
    killed.kill();
    pause(FAULT).await;
    let watch = rig.watch().await;
    assert_eq!((&watch["errors"], &watch["state"]), (&json!(0), &json!("fresh")), "{watch}");
    rig.a_new_instance_is_routed_to(&servers[1]).await;
    rig.end(&load).await;
}

/// Stands for the rotation of addresses.
async fn the_agent_in_use_is_killed_and_others_live() {
    let Some(mut servers) = ConsulServer::three().await else { return };
    let mut rig = Rig::start_asking(&[&servers[1], &servers[2]], &servers[0], None).await;
    let load = rig.load();
    let used = rig.asked();
    servers[1 + used].kill();
    pause(FAULT).await;
    assert_ne!(rig.asked(), used, "the other one is asked");
    rig.a_new_instance_is_routed_to(&servers[0]).await;
    rig.end(&load).await;
}

fn host(address: &str) -> &str {
    address.split(':').next().unwrap()
}

/// Stands for the hard deadline of a query.
async fn an_agent_that_freezes_and_goes_on() {
    let Some(consul) = dev().await else { return };
    let mut rig = Rig::start(&consul, None).await;
    let load = rig.load();
    consul.freeze();
    within(QUERY_DEADLINE, "the query is given up", || rig.has_failed()).await;
    consul.thaw();
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}

/// Stands for the hold of a mass removal, and for the index that is forgotten.
async fn an_agent_that_is_back_empty_with_a_lower_index() {
    let Some(mut consul) = dev().await else { return };
    for round in 0..50 {
        consul.client().kv_put("push/the/index", format!("{round}")).await.unwrap();
    }
    let mut rig = Rig::start(&consul, None).await;
    // The instances renew their own registrations, as services do.
    let leases = rig.leases(&consul);
    for lease in &leases {
        lease.registered().await;
    }
    let load = rig.load();
    consul.restart().await;
    pause(FAULT).await;
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
    drop(leases);
}

/// Stands for the gate: an empty answer at the index of a full one is not believed.
async fn a_policy_that_is_narrowed() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let acl = Acl::of(&consul);
    let token = acl.token("gateway", Acl::READ).await;
    let mut rig = Rig::start(&consul, Some(&token)).await;
    let load = rig.load();
    // Still allowed to see the service, but no node: Consul answers 200 with an empty list.
    acl.policy("gateway", "service_prefix \"\" { policy = \"read\" }").await;
    eventually("the gateway doubts the empty answer", || rig.doubts()).await;
    pause(FAULT).await;
    acl.policy("gateway", Acl::READ).await;
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}

/// Stands for the second witness: with the same token, the read that confirms an empty answer is as blind as the first.
async fn a_policy_that_is_narrowed_before_a_change() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let acl = Acl::of(&consul);
    let token = acl.token("gateway", Acl::READ).await;
    let mut rig = Rig::start(&consul, Some(&token)).await;
    let load = rig.load();
    acl.policy("gateway", "service_prefix \"\" { policy = \"read\" }").await;
    rig.changes(&consul).await;
    let hidden = || async { rig.watch().await["missing_rights"].is_string() };
    eventually("the gateway says what the token lacks", hidden).await;
    pause(FAULT).await;
    let next = acl.token("gateway-2", Acl::READ).await;
    rig.write_token(&next);
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}

/// As the one before; the list of services does not show it either, and only Consul's word on the token is left.
async fn a_policy_that_is_taken_away_before_a_change() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let acl = Acl::of(&consul);
    let token = acl.token("gateway", Acl::READ).await;
    let mut rig = Rig::start(&consul, Some(&token)).await;
    let load = rig.load();
    acl.policy("gateway", "service \"other\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }")
        .await;
    rig.changes(&consul).await;
    let hidden = || async { rig.watch().await["missing_rights"].is_string() };
    eventually("the gateway says what the token lacks", hidden).await;
    pause(FAULT).await;
    let next = acl.token("gateway-2", Acl::READ).await;
    rig.write_token(&next);
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}

/// Stands for errors that change no instance, and for the token file that is read again.
async fn a_token_that_is_deleted() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let acl = Acl::of(&consul);
    let token = acl.token("gateway", Acl::READ).await;
    let mut rig = Rig::start(&consul, Some(&token)).await;
    let load = rig.load();
    acl.delete(&token).await;
    eventually("the gateway is refused", || rig.has_failed()).await;
    let told = rig.watch().await["last_error"].as_str().unwrap().to_owned();
    assert!(told.contains("ACL not found") && told.contains("a new token is needed"), "{told}");
    pause(FAULT).await;
    let next = acl.token("gateway-2", Acl::READ).await;
    rig.write_token(&next);
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}

/// Stands for the second try with a token that was just read.
async fn a_token_that_is_rotated_all_the_time() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let acl = Acl::of(&consul);
    let mut token = acl.token("gateway", Acl::READ).await;
    let mut rig = Rig::start(&consul, Some(&token)).await;
    let load = rig.load();
    for round in 0..8 {
        let next = acl.token(&format!("gateway-{round}"), Acl::READ).await;
        rig.write_token(&next);
        acl.delete(&token).await;
        token = next;
        pause(FAULT / 8).await;
    }
    // A refused token is read again before that counts as an error; but the one that was just read may be the next to go.
    let watch = rig.watch().await;
    assert!(watch["errors"].as_u64() <= Some(1), "{watch}");
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}

/// Stands for backoff and pace.
async fn an_agent_that_takes_no_more_connections() {
    let Some(consul) = ConsulServer::dev(json!({"limits": {"http_max_conns_per_client": 20}})).await else {
        return;
    };
    let mut rig = Rig::start(&consul, None).await;
    let load = rig.load();
    let hoard = Rig::hoard_connections(&consul, 20);
    // The gateway's own connection is the first that becomes free, and it may get it back.
    eventually("the gateway is refused", || rig.has_failed()).await;
    pause(FAULT / 2).await;
    drop(hoard);
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}

/// Stands for the hard deadline of a query, and for the rotation of addresses: the server is silent until the end.
async fn a_server_that_accepts_and_never_answers() {
    let Some(consul) = dev().await else { return };
    let mut rig = Rig::start_asking(&[&consul, &consul], &consul, None).await;
    let load = rig.load();
    let silent = rig.asked();
    rig.proxy(silent).set(Fault::Silence);
    eventually("the fault is met", || async { rig.proxy(silent).met() > 0 }).await;
    rig.a_new_instance_is_routed_to(&consul).await;
    assert_ne!(rig.asked(), silent, "the other one is asked");
    rig.end(&load).await;
}

/// Stands for errors that change no instance, backoff and pace.
async fn answers_that_end_in_the_middle() {
    faulty(Fault::Truncate).await;
}

/// Stands for the pace of polls.
async fn a_proxy_that_strips_the_index() {
    faulty(Fault::StripIndex).await;
}

/// Stands for the gate: an empty answer is confirmed first.
async fn empty_answers_that_are_not_true() {
    faulty(Fault::Empty).await;
}

/// Between the gateway and Consul stands a proxy with this fault.
async fn faulty(fault: Fault) {
    let Some(consul) = dev().await else { return };
    let mut rig = Rig::start(&consul, None).await;
    let load = rig.load();
    rig.proxy(0).set(fault);
    pause(FAULT).await;
    assert!(rig.proxy(0).met() > 0, "the fault was met");
    rig.proxy(0).set(Fault::None);
    rig.a_new_instance_is_routed_to(&consul).await;
    rig.end(&load).await;
}
