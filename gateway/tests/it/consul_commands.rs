//! The commands that talk to Consul, as a user meets them: golden outputs against the embedded registry, and the
//! words that help where Consul is away or refuses.

use std::{path::Path, process::Stdio};

use millgate_registry::{
    CheckStatus, Client, ClientConfig, EmbeddedRegistry, RegistryOptions, ServiceRegistration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::{
    commands::{Said, ended, millgate},
    support::{DEADLINE, backend::closed_port, eventually},
};

struct Desk {
    registry: EmbeddedRegistry,
    dir: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let options = RegistryOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            node_name: "n1".to_owned(),
            ..RegistryOptions::default()
        };
        let registry = EmbeddedRegistry::start(options).await.unwrap();
        Self { registry, dir: tempfile::tempdir().unwrap() }
    }

    fn client(&self) -> Client {
        Client::new(ClientConfig::new(self.registry.url())).unwrap()
    }

    async fn run(&self, args: &[&str]) -> Said {
        run_at(self.dir.path(), &self.registry.url(), args).await
    }
}

async fn run_at(dir: &Path, consul: &str, args: &[&str]) -> Said {
    let mut command = millgate(dir, args);
    command.env("CONSUL_HTTP_ADDR", consul);
    ended(command).await
}

#[tokio::test]
async fn what_is_registered_is_listed_and_shown() {
    let desk = Desk::new().await;
    let said =
        desk.run(&["services", "register", "web", "--port", "8001", "--tag", "v1", "--ttl", "30s"]).await;
    said.expect(0, &["critical until check `service:web-8001:ttl` is passed"]);
    assert_eq!(said.out, "registered `web-8001` of service `web`\n");
    let more = ["--id", "b", "--address", "::1", "--weights", "10:1", "--meta", "zone=a", "--json"];
    let said = desk.run(&[&["services", "register", "web", "--port", "8002"], &more[..]].concat()).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "{\"registered\":\"b\",\"service\":\"web\"}\n"));
    assert_eq!(
        desk.run(&["services", "list"]).await.out,
        "SERVICE  INSTANCES  PASSING  WARNING  CRITICAL  TAGS\n\
         consul   1          1        0        0         -\n\
         web      2          1        0        1         v1\n"
    );
    assert_eq!(
        desk.run(&["services", "show", "web"]).await.out,
        "INSTANCE  NODE  ADDRESS         STATUS    WEIGHT  TAGS\n\
         b         n1    [::1]:8002      passing   10      -\n\
         web-8001  n1    127.0.0.1:8001  critical  1       v1\n\
         \n\
         web-8001: web heartbeat is critical\n"
    );
    let said = desk.run(&["services", "show", "web", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.out.lines().count(), &json["instances"][0]["meta"]["zone"]), (1, &"a".into()));
    assert_eq!(json["instances"][1]["checks"][1]["status"], "critical");
    let json: serde_json::Value =
        serde_json::from_str(&desk.run(&["services", "list", "--json"]).await.out).unwrap();
    assert_eq!(json["services"][1]["critical"], 1);
}

#[tokio::test]
async fn consul_tries_the_addresses_that_a_registration_names() {
    let desk = Desk::new().await;
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = open.local_addr().unwrap();
    let port = address.port().to_string();
    let web = ["services", "register", "web", "--port", &port, "--interval", "100ms"];
    // It takes connections, and speaks no gRPC.
    let tcp = ["--tcp", &address.to_string()];
    desk.run(&[&web[..], &tcp].concat()).await.expect(0, &[]);
    eventually("it takes connections", || async {
        desk.run(&["services", "list"]).await.out.contains("web      1          1 ")
    })
    .await;
    let grpc = ["--grpc", &format!("{address}/shop.Orders")];
    desk.run(&[&web[..], &tcp, &grpc].concat()).await.expect(0, &[]);
    let shown: serde_json::Value =
        serde_json::from_str(&desk.run(&["services", "show", "web", "--json"]).await.out).unwrap();
    let checks = shown["instances"][0]["checks"].as_array().unwrap();
    let ids: Vec<_> = checks.iter().filter_map(|check| check["id"].as_str()).collect();
    let expected = ["tcp", "grpc"].map(|kind| format!("service:web-{port}:{kind}"));
    assert!(expected.iter().all(|id| ids.contains(&id.as_str())), "{ids:?}");
}

#[tokio::test]
async fn a_name_that_is_not_there_is_compared_with_those_that_are() {
    let desk = Desk::new().await;
    desk.run(&["services", "register", "web", "--port", "8001"]).await.expect(0, &["no check"]);
    for verb in ["show", "watch"] {
        desk.run(&["services", verb, "wbe"]).await.expect(1, &["error: ", "did you mean `web`?"]);
    }
    desk.run(&["services", "deregister", "web-8002"]).await.expect(1, &["did you mean `web-8001`?"]);
    let said = desk.run(&["services", "deregister", "web-8001"]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "deregistered `web-8001` of service `web`\n"));
    desk.run(&["services", "show", "web"]).await.expect(1, &["no instance of `web` is registered"]);
    desk.run(&["consul", "lint", "nothing-*"]).await.expect(1, &["no service fits `nothing-*`"]);
}

