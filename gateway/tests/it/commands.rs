//! The command line as a user meets it: the real binary, its exit codes and the words that help.

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{
    DEADLINE,
    backend::{Backend, closed_port},
    client::{get, send, text},
    gateway::write_config,
};

const GOOD: &str = "routes:\n  - {path: /a/**, service: a}\nservices:\n  a: {hosts: [\"127.0.0.1:9\"]}\n";

/// The command in `dir`, which is also its home, with nothing of the tester's environment that it listens to. Long forms of
/// tests name another build of it.
pub(crate) fn millgate(dir: &Path, args: &[&str]) -> Command {
    let program = std::env::var_os("MILLGATE_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_millgate").into());
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env("HOME", dir).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["MILLGATE_", "XDG_", "CONSUL_", "RUST_LOG"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// The exit code and the output of a command.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is missing in: {}", self.err);
        }
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) async fn run(dir: &Path, args: &[&str]) -> Said {
    ended(millgate(dir, args)).await
}

pub(crate) async fn ended(mut command: Command) -> Said {
    tokio::time::timeout(DEADLINE, command.output()).await.expect("the command ends").unwrap().into()
}

/// A command that goes on, and its output until it was ready.
pub(crate) struct Serving {
    child: Child,
    pub(crate) lines: Vec<String>,
    later: Arc<Mutex<Vec<String>>>,
}

impl Serving {
    /// Waits for the line that begins with `last`.
    pub(crate) async fn start(dir: &Path, args: &[&str], last: &str) -> Self {
        Self::start_command(millgate(dir, args), last).await
    }

