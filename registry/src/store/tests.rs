//! Which change moves which index, and what time does to checks.

use std::time::{Duration, Instant};

use super::*;

fn empty(limits: StoreLimits) -> Store {
    Store::new(limits, NodeDefinition { name: "n1".to_owned(), ..NodeDefinition::default() })
}

fn service(name: &str, id: &str) -> ServiceDefinition {
    ServiceDefinition {
        id: id.to_owned(),
        name: name.to_owned(),
        weight_passing: 1,
        weight_warning: 1,
        ..ServiceDefinition::default()
    }
}

fn ttl_check(service_id: &str, ttl: Duration) -> CheckDefinition {
    let id = format!("service:{service_id}");
    CheckDefinition { service_id: service_id.to_owned(), ..CheckDefinition::new(id, "", CheckKind::Ttl(ttl)) }
}

/// Two instances of `web` and one of `api`, each with a TTL check of 10 s that passes.
fn store(now: Instant) -> Store {
    let mut store = empty(StoreLimits::default());
    for (name, id) in [("web", "web-1"), ("web", "web-2"), ("api", "api-1")] {
        let check = ttl_check(id, Duration::from_secs(10));
        store.register_service(service(name, id), vec![check], false, now).unwrap();
        store.heartbeat(&format!("service:{id}"), CheckStatus::Passing, String::new(), now).unwrap();
    }
    store
}

#[test]
fn a_service_moves_its_own_index_only() {
    let now = Instant::now();
    let mut store = store(now);
    let (web, api) = (store.service_index("web"), store.service_index("API"));
    store.heartbeat("service:api-1", CheckStatus::Warning, "slow".to_owned(), now).unwrap();
    store.kv_put("a", "b".into(), 0, Cas::Always).unwrap();
    assert_eq!(store.service_index("web"), web);
    assert!(store.service_index("api") > api);
}

#[test]
fn the_same_registration_and_a_mere_heartbeat_move_nothing() {
    let now = Instant::now();
    let mut store = store(now);
    let index = store.index();
    let check = ttl_check("web-1", Duration::from_secs(10));
    store.register_service(service("web", "web-1"), vec![check], true, now).unwrap();
    store.heartbeat("service:web-1", CheckStatus::Passing, "a new note".to_owned(), now).unwrap();
    assert_eq!(store.index(), index);
}

#[test]
fn registering_again_keeps_the_status_of_a_check() {
    let now = Instant::now();
    let mut store = store(now);
    let mut changed = service("web", "web-1");
    changed.port = 81;
    store.register_service(changed, vec![ttl_check("web-1", Duration::from_secs(10))], false, now).unwrap();
    assert_eq!(store.checks_of(store.service("web-1").unwrap()).next().unwrap().status, CheckStatus::Passing);
}

#[test]
fn a_service_without_instances_has_the_index_of_the_latest_extinction() {
    let now = Instant::now();
    let mut store = store(now);
    let unknown = store.service_index("unknown");
    store.deregister_service("web-1", now);
    assert_eq!(store.service_index("unknown"), unknown, "an instance is left");
    store.deregister_service("web-2", now);
    let extinct = store.index();
    assert_eq!(store.service_index("unknown"), extinct);
    assert_eq!(store.service_index("web"), extinct);
    assert!(store.service_index("api") < extinct);
}

#[test]
fn a_rename_moves_both_names() {
    let now = Instant::now();
    let mut store = store(now);
    let web = store.service_index("web");
    store.register_service(service("shop", "api-1"), Vec::new(), false, now).unwrap();
    assert_eq!(store.service_index("api"), store.index(), "extinct");
    assert_eq!(store.service_index("shop"), store.index());
    assert_eq!(store.service_index("web"), web);
}

#[test]
fn silence_turns_a_ttl_check_critical_at_its_ttl_and_not_before() {
    let now = Instant::now();
    let mut store = store(now);
    let ttl = Duration::from_secs(10);
    assert_eq!(store.next_expiry(), Some(now + ttl));
    store.expire(now + Duration::from_millis(9_999));
    assert!(store.checks().all(|check| check.status == CheckStatus::Passing));
    let index = store.service_index("web");
    store.expire(now + ttl);
    assert!(store.checks().all(|check| check.status == CheckStatus::Critical));
    assert_eq!(store.checks().next().unwrap().output, "TTL expired");
    assert!(store.service_index("web") > index);
    assert_eq!(store.next_expiry(), None);
}