#[tokio::test]
async fn wrong_options_are_exit_code_2_with_an_example() {
    let desk = Desk::new().await;
    for (more, words) in [
        (&["--port", "0"][..], "1..=65535"),
        (&["--port", "80", "--ttl", "5"], "`250ms`"),
        (&["--port", "80", "--meta", "a.b=c"], "letters, digits"),
        (&["--port", "80", "--weights", "0:1"], "10:1"),
        (&["--port", "80", "--http", "localhost"], "http://"),
        (&["--port", "80", "--tcp", "127.0.0.1"], "127.0.0.1:8080"),
        (&["--port", "80", "--tcp", "::1:80"], "[::1]:8080"),
        (&["--port", "80", "--tcp", "a:0"], "HOST:PORT"),
        (&["--port", "80", "--tcp", "http://a:80"], "HOST:PORT"),
        (&["--port", "80", "--grpc", "a:80/"], "HOST:PORT/SERVICE"),
        (&["--port", "80", "--interval", "1s"], "--http"),
        (&["--port", "80", "--ttl", "5s", "--interval", "1s"], "--tcp"),
        (&[], "--port"),
    ] {
        desk.run(&[&["services", "register", "web"], more].concat()).await.expect(2, &[words]);
    }
}

#[tokio::test]
async fn watch_prints_each_transition_as_it_happens() {
    let desk = Desk::new().await;
    let client = desk.client();
    let web = |id: &str, port| {
        ServiceRegistration::http("web", id, "127.0.0.1", port).ttl(std::time::Duration::from_mins(1))
    };
    client.register(&web("a", 1)).await.unwrap();
    let mut command =
        millgate(desk.dir.path(), &["services", "watch", "web", "--consul", &desk.registry.url()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
        line.split_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(next().await, "+ a 127.0.0.1:1 critical");
    client.check_update("service:a:ttl", CheckStatus::Passing, "").await.unwrap();
    assert_eq!(next().await, "~ a 127.0.0.1:1 passing (was critical)");
    client.register(&web("b", 2)).await.unwrap();
    assert_eq!(next().await, "+ b 127.0.0.1:2 critical");
    client.register(&web("a", 3).tags(["v2"])).await.unwrap();
    assert_eq!(next().await, "~ a 127.0.0.1:3 passing (address was 127.0.0.1:1, tags were [])");
    client.deregister("b").await.unwrap();
    assert_eq!(next().await, "- b 127.0.0.1:2 gone");
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(tokio::time::timeout(DEADLINE, child.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn lint_says_what_is_wrong_why_it_matters_and_what_to_do() {
    let desk = Desk::new().await;
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = open.local_addr().unwrap().port();
    let web = ServiceRegistration::http("web", "web-1", "127.0.0.1", port)
        .ttl(std::time::Duration::from_mins(1))
        .tags(["millgate.route=/web/**"]);
    desk.client().register(&web).await.unwrap();
    desk.client().check_pass("service:web-1:ttl").await.unwrap();
    let said = desk.run(&["consul", "lint"]).await;
    said.expect(0, &[]);
    assert_eq!(said.out, "0 errors, 0 warnings in 1 service with 1 instance\n");
    desk.client().register(&web.clone().tags(["urlprefix-/web auth=basic"])).await.unwrap();
    let said = desk.run(&["consul", "lint"]).await;
    said.expect(0, &[]);
    assert_eq!(
        said.out,
        "warning[L007]: `urlprefix-/web auth=basic` of `web-1`: the option `auth` is not taken from a tag\n  \
         where: service web\n  \
         why:   the whole tag is refused, so that no part of it is ignored silently\n  \
         do:    remove the option from the tag, or write the route into the gateway's configuration\n\n\
         0 errors, 1 warning in 1 service with 1 instance\n"
    );
    desk.run(&["consul", "lint", "--strict"]).await.expect(1, &[]);
    drop(open);
    let said = desk.run(&["consul", "lint", "web", "--json"]).await;
    said.expect(1, &[]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["errors"], &json["warnings"]), (&1.into(), &1.into()));
    let first = &json["findings"][0];
    assert_eq!(
        (&first["code"], &first["instance"], &first["node"]),
        (&"L003".into(), &"web-1".into(), &"n1".into())
    );
    desk.run(&["consul", "lint", "--offline"]).await.expect(0, &[]);
}

const VERBS: [&[&str]; 6] = [
    &["services", "list"],
    &["services", "show", "web"],
    &["services", "watch", "web"],
    &["services", "register", "web", "--port", "80"],
    &["services", "deregister", "web-80"],
    &["consul", "lint"],
];

#[tokio::test]
async fn a_user_that_switched_verification_off_is_told_what_to_do_instead() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.yaml"), "version: 1\n").unwrap();
    let address = closed_port().to_string();
    // None of them gets anywhere, so each ends by itself.
    for verb in VERBS.into_iter().chain([&["run", "-c", "bad.yaml"][..]]) {
        for (value, is_told) in [("false", true), ("0", true), ("F", true), ("true", false), ("", false)] {
            let mut command = millgate(dir.path(), verb);
            command.env("CONSUL_HTTP_ADDR", &address).env("CONSUL_HTTP_SSL_VERIFY", value);
            let said = ended(command).await;
            said.expect(1, &[]);
            let told = said.err.lines().filter(|line| line.contains("CONSUL_HTTP_SSL_VERIFY"));
            let told: Vec<&str> = told.collect();
            assert_eq!(told.len(), usize::from(is_told), "{verb:?} {value}: {}", said.err);
            assert!(told.iter().all(|line| line.contains("CONSUL_CACERT")), "{told:?}");
        }
    }
}

#[tokio::test]
async fn without_consul_every_command_says_where_it_looked_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let address = closed_port().to_string();
    for verb in VERBS.into_iter().chain([&["check", "-c", "consul://a"][..], &["routes", "-c", "consul://a"]])
    {
        let words = [address.as_str(), "connection refused", "CONSUL_HTTP_ADDR", "millgate registry"];
        run_at(dir.path(), &address, verb).await.expect(1, &words);
    }
}

#[tokio::test]
async fn a_consul_that_refuses_leads_to_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 17\r\nconnection: close\r\n\r\nPermission denied")
                    .await;
            });
        }
    });
    for verb in VERBS.into_iter().chain([&["check", "-c", "consul://a"][..], &["run", "-c", "consul://a"]]) {
        run_at(dir.path(), &address, verb).await.expect(1, &["Permission denied", "CONSUL_HTTP_TOKEN"]);
    }
}