    /// As [`Serving::start`], of a command that was prepared otherwise.
    pub(crate) async fn start_command(mut command: Command, last: &str) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.starts_with(last)) {
            let line = tokio::time::timeout(DEADLINE, reader.next_line()).await.unwrap().unwrap();
            lines.push(line.unwrap_or_else(|| panic!("ended before it was ready: {lines:?}")));
        }
        // Later output must not fill the pipe.
        let later = Arc::<Mutex<Vec<String>>>::default();
        let said = Arc::clone(&later);
        tokio::spawn(async move {
            while let Ok(Some(line)) = reader.next_line().await {
                said.lock().unwrap().push(line);
            }
        });
        Self { child, lines, later }
    }

    async fn gateway(dir: &Path) -> Self {
        Self::start(dir, &["run", "--state-dir", "state"], "admin").await
    }

    /// The first word after `name` in the start-up lines, without the scheme.
    pub(crate) fn value(&self, name: &str) -> &str {
        let line = self.lines.iter().find_map(|line| line.strip_prefix(name)).expect("the line is there");
        line.split_whitespace().next().unwrap().trim_start_matches("http://")
    }

    /// The address of the listener with this name in the start-up lines, without the scheme.
    pub(crate) fn listener(&self, name: &str) -> &str {
        let line = self.lines.iter().find(|line| line.split_whitespace().nth(2) == Some(name));
        let address = line.expect("the listener is there").split_whitespace().nth(1).unwrap();
        address.split_once("://").unwrap().1
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The output since the command was ready.
    pub(crate) fn lines_since(&self) -> Vec<String> {
        self.later.lock().unwrap().clone()
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// The exit code after SIGTERM.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        tokio::time::timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap().code()
    }
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2_and_says_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let mint = |more: &[&'static str]| [&["token", "mint", "--key", "k", "--sub"], more].concat();
    for (args, words) in [
        (vec![], "Usage: millgate <COMMAND>"),
        (vec!["chekc"], "check"),
        (vec!["check", "extra"], "unexpected argument 'extra'"),
        (vec!["check", "no.yaml"], "name the configuration file with `-c no.yaml`"),
        (vec!["run", "--config"], "--config <FILE>"),
        (vec!["token", "mint"], "--key <FILE>"),
        (mint(&[""]), "--sub <SUBJECT>"),
        (mint(&["u", "--ttl", "5"]), "time unit needed"),
        (mint(&["u", "--claim", "team"]), "NAME=VALUE"),
        (vec!["registry", "--listen", "8500"], "127.0.0.1:8500"),
        (vec!["registry", "--compat", "1.9"], "possible values: current, 1.8"),
        (vec!["health", "--admin", "ftp://gateway.test"], "http://127.0.0.1:9900"),
    ] {
        run(dir.path(), &args).await.expect(2, &[words]);
    }
}

#[tokio::test]
async fn help_and_version_are_exit_code_0() {
    let dir = tempfile::tempdir().unwrap();
    for verb in
        ["run", "check", "routes", "token", "key", "registry", "services", "consul", "health", "version"]
    {
        let said = run(dir.path(), &[verb, "--help"]).await;
        said.expect(0, &[]);
        assert!(said.out.contains("Usage: millgate"), "{}", said.out);
    }
    let said = run(dir.path(), &["version"]).await;
    assert_eq!((said.code, said.out), (Some(0), format!("millgate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("empty.yaml", b"");
    write("broken.yaml", b"version: 1\nroutes: [\n  - {path");
    write("latin1.yaml", b"# \xfc\n");
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    for verb in ["check", "routes", "run"] {
        for (file, words) in [
            ("missing.yaml", ["missing.yaml", "No such file", "-c FILE"]),
            ("folder", ["folder", "Is a directory", "-c FILE"]),
            ("latin1.yaml", ["latin1.yaml", "not UTF-8", "-c FILE"]),
            ("empty.yaml", ["empty.yaml:1:1", "add `version: 1`", "2 errors"]),
            ("broken.yaml", ["broken.yaml:3:3", "not valid YAML", "1 error"]),
        ] {
            run(dir.path(), &[verb, "-c", file]).await.expect(1, &words);
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_configuration_without_permission_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), GOOD);
    let file = dir.path().join("routes.yaml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&file).is_ok() {
        eprintln!("skipped: this user may read every file");
        return;
    }
    run(dir.path(), &["check"]).await.expect(1, &["Permission denied", "routes.yaml"]);
}

#[tokio::test]
async fn without_any_configuration_every_place_that_was_looked_at_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["check", "routes", "run"] {
        let words = ["routes.yaml", ".config/millgate/routes.yaml", "/etc/millgate", "--config FILE"];
        run(dir.path(), &[verb]).await.expect(1, &words);
    }
}

#[tokio::test]
async fn the_configuration_is_looked_for_in_the_documented_order() {
    let dir = tempfile::tempdir().unwrap();
    let taken = async |config: Option<&str>| {
        let mut command = millgate(dir.path(), &["check"]);
        command.env("XDG_CONFIG_HOME", dir.path().join("xdg"));
        config.map(|config| command.env("MILLGATE_CONFIG", config));
        ended(command).await
    };
    write_config(dir.path(), GOOD);
    let xdg = dir.path().join("xdg/millgate");
    std::fs::create_dir_all(&xdg).unwrap();
    std::fs::copy(dir.path().join("routes.yaml"), xdg.join("routes.yaml")).unwrap();
    std::fs::copy(dir.path().join("routes.yaml"), dir.path().join("other.yaml")).unwrap();
    assert_eq!(taken(Some("other.yaml")).await.out, "other.yaml: ok\n");
    assert_eq!(taken(Some("")).await.out, "routes.yaml: ok\n", "an empty variable counts as unset");
    taken(Some("missing.yaml")).await.expect(1, &["missing.yaml"]);
    std::fs::remove_file(dir.path().join("routes.yaml")).unwrap();
    assert!(taken(None).await.out.ends_with("xdg/millgate/routes.yaml: ok\n"));
}

#[tokio::test]
async fn warnings_are_printed_and_fail_only_where_strict_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &format!("{GOOD}  b: {{hosts: [\"127.0.0.1:9\"]}}\n"));
    let words = ["no route uses the service `b`", "routes.yaml:9:3", "1 warning"];
    run(dir.path(), &["check"]).await.expect(0, &words);
    run(dir.path(), &["check", "--strict"]).await.expect(1, &words);
    write_config(dir.path(), GOOD);
    run(dir.path(), &["check", "--strict"]).await.expect(0, &[]);
}

#[tokio::test]
async fn check_as_json_has_the_documented_fields_whatever_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let json = async |args: &[&str], code| {
        let said = run(dir.path(), &[&["check", "--json"], args].concat()).await;
        said.expect(code, &[]);
        assert_eq!((said.out.lines().count(), said.err.as_str()), (1, ""));
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()
    };
    let nowhere = json(&[], 1).await;
    assert_eq!((nowhere["file"].as_str(), nowhere["errors"].as_u64()), (Some(""), Some(1)));
    let missing = json(&["-c", "missing.yaml"], 1).await;
    assert_eq!((missing["file"].as_str(), missing["errors"].as_u64()), (Some("missing.yaml"), Some(1)));
    write_config(dir.path(), &GOOD.replace("service: a", "servic: a"));
    let wrong = json(&[], 1).await;
    let first = &wrong["diagnostics"][0];
    for field in ["severity", "code", "message", "at", "label", "help", "related"] {
        assert!(first.get(field).is_some(), "{field}: {wrong}");
    }
    assert_eq!((first["severity"].as_str(), first["at"]["line"].as_u64()), (Some("error"), Some(6)));
    write_config(dir.path(), GOOD);
    let good = json(&[], 0).await;
    let expected = serde_json::json!({"file": "routes.yaml", "errors": 0, "warnings": 0, "diagnostics": []});
    assert_eq!(good, expected);
}