#[test]
fn the_last_output_is_kept_when_the_ttl_expires() {
    let now = Instant::now();
    let mut store = store(now);
    store.heartbeat("service:api-1", CheckStatus::Passing, "fine".to_owned(), now).unwrap();
    store.expire(now + Duration::from_secs(10));
    let output = &store.checks_of(store.service("api-1").unwrap()).next().unwrap().output;
    assert_eq!(output, "TTL expired (last output before timeout follows): fine");
}

#[test]
fn a_service_that_stays_critical_is_removed_after_a_minute_at_the_earliest() {
    let now = Instant::now();
    let mut store = empty(StoreLimits::default());
    let check = CheckDefinition {
        deregister_after: Some(Duration::from_secs(1)),
        ..ttl_check("web-1", Duration::from_secs(10))
    };
    store.register_service(service("web", "web-1"), vec![check], false, now).unwrap();
    store.heartbeat("service:web-1", CheckStatus::Critical, String::new(), now).unwrap();
    assert!(store.reap(now + Duration::from_secs(59)).is_empty());
    assert_eq!(store.reap(now + Duration::from_mins(1)), ["web-1"]);
    assert_eq!((store.services().count(), store.checks().count()), (0, 0));
}

/// As measured beside Consul 1.8.7: it counts from the first result, and a registration, even the same one, starts over.
#[test]
fn the_time_of_a_critical_service_begins_with_a_result_and_not_with_its_registration() {
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let mut store = empty(StoreLimits::default());
    let register = |store: &mut Store, seconds| {
        for (id, kind) in [
            ("failed", CheckKind::Ttl(Duration::from_hours(1))),
            ("silent", CheckKind::Ttl(Duration::from_hours(1))),
            ("expired", CheckKind::Ttl(Duration::from_secs(10))),
            ("alias", CheckKind::Alias(Alias { node: String::new(), service_id: "silent".to_owned() })),
        ] {
            let deregister_after = Some(Duration::from_mins(1));
            let check = CheckDefinition { kind, deregister_after, ..ttl_check(id, Duration::ZERO) };
            store.register_service(service(id, id), vec![check], false, at(seconds)).unwrap();
        }
        store.follow_aliases(at(seconds));
    };
    register(&mut store, 0);
    store.heartbeat("service:failed", CheckStatus::Critical, String::new(), now).unwrap();
    store.expire(at(10));
    register(&mut store, 30);
    store.expire(at(40));
    store.heartbeat("service:failed", CheckStatus::Critical, String::new(), at(50)).unwrap();
    for (second, removed) in [
        (89, &[][..]),
        (90, &["alias"][..]),
        (99, &[][..]),
        (100, &["expired"][..]),
        (109, &[][..]),
        (110, &["failed"][..]),
        (3000, &[][..]),
    ] {
        assert_eq!(store.reap(at(second)), removed, "at {second} s");
    }
    assert!(store.service("silent").is_some(), "nothing was ever said about it");
}

#[test]
fn a_check_of_the_node_moves_every_service() {
    let now = Instant::now();
    let mut store = store(now);
    let check = CheckDefinition { id: "disk".to_owned(), ..ttl_check("", Duration::from_secs(10)) };
    store.register_check(check, now).unwrap();
    for name in ["web", "api"] {
        assert_eq!(store.service_index(name), store.index(), "{name}");
    }
    assert_eq!(store.checks_of(store.service("web-1").unwrap()).count(), 2);
}

#[test]
fn what_does_not_exist_is_named() {
    let now = Instant::now();
    let mut store = store(now);
    let unknown = store.heartbeat("nope", CheckStatus::Passing, String::new(), now);
    assert_eq!(unknown, Err(StoreError::UnknownCheck("nope".to_owned())));
    let orphan = store.register_check(ttl_check("nope", Duration::from_secs(1)), now);
    assert_eq!(orphan, Err(StoreError::UnknownService("nope".to_owned())));
}

#[test]
fn the_limit_admits_its_number_and_refuses_one_more() {
    let now = Instant::now();
    let mut store = empty(StoreLimits { services: 2, ..StoreLimits::default() });
    for id in ["a", "b", "b"] {
        store.register_service(service("web", id), Vec::new(), false, now).unwrap();
    }
    let refused = store.register_service(service("web", "c"), Vec::new(), false, now);
    assert_eq!(refused, Err(StoreError::Full { what: "services", limit: 2 }));
}

