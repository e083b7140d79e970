//! Whatever is done to a store, the rows that it wrote make the same store again.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::store::journal::Row;
use crate::store::{
    AddressDefinition, Behavior, Cas, CheckDefinition, CheckKind, NewSession, NodeDefinition, Registration,
    ServiceDefinition, Store, StoreLimits,
};
use crate::types::CheckStatus;

#[derive(Debug, Clone)]
enum Operation {
    Register {
        id: u8,
        name: u8,
        port: i64,
        checks: u8,
        replace: bool,
    },
    Deregister(u8),
    RegisterCheck {
        id: u8,
        service: Option<u8>,
        ttl_s: u64,
    },
    DeregisterCheck(u8),
    Heartbeat {
        service: u8,
        status: CheckStatus,
        output: String,
    },
    Put {
        key: String,
        value: Vec<u8>,
        cas: Option<u64>,
    },
    Delete {
        key: String,
        recurse: bool,
    },
    /// At another node.
    CatalogRegister {
        node: u8,
        service: Option<u8>,
        status: CheckStatus,
    },
    RemoveNode(u8),
    CreateSession {
        id: u8,
        ttl_s: Option<u64>,
        delete: bool,
    },
    DestroySession(u8),
    RenewSession(u8),
    Lock {
        key: String,
        session: u8,
    },
    Unlock {
        key: String,
        session: u8,
    },
    Pass(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let status =
        || prop_oneof![Just(CheckStatus::Passing), Just(CheckStatus::Warning), Just(CheckStatus::Critical)];
    let key = "[ab]{1,2}";
    prop_oneof![
        (0..4u8, 0..3u8, 0..2i64, 0..3u8, any::<bool>())
            .prop_map(|(id, name, port, checks, replace)| Register { id, name, port, checks, replace }),
        (0..4u8).prop_map(Deregister),
        (0..4u8, proptest::option::of(0..4u8), 1..50u64).prop_map(|(id, service, ttl_s)| RegisterCheck {
            id,
            service,
            ttl_s
        }),
        (0..4u8).prop_map(DeregisterCheck),
        (0..4u8, status(), ".{0,4}").prop_map(|(service, status, output)| Heartbeat {
            service,
            status,
            output
        }),
        (key, proptest::collection::vec(any::<u8>(), 0..4), proptest::option::of(0..40u64))
            .prop_map(|(key, value, cas)| Put { key, value, cas }),
        (key, any::<bool>()).prop_map(|(key, recurse)| Delete { key, recurse }),
        (0..2u8, proptest::option::of(0..2u8), status())
            .prop_map(|(node, service, status)| CatalogRegister { node, service, status }),
        (0..2u8).prop_map(RemoveNode),
        (0..3u8, proptest::option::of(10..30u64), any::<bool>())
            .prop_map(|(id, ttl_s, delete)| CreateSession { id, ttl_s, delete }),
        (0..3u8).prop_map(DestroySession),
        (0..3u8).prop_map(RenewSession),
        (key, 0..3u8).prop_map(|(key, session)| Lock { key, session }),
        (key, 0..3u8).prop_map(|(key, session)| Unlock { key, session }),
        (0..40u64).prop_map(Pass),
    ]
}

fn check(id: String, service: Option<u8>, ttl_s: u64) -> CheckDefinition {
    CheckDefinition {
        id,
        name: "a name".to_owned(),
        notes: String::new(),
        service_id: service.map_or_else(String::new, |service| format!("s{service}")),
        kind: CheckKind::Ttl(Duration::from_secs(ttl_s)),
        initial_status: None,
        initial_output: String::new(),
        deregister_after: Some(Duration::from_secs(ttl_s)),
    }
}

fn registration(node: u8, service: Option<u8>, status: CheckStatus) -> Registration {
    let name = format!("Other{node}");
    let check = CheckDefinition {
        kind: CheckKind::External { kind: "http".into(), definition: serde_json::Map::new() },
        initial_status: Some(status),
        ..check("reported".to_owned(), None, 1)
    };
    Registration {
        node: NodeDefinition { name, address: "10.0.0.9".to_owned(), ..NodeDefinition::default() },
        skip_node_update: false,
        service: service.map(|id| ServiceDefinition {
            id: format!("s{id}"),
            name: "Name0".to_owned(),
            ..ServiceDefinition::default()
        }),
        checks: vec![(String::new(), check)],
    }
}

fn apply(store: &mut Store, operation: &Operation, now: &mut Instant) {
    // What is refused changes nothing, which is as good a case as any.
    let _refused = match operation.clone() {
        Operation::Register { id, name, port, checks, replace } => {
            let address = AddressDefinition { address: "10.0.0.1".to_owned(), port };
            let definition = ServiceDefinition {
                id: format!("s{id}"),
                name: format!("Name{name}"),
                port,
                tagged_addresses: [("lan".to_owned(), address)].into(),
                ..ServiceDefinition::default()
            };
            let checks = (0..checks).map(|number| check(format!("service:s{id}:{number}"), Some(id), 10));
            store.register_service(definition, checks.collect(), replace, *now).is_err()
        }
        Operation::Deregister(id) => store.deregister_service(&format!("s{id}"), *now),
        Operation::RegisterCheck { id, service, ttl_s } => {
            store.register_check(check(format!("c{id}"), service, ttl_s), *now).is_err()
        }
        Operation::DeregisterCheck(id) => store.deregister_check(&format!("c{id}"), *now),
        Operation::Heartbeat { service, status, output } => {
            store.heartbeat(&format!("service:s{service}:0"), status, output, *now).is_err()
        }
        Operation::Put { key, value, cas } => {
            let cas = cas.map_or(Cas::Always, |index| if index == 0 { Cas::Absent } else { Cas::At(index) });
            store.kv_put(&key, value.into(), 7, cas).is_err()
        }
        Operation::Delete { key, recurse } => store.kv_delete(&key, recurse, Cas::Always),
        Operation::CatalogRegister { node, service, status } => {
            store.catalog_register(registration(node, service, status), *now).is_err()
        }
        Operation::RemoveNode(node) => store.remove_node(&format!("Other{node}"), *now),
        Operation::CreateSession { id, ttl_s, delete } => {
            let wanted = NewSession {
                id: format!("session-{id}"),
                name: "a name".to_owned(),
                node: String::new(),
                lock_delay: Duration::ZERO,
                behavior: if delete { Behavior::Delete } else { Behavior::Release },
                ttl: (String::new(), ttl_s.map(Duration::from_secs)),
                node_checks: Vec::new(),
                service_checks: Vec::new(),
            };
            store.create_session(wanted, *now).is_err()
        }
        Operation::DestroySession(id) => {
            store.destroy_session(&format!("session-{id}"), *now);
            false
        }
        Operation::RenewSession(id) => store.renew_session(&format!("session-{id}"), *now).is_none(),
        Operation::Lock { key, session } => {
            store.kv_lock(&key, "locked".into(), 1, &format!("session-{session}"), *now).is_err()
        }
        Operation::Unlock { key, session } => {
            store.kv_unlock(&key, "free".into(), 2, &format!("session-{session}")).is_err()
        }
        Operation::Pass(seconds) => {
            *now += Duration::from_secs(seconds);
            store.expire(*now);
            !store.reap(*now).is_empty()
        }
    };
}

/// Everything that a client could see of a store.
fn seen(store: &mut Store) -> String {
    let table = |rows: serde_json::Result<String>| rows.unwrap();
    let services: Vec<_> = store.services().collect();
    let checks: Vec<_> = store.checks().collect();
    let kv: Vec<_> = store.kv.with_prefix("").collect();
    let nodes: Vec<_> = store.nodes().collect();
    let sessions: Vec<_> = store.sessions.list().collect();
    let mut seen = format!(
        "{} {} {} {} {}",
        table(serde_json::to_string(&nodes)),
        table(serde_json::to_string(&sessions)),
        table(serde_json::to_string(&services)),
        table(serde_json::to_string(&checks)),
        table(serde_json::to_string(&kv))
    );
    for name in ["name0", "name1", "name2", "unknown"] {
        let instances: Vec<_> = store
            .instances(name)
            .map(|service| (&service.definition.id, store.checks_of(service).count()))
            .collect();
        seen = format!("{seen} {} {instances:?}", store.service_index(name));
    }
    for key in ["", "a", "b", "ab"] {
        seen = format!("{seen} {} {}", store.kv.key_index(key), store.kv.prefix_index(key));
    }
    let kv_bytes = store.kv.bytes_with("", 0);
    format!(
        "{seen} {} {} {} {} {} {kv_bytes}",
        store.index(),
        store.services_index(),
        store.checks_index(),
        store.nodes_index(),
        store.sessions.index()
    )
}

fn own_node() -> NodeDefinition {
    NodeDefinition { name: "n1".to_owned(), address: "127.0.0.1".to_owned(), ..NodeDefinition::default() }
}

/// A new store from rows.
fn read_back(lines: &[u8], now: Instant) -> Store {
    let mut store = Store::new(StoreLimits::default(), own_node());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let parts: Vec<&serde_json::value::RawValue> = serde_json::from_slice(line).unwrap();
        let table: &str = serde_json::from_str(parts[0].get()).unwrap();
        store.read_back(Row { table, key: parts[1], value: parts.get(2).copied() }).unwrap();
    }
    store.resume(own_node(), now);
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_at_any_moment_changes_no_answer(
        operations in proptest::collection::vec(operation(), 1..40),
        restart_after in 0..40usize,
    ) {
        let mut now = Instant::now();
        let mut store = Store::new(StoreLimits::default(), own_node());
        let mut lines = Vec::new();
        for (done, operation) in operations.iter().enumerate() {
            apply(&mut store, operation, &mut now);
            store.write_changes(&mut lines).unwrap();
            if done == restart_after {
                let mut again = read_back(&lines, now);
                prop_assert_eq!(seen(&mut store), seen(&mut again));
                store = again;
            }
        }
        let index = store.index();
        let mut again = read_back(&lines, now);
        prop_assert_eq!(seen(&mut store), seen(&mut again));
        // And the first change after it is later than all before.
        again.kv_put("new", "new".into(), 0, Cas::Always).unwrap();
        prop_assert!(again.index() > index);
    }
}