#[tokio::test]
async fn routes_are_printed_in_match_order() {
    let dir = tempfile::tempdir().unwrap();
    let exact = GOOD.replace("services:", "  - {path: /a/b, methods: GET, service: a}\nservices:");
    write_config(dir.path(), &exact);
    let said = run(dir.path(), &["routes"]).await;
    said.expect(0, &["config    routes.yaml"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with("METHODS"), "{}", said.out);
    assert!(lines[1].contains("GET") && lines[1].contains("/a/b"), "{}", said.out);
    assert!(lines[2].contains("/a/**"), "{}", said.out);
    let said = run(dir.path(), &["routes", "--json"]).await;
    let table: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, table["routes"][0]["path"].as_str()), (Some(0), Some("/a/b")));
}

#[tokio::test]
async fn run_says_what_it_serves_and_ends_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let two = GOOD.replace("127.0.0.1:9\"", "127.0.0.1:9\", \"127.0.0.1:10\"");
    write_config(dir.path(), &two);
    let gateway = Serving::gateway(dir.path()).await;
    let names: Vec<&str> = gateway.lines.iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["config", "http", "routes", "services", "admin"], "{:?}", gateway.lines);
    assert_eq!((gateway.value("config"), gateway.value("routes")), ("routes.yaml", "1"));
    assert_eq!(gateway.lines[3], "services  a (2 instances)");
    assert_eq!(gateway.terminate().await, Some(0));
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_key_and_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let words = |key| [taken.clone(), format!("({key})"), "another process listens there".to_owned()];
    for (key, listen) in [
        ("listen.http", format!("listen: {{http: \"{taken}\", admin: off}}\n")),
        ("listen.admin", format!("listen: {{http: \"127.0.0.1:0\", admin: \"{taken}\"}}\n")),
    ] {
        write_config(dir.path(), &format!("{listen}{GOOD}"));
        let said = run(dir.path(), &["run"]).await;
        said.expect(1, &words(key).each_ref().map(String::as_str));
        assert!(said.err.starts_with("error: cannot listen on"), "{}", said.err);
    }
    run(dir.path(), &["registry", "--listen", &taken]).await.expect(1, &[&taken, "error: "]);
}

