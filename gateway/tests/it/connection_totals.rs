//! `max_connections` is a total over all workers and listeners, and the client that is one too many gets the place of an
//! idle one.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    DEADLINE,
    backend::{Backend, RawBackend},
    client::{Connection, get, send, text},
    eventually,
    gateway::TestGateway,
};

fn config(listen: &str, backend: SocketAddr) -> String {
    format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"{listen}}}\nroutes:\n  - {{path: /**, service: one}}\n\
         services:\n  one: {{hosts: [\"{backend}\"]}}\n"
    )
}

/// Sends one request; the connection stays.
async fn ask(addr: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    client
}

async fn used(gateway: &TestGateway) -> usize {
    let shown = send(gateway.admin(), get("/metrics")).await;
    let name = "millgate_file_places_used{part=\"clients\"} ";
    text(&shown).lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// With equal parts per worker the hash of their addresses leaves one worker full and the other with places: the
/// seventeenth of twenty waited.
#[tokio::test]
async fn as_many_clients_as_allowed_are_served_whichever_worker_they_come_to() {
    let silent = RawBackend::answering(b"", false).await;
    let gateway = TestGateway::start(&config(", max_connections: 20", silent.addr)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(ask(gateway.http).await);
    }
    eventually("all twenty are at the service", || async { silent.connections() == 20 }).await;
    let one_too_many = ask(gateway.http).await;
    eventually("the next one waits", || async {
        let shown = send(gateway.admin(), get("/metrics")).await;
        text(&shown).contains("millgate_file_places_waiting{part=\"clients\"} 1\n")
    })
    .await;
    assert_eq!(used(&gateway).await, 20);
    // Whichever worker it was on, the other one learns of it.
    drop(clients.pop());
    eventually("it is served in the place of the one that left", || async { silent.connections() == 21 })
        .await;
    drop((clients, one_too_many));
    eventually("every place is given back", || async { used(&gateway).await == 0 }).await;
}

#[tokio::test]
async fn a_client_past_the_limit_takes_the_place_of_the_one_that_has_been_idle_for_longest() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(", max_connections: 4", backend.addr)).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut client = ask(gateway.http).await;
        client.read_u8().await.unwrap();
        idle.push(client);
    }
    // Not only the first one more, but as many as come; they stay.
    let mut kept = Vec::new();
    for _ in 0..6 {
        let mut client = Connection::open(gateway.http).await;
        let reply = tokio::time::timeout(DEADLINE, client.send(get("/new"))).await.unwrap();
        assert_eq!(reply.status(), 200);
        kept.push(client);
    }
    let shown = send(gateway.admin(), get("/metrics")).await;
    assert!(
        text(&shown).contains("millgate_connections_shed_total{what=\"client\",reason=\"max_connections\"}")
    );
    // A client is closed between two responses: it reads the end, and no error.
    for mut client in idle {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(DEADLINE, client.read_to_end(&mut rest)).await;
        assert!(matches!(read, Ok(Ok(_))), "{read:?}");
    }
}

#[tokio::test]
async fn clients_that_never_say_a_word_hold_no_place_for_long() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(", max_connections: 4", backend.addr)).await;
    let mut silent = Vec::new();
    for at in 0..4 {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        if at % 2 == 0 {
            // An HTTP/2 client that does not answer the PING of a graceful end, or anything else.
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        }
        silent.push(client);
    }
    eventually("they have all places", || async { used(&gateway).await == 4 }).await;
    // Silent or not, all four are in the gauge, and the operator sees what has the places.
    for line in ["millgate_connections{protocol=\"new\"} 2", "millgate_connections{protocol=\"http2\"} 2"] {
        eventually(line, || gateway.shows(line)).await;
    }
    // As many as there are places.
    let mut held = Vec::new();
    for _ in 0..4 {
        let client = async {
            let mut client = Connection::open(gateway.http).await;
            assert_eq!(client.send(get("/new")).await.status(), 200);
            client
        };
        held.push(tokio::time::timeout(Duration::from_secs(8), client).await.expect("before header_timeout"));
    }
}

/// The number is one of all listeners together, and not of each.
#[tokio::test]
async fn two_listeners_have_one_number_of_clients_between_them() {
    let silent = RawBackend::answering(b"", false).await;
    let listen = config(", max_connections: 4", silent.addr)
        .replace("http: \"127.0.0.1:0\"", "http: [\"127.0.0.1:0\", \"127.0.0.1:0\"]");
    let gateway = TestGateway::start(&listen).await;
    let addresses = gateway.listeners().iter().map(|listening| listening.address).collect::<Vec<_>>();
    let mut clients = Vec::new();
    for address in [addresses[0], addresses[0], addresses[0], addresses[1]] {
        clients.push(ask(address).await);
    }
    eventually("three and one are at the service", || async { silent.connections() == 4 }).await;
    let (one, another) = (ask(addresses[0]).await, ask(addresses[1]).await);
    let waiting = "millgate_file_places_waiting{part=\"clients\"} 2";
    eventually("one more of each listener waits", || gateway.shows(waiting)).await;
    assert_eq!((used(&gateway).await, silent.connections()), (4, 4));
    clients.drain(..2);
    eventually("both are served", || async { silent.connections() == 6 }).await;
    drop((clients, one, another));
    eventually("every place is given back", || async { used(&gateway).await == 0 }).await;
}

/// A place that is free goes to the client that is there: with one shared wake-up, the loop of the listener that has no
/// client took it, and the other one stood still.
#[tokio::test]
async fn a_place_that_is_free_goes_to_the_listener_that_has_a_client() {
    let silent = RawBackend::answering(b"", false).await;
    let listen = config(", max_connections: 2", silent.addr)
        .replace("http: \"127.0.0.1:0\"", "http: [\"127.0.0.1:0\", \"127.0.0.1:0\", \"127.0.0.1:0\"]");
    let gateway = TestGateway::start(&format!("workers: 1\n{listen}")).await;
    let addresses = gateway.listeners().iter().map(|listening| listening.address).collect::<Vec<_>>();
    let mut holding = vec![ask(addresses[0]).await, ask(addresses[0]).await];
    eventually("both places are taken", || async { silent.connections() == 2 }).await;
    for (round, address) in [addresses[1], addresses[2], addresses[1], addresses[0]].into_iter().enumerate() {
        let next = ask(address).await;
        holding.remove(0);
        holding.push(next);
        eventually("the one that waited is served", || async { silent.connections() == 3 + round }).await;
    }
}