#[test]
fn a_restart_keeps_the_status_of_a_ttl_check_and_starts_its_time_again() {
    let begin = Instant::now();
    let mut store = Store::new(StoreLimits::default(), own_node());
    let definition =
        ServiceDefinition { id: "s0".to_owned(), name: "web".to_owned(), ..ServiceDefinition::default() };
    store.register_service(definition, vec![check("c".to_owned(), Some(0), 10)], false, begin).unwrap();
    store.heartbeat("c", CheckStatus::Passing, "fine".to_owned(), begin).unwrap();
    let mut lines = Vec::new();
    store.write_changes(&mut lines).unwrap();

    let later = begin + Duration::from_secs(100);
    let mut again = read_back(&lines, later);
    let record = again.checks().next().unwrap();
    assert_eq!((record.status, record.output.as_str()), (CheckStatus::Passing, "fine"));
    assert_eq!(again.next_expiry(), Some(later + Duration::from_secs(10)));
    again.expire(later + Duration::from_secs(10));
    // Critical from then on, so it is removed a minute after that and not at once.
    assert!(again.reap(later + Duration::from_secs(69)).is_empty());
    assert_eq!(again.reap(later + Duration::from_secs(70)), ["s0"]);
}

#[test]
fn a_heartbeat_that_says_nothing_new_writes_nothing() {
    let now = Instant::now();
    let mut store = Store::new(StoreLimits::default(), own_node());
    store.register_check(check("c".to_owned(), None, 10), now).unwrap();
    store.heartbeat("c", CheckStatus::Passing, "fine".to_owned(), now).unwrap();
    store.forget_changes();
    let mut lines = Vec::new();
    store.write_changes(&mut lines).unwrap();
    lines.clear();
    store.heartbeat("c", CheckStatus::Passing, "fine".to_owned(), now).unwrap();
    store.write_changes(&mut lines).unwrap();
    assert_eq!(lines, b"");
    store.heartbeat("c", CheckStatus::Passing, "better".to_owned(), now).unwrap();
    store.write_changes(&mut lines).unwrap();
    assert_eq!(String::from_utf8(lines).unwrap().lines().count(), 1);
}

#[test]
fn a_table_that_is_not_known_is_refused() {
    let mut store = Store::new(StoreLimits::default(), own_node());
    let key = serde_json::value::RawValue::from_string("\"a\"".to_owned()).unwrap();
    let error = store.read_back(Row { table: "spaceships", key: &key, value: None }).unwrap_err();
    assert_eq!(error, "table \"spaceships\" is not known to this release");
}