#[tokio::test]
async fn a_second_gateway_does_not_join_the_port_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), GOOD);
    let first = Serving::gateway(dir.path()).await;
    let listen = format!("listen: {{http: \"{}\", admin: off}}\n", first.value("http"));
    write_config(dir.path(), &format!("{listen}{GOOD}"));
    run(dir.path(), &["run"]).await.expect(1, &["another process listens there", "listen.http"]);
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_says_why() {
    let dir = tempfile::tempdir().unwrap();
    // TEST-NET-1 (RFC 5737) is not the address of any machine.
    write_config(dir.path(), &format!("listen: {{http: \"192.0.2.1:18080\", admin: off}}\n{GOOD}"));
    run(dir.path(), &["run"]).await.expect(1, &["192.0.2.1:18080", "does not have that address"]);
    let same = "listen: {http: \"127.0.0.1:18080\", admin: \"127.0.0.1:18080\"}\n";
    write_config(dir.path(), &format!("{same}{GOOD}"));
    for verb in ["check", "run"] {
        run(dir.path(), &[verb]).await.expect(1, &["two listeners have this address", "routes.yaml:"]);
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_served_is_refused_before_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    write("cert.pem", &made.cert.pem());
    write("other.pem", &KeyPair::generate().unwrap().serialize_pem());
    write("empty.pem", "");
    for (cert, key, words) in [
        ("cert.pem", "missing.pem", "cannot read the certificate's key"),
        ("missing.pem", "other.pem", "cannot read the certificate"),
        ("cert.pem", "other.pem", "does not fit"),
        ("cert.pem", "empty.pem", "expected a PEM file with one private key"),
        ("empty.pem", "other.pem", "no certificate in it"),
    ] {
        let listen = format!(
            "listen: {{https: {{bind: \"127.0.0.1:0\", cert_file: {cert}, key_file: {key}}}, admin: off}}\n"
        );
        write_config(dir.path(), &format!("{listen}{GOOD}"));
        for verb in ["check", "run"] {
            run(dir.path(), &[verb]).await.expect(1, &[words, "routes.yaml:"]);
        }
    }
}

#[tokio::test]
async fn health_is_0_only_where_a_gateway_says_that_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let closed = closed_port().to_string();
    let health = async |admin: &str| run(dir.path(), &["health", "--admin", admin]).await;
    health(&closed).await.expect(1, &["connection refused", "is the gateway running"]);
    write_config(dir.path(), GOOD);
    let gateway = Serving::gateway(dir.path()).await;
    let said = health(gateway.value("admin")).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "ready\n"));
    health(gateway.value("http")).await.expect(1, &["answered 404", "not the admin listener"]);
    // No registry has reported the instances of this one.
    write_config(
        dir.path(),
        &format!(
            "discovery: {{consul: {{address: \"http://{closed}\"}}}}\nroutes: [{{path: /a, service: a}}]\n"
        ),
    );
    let waiting = Serving::gateway(dir.path()).await;
    assert!(waiting.lines.iter().any(|line| line == "services  a (no instance yet)"), "{:?}", waiting.lines);
    health(waiting.value("admin")).await.expect(1, &["not ready"]);
}

#[tokio::test]
async fn the_registry_serves_consuls_api_and_ends_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let registry =
        Serving::start(dir.path(), &["registry", "--listen", "127.0.0.1:0", "--host", "gw"], "registry")
            .await;
    let address = registry.value("registry").parse().unwrap();
    let reply = send(address, get("/v1/status/leader")).await;
    assert_eq!(reply.status(), 200);
    assert!(text(&reply).starts_with('"') && text(&reply).contains(':'), "{}", text(&reply));
    assert_eq!(registry.terminate().await, Some(0));
}