#[tokio::test]
async fn a_configuration_in_a_key_is_checked_and_shown_as_a_file_is() {
    let desk = Desk::new().await;
    for verb in ["check", "routes", "run"] {
        desk.run(&[verb, "-c", "consul://edge"])
            .await
            .expect(1, &["there is no key `edge`", "consul kv put edge"]);
        desk.run(&[verb, "-c", "consul://"])
            .await
            .expect(1, &["names no key", "consul://millgate/routes.yaml"]);
    }
    desk.client().kv_put("edge", "version: 1\nroutes:\n  - {path: /a, servic: a}\n").await.unwrap();
    for verb in ["check", "routes", "run"] {
        let words = ["consul://edge:3:16", "did you mean `service`?"];
        desk.run(&[verb, "-c", "consul://edge"]).await.expect(1, &words);
    }
    desk.client().kv_put("edge", "version: 1\nroutes:\n  - {path: /a, service: a}\n").await.unwrap();
    assert_eq!(desk.run(&["check", "-c", "consul://edge"]).await.out, "consul://edge: ok\n");
    let said = desk.run(&["routes", "-c", "consul://edge"]).await;
    said.expect(0, &["config    consul://edge"]);
    assert!(said.out.contains("/a"), "{}", said.out);
}

#[tokio::test]
async fn a_removal_needs_a_check_and_a_minute_and_any_check_will_do() {
    let desk = Desk::new().await;
    let register = ["services", "register", "orders", "--port", "7003", "--deregister-after"];
    let with = |more: &[&'static str]| [&register[..], more].concat();
    desk.run(&with(&["1m"])).await.expect(2, &["--ttl", "--http"]);
    desk.run(&with(&["30s", "--ttl", "10s"])).await.expect(2, &["between `1m` and"]);
    let both = with(&["1m", "--ttl", "10s", "--http", "http://127.0.0.1:1/"]);
    desk.run(&both).await.expect(0, &["is critical until"]);
}

#[tokio::test]
async fn what_others_wrote_moves_no_cursor_and_ends_no_line() {
    let desk = Desk::new().await;
    let long = "x".repeat(70_000);
    for (id, tag) in
        [("a", "millgate.route=/a \u{1b}[2J\nerror=x"), ("b", &long[..60_000]), ("c", &long[10_001..])]
    {
        let tags = vec![tag.to_owned()];
        let registration =
            ServiceRegistration { tags, ..ServiceRegistration::http("web", id, "127.0.0.1", 1) };
        desk.client().register(&registration).await.unwrap();
    }
    for verb in [&["services", "list"][..], &["services", "show", "web"], &["consul", "lint", "--offline"]] {
        let said = desk.run(verb).await;
        assert!(said.code != Some(101), "{}", said.err);
        let text = said.out + &said.err;
        assert!(!text.contains('\u{1b}') && !text.lines().any(|line| line.starts_with("error=")), "{verb:?}");
    }
}