fn registration(node: &str, id: &str) -> Registration {
    let node = NodeDefinition {
        id: id.to_owned(),
        name: node.to_owned(),
        address: "10.0.0.1".to_owned(),
        ..NodeDefinition::default()
    };
    Registration { node, ..Registration::default() }
}

fn session(id: &str, ttl: Option<Duration>, behavior: Behavior, node_checks: &[&str]) -> NewSession {
    NewSession {
        id: id.to_owned(),
        name: String::new(),
        node: String::new(),
        lock_delay: Duration::from_secs(15),
        behavior,
        ttl: (String::new(), ttl),
        node_checks: node_checks.iter().map(|id| (*id).to_owned()).collect(),
        service_checks: Vec::new(),
    }
}

#[test]
fn the_same_service_id_at_two_nodes_is_two_instances() {
    let now = Instant::now();
    let mut store = store(now);
    let elsewhere = Registration { service: Some(service("web", "web-1")), ..registration("ext", "") };
    store.catalog_register(elsewhere, now).unwrap();
    assert_eq!(store.instances("web").count(), 3);
    assert_eq!(store.own_services().count(), 3);
    assert!(store.remove_service("EXT", "WEB-1", now), "names match without regard to case");
    assert_eq!(store.instances("web").count(), 2);
}

#[test]
fn a_node_with_a_known_id_and_a_new_name_is_renamed_and_what_was_at_it_goes() {
    let now = Instant::now();
    let mut store = store(now);
    let old = Registration { service: Some(service("db", "db")), ..registration("old", "id-1") };
    store.catalog_register(old, now).unwrap();
    let created = store.node("old").unwrap().create_index;
    store.catalog_register(registration("new", "id-1"), now).unwrap();
    assert!(store.node("old").is_none());
    assert_eq!(store.node("new").unwrap().create_index, created);
    assert_eq!((store.instances("db").count(), store.service_index("db")), (0, store.index()));
}

#[test]
fn a_refused_registration_leaves_nothing_behind() {
    let now = Instant::now();
    let mut store = store(now);
    let (index, nodes) = (store.index(), store.nodes().count());
    let mut orphan = registration("ext", "");
    orphan.checks.push((String::new(), ttl_check("nope", Duration::from_secs(1))));
    let refused = store.catalog_register(orphan, now);
    let text = "failed inserting check: Missing service registration on node \"ext\"".to_owned();
    assert_eq!(refused, Err(StoreError::Refused(text)));
    assert_eq!((store.index(), store.nodes().count()), (index, nodes));
}

#[test]
fn the_registrys_own_node_stays() {
    let now = Instant::now();
    let mut store = store(now);
    assert!(!store.remove_node("N1", now));
    assert_eq!(store.own_services().count(), 3);
}

#[test]
fn a_check_that_moves_to_another_service_leaves_the_first() {
    let now = Instant::now();
    let mut store = store(now);
    let moved =
        CheckDefinition { id: "service:web-1".to_owned(), ..ttl_check("api-1", Duration::from_secs(9)) };
    store.register_check(moved, now).unwrap();
    assert_eq!(store.checks_of(store.service("web-1").unwrap()).count(), 0);
    assert_eq!(store.checks_of(store.service("api-1").unwrap()).count(), 2);
    store.deregister_service("api-1", now);
    assert_eq!(store.checks().count(), 1);
}

#[test]
fn a_session_that_is_not_renewed_ends_after_twice_its_ttl() {
    let now = Instant::now();
    let mut store = empty(StoreLimits::default());
    let ttl = Duration::from_secs(10);
    store.create_session(session("s", Some(ttl), Behavior::Release, &[]), now).unwrap();
    assert_eq!(store.next_expiry(), Some(now + 2 * ttl));
    assert!(store.renew_session("s", now + ttl).is_some());
    store.expire(now + 2 * ttl);
    assert!(store.sessions.get("s").is_some());
    store.expire(now + 3 * ttl);
    assert!(store.sessions.get("s").is_none());
    assert!(store.renew_session("s", now).is_none());
}