/// A token of each kind of key, through a gateway that has only the public half (or the secret).
#[tokio::test]
async fn a_minted_token_opens_the_route_that_its_key_guards() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::named("one").await;
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let secret = "0123456789abcdef0123456789abcdef\n";
    let mut auth = "auth:\n".to_owned();
    let mut routes = "routes:\n".to_owned();
    for (name, private, public, key) in [
        ("hs256", secret.to_owned(), String::new(), "hs256_secret_file: hs256.key"),
        ("rs256", rsa.serialize_pem(), rsa.public_key_pem(), "public_key_file: rs256.pub"),
        ("es256", ec.serialize_pem(), ec.public_key_pem(), "public_key_file: es256.pub"),
        ("eddsa", ed.serialize_pem(), ed.public_key_pem(), "public_key_file: eddsa.pub"),
    ] {
        std::fs::write(dir.path().join(format!("{name}.key")), private).unwrap();
        std::fs::write(dir.path().join(format!("{name}.pub")), public).unwrap();
        let provider = format!("  {name}: {{{key}, issuer: \"https://issuer.test\", audience: api}}\n");
        let route = format!("  - {{path: /{name}, service: one, auth: {name}, require: {{scope: read}}}}\n");
        auth.push_str(&provider);
        routes.push_str(&route);
    }
    let services = format!("services:\n  one: {{hosts: [\"{}\"]}}\n", backend.addr);
    write_config(dir.path(), &format!("{auth}{routes}{services}"));
    let gateway = Serving::gateway(dir.path()).await;
    let address = gateway.value("http").parse().unwrap();
    for name in ["hs256", "rs256", "es256", "eddsa"] {
        let key = format!("{name}.key");
        let args = ["token", "mint", "--key", &key, "--sub", "alice", "--aud", "api", "--scope", "read"];
        let minted = run(dir.path(), &[&args[..], &["--iss", "https://issuer.test"]].concat()).await;
        minted.expect(0, &[]);
        for route in ["hs256", "rs256", "es256", "eddsa"] {
            let mut request = get(&format!("/{route}"));
            let value = format!("Bearer {}", minted.out.trim_end());
            request.headers_mut().insert("authorization", value.parse().unwrap());
            let expected = if route == name { 200 } else { 401 };
            let reply = send(address, request).await;
            assert_eq!(reply.status(), expected, "{name} on {route}: {}", text(&reply));
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_sign_is_exit_code_1_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("public.pem", &KeyPair::generate().unwrap().public_key_pem());
    write("short.key", "secret");
    write("good.key", "0123456789abcdef0123456789abcdef");
    write("huge.key", &"0".repeat(64 * 1024 + 1));
    for (key, more, words) in [
        ("missing.key", &[][..], "cannot read the key missing.key: No such file"),
        (".", &[], "Is a directory"),
        ("public.pem", &[], "public.pem: this is a public key"),
        ("short.key", &[], "short.key: an HS256 secret has at least 32 bytes"),
        ("huge.key", &[], "larger than 64 KiB"),
        ("good.key", &["--ttl", "0s"], "at least 1s"),
        ("good.key", &["--claim", "exp=1"], "`exp`"),
    ] {
        let args = [&["token", "mint", "--key", key, "--sub", "u"], more].concat();
        let said = run(dir.path(), &args).await;
        said.expect(1, &[words]);
        assert_eq!(said.out, "", "nothing that could be taken for a token");
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), GOOD);
    std::fs::write(dir.path().join("key"), "0123456789abcdef0123456789abcdef").unwrap();
    let mint = ["token", "mint", "--key", "key", "--sub", "u"];
    for args in [&["check"][..], &["check", "--json"], &["routes"], &["version"], &mint] {
        // A pipe whose reader is gone before the command writes.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = millgate(dir.path(), args);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let said = Said::from(child.wait_with_output().await.unwrap());
        said.expect(0, &[]);
        assert!(!said.err.contains("panicked"), "{}", said.err);
        if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
            let mut command = millgate(dir.path(), args);
            let child = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
            Said::from(child.wait_with_output().await.unwrap()).expect(1, &["error: standard output"]);
        }
    }
}

#[tokio::test]
async fn a_gateway_goes_on_when_its_output_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &format!("drain: {{notice: 0s}}\n{GOOD}"));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = millgate(dir.path(), &["run", "--state-dir", "state"])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
    assert!(lines.by_ref().any(|line| line.unwrap().starts_with("admin")));
    drop(lines);
    let pid = child.id().unwrap().to_string();
    // Both make it write: the reload that it did, and the drain that it begins.
    for signal in ["-HUP", "-TERM"] {
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
    let exit = tokio::time::timeout(DEADLINE, child.wait()).await.unwrap().unwrap();
    assert_eq!(exit.code(), Some(0));
}

#[tokio::test]
async fn a_machine_without_authorities_can_do_without_a_proof_and_not_with_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("nobody.pem"), "").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let check = async |tls: &str| {
        let text = format!(
            "routes: [{{path: /a, service: a}}]\n\
             services: {{a: {{hosts: [\"127.0.0.1:9\"], protocol: https{tls}}}}}\n"
        );
        write_config(dir.path(), &text);
        let mut command = millgate(dir.path(), &["check"]);
        command.env("SSL_CERT_FILE", "nobody.pem").env("SSL_CERT_DIR", "empty");
        Said::from(command.output().await.unwrap())
    };
    check("")
        .await
        .expect(1, &["TLS with the service `a` cannot be set up", "no trusted certificate authority"]);
    check(", tls: {insecure: true}").await.expect(0, &[]);
}
