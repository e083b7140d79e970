//! Consul's own command, unchanged: what it prints and how it ends is the same against either registry.

use std::path::PathBuf;
use std::process::Stdio;

use millgate_registry::testing::ConsulProcess;
use regex::Regex;
use tokio::process::Command;

use crate::backend::Backend;
use crate::support::PATIENCE;

/// In order: later commands see what earlier ones did.
const COMMANDS: &[&str] = &[
    "services register -name=cli -id=cli1 -port=80 -tag=a -meta=k=v -address=10.0.0.1",
    "catalog services -tags",
    "catalog nodes",
    "catalog nodes -service=cli",
    "catalog nodes -detailed",
    "catalog datacenters",
    "members",
    "members -detailed",
    "kv put cli/a one",
    "kv put -flags=7 cli/b two",
    "kv get cli/a",
    "kv get -detailed cli/b",
    "kv get -recurse cli/",
    "kv get -keys cli/",
    "kv get nope",
    "kv export cli/",
    "kv delete cli/a",
    "kv delete -recurse cli/",
    "maint -enable -service=cli1 -reason=broken",
    "maint",
    "maint -disable -service=cli1",
    "maint -enable -reason=all",
    "maint",
    "maint -disable",
    "lock -name=one cli/lock echo held",
    "lock -n=2 cli/semaphore echo held",
    "event -name=deploy now",
    "watch -type=services",
    "watch -type=service -service=cli",
    "watch -type=nodes",
    "watch -type=checks -state=passing",
    "watch -type=key -key=cli/none",
    "watch -type=keyprefix -prefix=cli/none/",
    "watch -type=event -name=deploy",
    "operator raft list-peers",
    "operator raft remove-peer -id=x",
    "operator raft remove-peer -address=127.0.0.1:9",
    "operator autopilot get-config",
    "members -status=failed",
    "catalog nodes -near=_agent",
    "catalog nodes -filter=bogus",
    "kv put -cas -modify-index=0 cli/new v",
    "kv put -cas -modify-index=0 cli/new v",
    "kv delete -cas -modify-index=1 cli/new",
    "kv get -datacenter=dc9 cli/new",
    "lock -child-exit-code cli/one false",
    "exec -wait=100ms true",
    "watch -type=event",
    "keyring -list",
    "acl bootstrap",
    "logout",
    "intention match web",
    "intention check a b",
    "config list -kind=service-defaults",
    "acl token list",
    "monitor -log-level=junk",
    "force-leave nobody",
    "services deregister -id=cli1",
    "services deregister -id=cli1",
    "catalog services",
];

#[tokio::test]
async fn consuls_command_prints_the_same_against_the_embedded_registry() {
    let Some(process) = ConsulProcess::start().await else { return };
    let embedded = Backend::embedded().await;
    let ports = process.ports().map(|port| port.to_string());
    let mut wrong = Vec::new();
    for command in COMMANDS {
        let mut theirs = run(process.binary(), &process.url(), command).await;
        for (port, name) in ports.iter().zip(["8500", "8300", "8301", "8302"]) {
            theirs = theirs.replace(port, name);
        }
        let ours = run(process.binary(), &embedded.url(), command).await;
        if theirs != ours {
            wrong.push(format!("consul {command}\n--- consul\n{theirs}\n--- embedded\n{ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), COMMANDS.len(), wrong.join("\n"));
    let info = run(process.binary(), &embedded.url(), "info").await;
    assert!(info.contains("services = 0") && info.contains("leader = true"), "{info}");
}

/// What it prints, and its exit code, without ids, indexes and the padding of columns.
async fn run(binary: PathBuf, url: &str, command: &str) -> String {
    let child = Command::new(binary)
        .args(command.split(' '))
        .env("CONSUL_HTTP_ADDR", url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, child).await.expect("the command ends").unwrap();
    let both = [output.stdout, output.stderr].concat();
    let mut text = format!("{:?} {}", output.status.code(), String::from_utf8_lossy(&both));
    for (pattern, plain) in [
        ("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "id"),
        // The beginning of a node's id, in a column.
        ("n1 +[0-9a-f]{8} ", "n1 id "),
        (r#"(Index"?:? +)[0-9]+"#, "${1}N"),
        (r#"("LTime": )[0-9]+"#, "${1}N"),
        (r"[ \t]+", " "),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, plain).into_owned();
    }
    text
}