#[test]
fn a_session_ends_with_its_check_and_nobody_gets_its_keys_for_the_lock_delay() {
    for (behavior, left) in [(Behavior::Release, true), (Behavior::Delete, false)] {
        let now = Instant::now();
        let mut store = store(now);
        store.create_session(session("s", None, behavior, &["service:web-1"]), now).unwrap();
        store.create_session(session("other", None, behavior, &[]), now).unwrap();
        assert_eq!(store.kv_lock("k", "v".into(), 0, "s", now), Ok(true));
        assert_eq!(store.kv_lock("k", "v".into(), 0, "other", now), Ok(false));
        store.set_status("service:web-1", CheckStatus::Critical, String::new(), now);
        assert!(store.sessions.get("s").is_none() && store.sessions.get("other").is_some());
        assert_eq!(store.kv.get("k").is_some(), left);
        assert_eq!(store.kv_lock("k", "v".into(), 0, "other", now), Ok(false), "the delay lasts");
        let later = now + Duration::from_secs(15);
        assert_eq!(store.kv_lock("k", "v".into(), 0, "other", later), Ok(true));
    }
}

#[test]
fn a_session_needs_checks_that_are_there_and_not_critical() {
    let now = Instant::now();
    let mut store = store(now);
    let create = |store: &mut Store, check: &str| {
        store.create_session(session("s", None, Behavior::Release, &[check]), now)
    };
    let refused = |text: &str| Err(StoreError::Refused(text.to_owned()));
    assert_eq!(create(&mut store, "nope"), refused("Missing check 'nope' registration"));
    store.set_status("service:web-1", CheckStatus::Critical, String::new(), now);
    assert_eq!(create(&mut store, "service:web-1"), refused("Check 'service:web-1' is in critical state"));
    let unknown = store.kv_lock("k", "v".into(), 0, "s", now);
    assert_eq!(unknown, Err(StoreError::Refused("invalid session \"s\"".to_owned())));
}

#[test]
fn the_registrys_own_node_is_not_renamed_from_the_catalog() {
    let now = Instant::now();
    let id = "6f1e4a2c-0000-4000-8000-000000000001";
    let node =
        |name: &str| NodeDefinition { id: id.to_owned(), name: name.to_owned(), ..NodeDefinition::default() };
    let mut store = Store::new(StoreLimits::default(), node("n1"));
    store.register_service(service("web", "web-1"), Vec::new(), false, now).unwrap();
    for name in ["other", "N1"] {
        let taken = Registration { node: node(name), ..Registration::default() };
        let refused = store.catalog_register(taken.clone(), now).unwrap_err();
        assert!(matches!(&refused, StoreError::Refused(text) if text.contains("\"n1\"")), "{refused:?}");
        let operation = TxnOp::Node { verb: TableVerb::Set, node: taken.node, index: 0 };
        assert!(store.transact(&[operation], now).is_err());
    }
    store.catalog_register(Registration { node: node("n1"), ..Registration::default() }, now).unwrap();
    assert!(store.node("n1").is_some() && store.service("web-1").is_some());
}

#[test]
fn the_output_of_a_check_that_expires_again_and_again_does_not_grow() {
    let mut now = Instant::now();
    let ttl = Duration::from_secs(10);
    let mut store = store(now);
    store.heartbeat("service:web-1", CheckStatus::Passing, "fine".to_owned(), now).unwrap();
    for _ in 0..3 {
        now += ttl;
        store.expire(now);
        let output = &store.own_check("service:web-1").unwrap().output;
        assert_eq!(output, "TTL expired (last output before timeout follows): fine");
        store.register_service(service("web", "web-1"), vec![ttl_check("web-1", ttl)], false, now).unwrap();
    }
}

#[test]
fn an_alias_looks_at_its_own_checks_only() {
    let now = Instant::now();
    let mut store = empty(StoreLimits::default());
    for n in 0..2000 {
        let id = format!("s{n}");
        let alias = CheckDefinition {
            id: format!("alias:{id}"),
            kind: CheckKind::Alias(Alias { node: String::new(), service_id: id.clone() }),
            service_id: String::new(),
            initial_status: Some(CheckStatus::Passing),
            ..ttl_check(&id, Duration::from_secs(10))
        };
        store
            .register_service(service("web", &id), vec![ttl_check(&id, Duration::from_secs(10))], false, now)
            .unwrap();
        // At a service of its own, so that it is not one of the node's checks, which all aliases repeat.
        let holder = CheckDefinition { service_id: "s0".to_owned(), ..alias };
        store.register_check(holder, now).unwrap();
    }
    let begin = Instant::now();
    store.follow_aliases(now);
    assert_eq!(store.own_check("alias:s7").unwrap().status, CheckStatus::Critical);
    // Looking at all checks for each of them took several.
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}
