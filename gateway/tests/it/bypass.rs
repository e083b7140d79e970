//! Flask, Django, Starlette, Express, Node and Tomcat behind the gateway: whatever a path is written like, the handler of a closed
//! route runs for verified requests only, and the service sees no other token than the one that was verified.
//! `.ci/bypass-services` installs them; Tomcat is Debian's.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{
    DEADLINE,
    client::raw,
    gateway::TestGateway,
    tokens::{self, GOOD, WRONG},
};

/// Debian's `libtomcat10-embed-java`.
const TOMCAT: &str = "/usr/share/java/tomcat10-embed-core.jar";

/// Where the frameworks are; `None`: nowhere, and the test is skipped.
fn installed() -> Option<PathBuf> {
    let found = std::env::var_os("MILLGATE_BYPASS_SERVICES")
        .filter(|path| !path.is_empty() && Path::new(TOMCAT).is_file())
        .map(PathBuf::from);
    if found.is_none() {
        assert!(
            std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
            "no MILLGATE_BYPASS_SERVICES or no {TOMCAT}, and MILLGATE_REQUIRE_SERVERS=1 \
             (MILLGATE_BYPASS_SERVICES=\"$(.ci/bypass-services)\" and libtomcat10-embed-java are them)"
        );
        println!("skipped: no web frameworks in MILLGATE_BYPASS_SERVICES, or no Tomcat");
    }
    found
}

/// A service on one of the frameworks, and a gateway that guards its closed handlers.
struct Guarded {
    service: SocketAddr,
    gateway: TestGateway,
    _process: Child,
}

impl Guarded {
    async fn start(folder: &Path, name: &'static str) -> Self {
        let (program, arguments, ending): (_, &[&str], _) = match name {
            "express" | "node_url" => ("node", &[], "cjs"),
            // With the quick one of its two compilers it starts sooner.
            "tomcat" => ("java", &["-XX:TieredStopAtLevel=1", "-cp", TOMCAT], "java"),
            _ => ("python3", &[], "py"),
        };
        let file = format!("{name}_app.{ending}");
        let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "services", &file].iter().collect();
        let mut process = Command::new(program)
            .args(arguments)
            .arg(file)
            .env("PYTHONPATH", folder.join("python"))
            .env("NODE_PATH", folder.join("node/node_modules"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(3 * DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let port: u16 = line.strip_prefix("ready ").unwrap().trim().parse().unwrap();
        let service = SocketAddr::from(([127, 0, 0, 1], port));

        // What Express takes for one path, its routes take, too.
        let lenient =
            if name == "express" { "defaults: {case_insensitive: true, trailing_slash: same}\n" } else { "" };
        let config = format!(
            "auth:\n  main: {{hs256_secret_file: secret.key, audience: api, forward: {{sub: X-User-Id}}, \
             from: [bearer, \"query:access_token\", \"cookie:session\"]}}\n{lenient}routes:\n  \
             - {{path: /**, service: one, auth: none, allow_in_path: [encoded_slash, encoded_percent, double_slash, raw]}}\n  \
             - {{path: /@me, service: one, auth: main}}\n  \
             - {{path: \"/v1/things:purge\", service: one, auth: main}}\n  \
             - {{path: /admin/**, service: one, auth: main}}\nservices: {{one: {{hosts: [\"{service}\"], breaker: off}}}}\n"
        );
        Self { service, gateway: TestGateway::start_in(tokens::folder(), &config).await, _process: process }
    }

    fn token(&self, key: &str, subject: &str) -> String {
        tokens::token(self.gateway.dir.path(), key, subject)
    }
}

/// Which handler answered, and what it saw: tokens in query, cookie and header, then the user's name twice.
async fn ask(addr: SocketAddr, method: &str, target: &str, fields: &str) -> Option<Vec<String>> {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nContent-Length: 0\r\n{fields}\r\n"
    );
    let (answer, _) = raw(addr, &[request.as_bytes()], false, DEADLINE).await;
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().find(|line| line.starts_with("closed|") || line.starts_with("open|"))?;
    Some(line.split('|').map(str::to_owned).collect())
}

fn is_closed(seen: Option<&Vec<String>>) -> bool {
    seen.is_some_and(|seen| seen[0] == "closed")
}

/// Ways to write a path that some service takes for it.
fn spellings(path: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (mut whole, mut whole_twice) = (String::new(), String::new());
    for (at, c) in path.char_indices() {
        let octet = u32::from(c);
        if c == '/' {
            whole.push(c);
            whole_twice.push(c);
        } else {
            let _ = write!(whole, "%{octet:02X}");
            let _ = write!(whole_twice, "%25{octet:02X}");
        }
        let (before, after) = (&path[..at], &path[at + 1..]);
        for written in [
            format!("%{octet:02x}"),
            format!("%{octet:02X}"),
            format!("%25{octet:02X}"),
            format!("%u{octet:04x}"),
            c.to_ascii_uppercase().to_string(),
        ] {
            all.push(format!("{before}{written}{after}"));
        }
    }
    all.extend([whole, whole_twice, path.to_ascii_uppercase()]);
    for end in [
        "",
        "/",
        "//",
        "/.",
        "/./",
        "/%2e",
        ";",
        ";x",
        ";x=1/",
        "%3B",
        "%3bx",
        "%3Bx/",
        ".json",
        ".",
        "%20",
        "%09",
        "%00",
        "%0a",
        "%2F",
        "%2f",
        "%5C",
        "\\",
        "?",
        "?x",
        "%3F",
        "#",
        "#x",
        "%23",
        "+",
        "/x/..",
        "/x/%2e%2e",
        "/..;/x",
        "/*",
        "%2A",
    ] {
        all.push(format!("{path}{end}"));
    }
    for start in [
        "/",
        "//",
        "/.",
        "/./",
        "/x/..",
        "/x/%2E%2e",
        "/x/..;",
        "//x",
        "///x",
        "/%2Fx",
        "//u@x:1",
        "/%2e",
        "/;",
        "/;x",
        "/%3B",
        "/%2F",
        "/\\",
        "/%5C",
        "http://gw",
        "http://gw/",
        "HTTP://GW",
        "%2F",
        "/%20",
        "/?",
        "/#",
    ] {
        all.push(format!("{start}{path}"));
    }
    all.push(path.replacen('/', "/%2F", 1));
    all.push(path.replacen('@', "%EF%BC%A0", 1));
    all.push(path.replacen('@', "%C1%80", 1));
    all.push(path.replacen("/users", "//users", 1));
    all.push(path.replacen("/users", ";x/users", 1));
    all.push(path.replacen("/users", "%3Bx/users", 1));
    all.push(path.replacen("/users", "%2Fusers", 1));
    all.sort();
    all.dedup();
    all
}

async fn no_spelling_runs_a_closed_handler(folder: &Path, name: &'static str, known: &[&str]) {
    let guarded = Guarded::start(folder, name).await;
    let mut effective = Vec::new();
    for path in ["/@me", "/v1/things:purge", "/admin", "/admin/users"] {
        let method = if path.contains("purge") { "POST" } else { "GET" };
        let bearer = format!("Authorization: Bearer {}\r\n", guarded.token(GOOD, "ann"));
        let verified = ask(guarded.gateway.http, method, path, &bearer).await.expect("an answer");
        assert_eq!((verified[0].as_str(), verified[4].as_str()), ("closed", "ann"), "{name} {path}");
        for target in spellings(path) {
            let seen = ask(guarded.gateway.http, method, &target, "").await;
            assert!(!is_closed(seen.as_ref()), "{name} runs the closed handler of {method} {target}");
            if is_closed(ask(guarded.service, method, &target, "").await.as_ref()) {
                effective.push(target);
            }
        }
    }
    // Without a gateway many of them do run it, so they are worth trying.
    for target in known {
        assert!(effective.iter().any(|other| other == target), "{name} and {target}: {effective:?}");
    }
    println!("{name}: {} spellings run a closed handler without a gateway", effective.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_closed_path_runs_its_handler_without_a_token() {
    let Some(folder) = installed() else { return };
    let decoded = ["/%40me", "/v1/things%3Apurge", "/%40%6D%65", "/%61dmin/users"];
    tokio::join!(
        no_spelling_runs_a_closed_handler(&folder, "flask", &decoded),
        no_spelling_runs_a_closed_handler(&folder, "django", &decoded),
        no_spelling_runs_a_closed_handler(&folder, "starlette", &decoded),
        no_spelling_runs_a_closed_handler(
            &folder,
            "express",
            &["/@ME", "/@me/", "/V1/THINGS:PURGE", "/ADMIN"]
        ),
        no_spelling_runs_a_closed_handler(&folder, "node_url", &["/%40me", "//x/admin/users", "///x/@me"]),
        // A proxy before it that decodes makes `/admin;x/users` of `/admin%3Bx/users`.
        no_spelling_runs_a_closed_handler(
            &folder,
            "tomcat",
            &["/%40me", "/%61dmin/users", "/@me;x", "/admin;x/users", "/;x/admin/users"]
        ),
    );
}

/// GOOD is verified; ROOT, which is not, must not reach the handler of a request that is let through.
async fn no_other_token_is_seen(folder: &Path, framework: &'static str) {
    let guarded = Guarded::start(folder, framework).await;
    let (good, root) = (guarded.token(GOOD, "ann"), guarded.token(WRONG, "root"));
    let names = [
        "access_token",
        "access%5Ftoken",
        "%61ccess_token",
        "Access_Token",
        "access.token",
        "access_token%20",
        "+access_token",
        "access_token[]",
        "access_token%5B%5D",
        "access_token%00",
    ];
    let mut rows: Vec<(String, String)> = Vec::new();
    for name in names {
        rows.push((format!("access_token=GOOD&{name}=ROOT"), String::new()));
        rows.push((format!("{name}=ROOT&access_token=GOOD"), String::new()));
        rows.push((format!("access_token=GOOD;{name}=ROOT"), String::new()));
        rows.push((format!("{name}=ROOT"), "Authorization: Bearer GOOD\r\n".into()));
        rows.push((format!("{name}=ROOT"), "Cookie: session=GOOD\r\n".into()));
    }
    for cookie in [
        "session=GOOD; session=ROOT",
        "session=ROOT; session=GOOD",
        "session =ROOT; session=GOOD",
        "session=GOOD; session =ROOT",
        "session=GOOD;session\t=ROOT",
        "session=GOOD, session=ROOT",
        "x=1 session=ROOT; session=GOOD",
        "session=\"ROOT\"; session=GOOD",
        "s%65ssion=ROOT; session=GOOD",
        "SESSION=ROOT; session=GOOD",
        "session=GOOD; \"session\"=ROOT",
    ] {
        rows.push((String::new(), format!("Cookie: {cookie}\r\n")));
        rows.push((
            String::new(),
            format!("Cookie: {}\r\nAuthorization: Bearer GOOD\r\n", cookie.replace("GOOD", "")),
        ));
    }
    for authorization in
        ["Bearer\tROOT", "Bearer \tROOT", "bearer ROOT", "Bearer\u{a0}ROOT", "BEARER  ROOT", "Bearer ROOT x"]
    {
        rows.push(("access_token=GOOD".into(), format!("Authorization: {authorization}\r\n")));
        rows.push((String::new(), format!("Cookie: session=GOOD\r\nAuthorization: {authorization}\r\n")));
    }
    for name in ["X-User-Id", "X_User_Id", "X!User!Id", "x.user.id", "X'User`Id", "X-User_Id"] {
        rows.push(("access_token=GOOD".into(), format!("{name}: root\r\n")));
    }
    let mut passed = 0;
    for (query, fields) in &rows {
        let fill = |text: &String| text.replace("GOOD", &good).replace("ROOT", &root);
        let Some(seen) =
            ask(guarded.gateway.http, "GET", &format!("/@me?{}", fill(query)), &fill(fields)).await
        else {
            continue;
        };
        passed += 1;
        let shown: Vec<String> =
            seen.iter().map(|text| text.replace(&good, "GOOD").replace(&root, "ROOT")).collect();
        let tokens_are_good = shown[1..4].iter().all(|token| token.is_empty() || token == "GOOD");
        let names_are_good = shown[4..].iter().all(|name| name.is_empty() || name == "ann");
        assert!(tokens_are_good && names_are_good, "{framework}: ?{query} {fields:?} sees {shown:?}");
    }
    // All look-alikes of the name, at least, are let through without it.
    assert!(passed >= 6, "{framework}: {passed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sees_no_token_and_no_name_that_was_not_verified() {
    let Some(folder) = installed() else { return };
    tokio::join!(
        no_other_token_is_seen(&folder, "flask"),
        no_other_token_is_seen(&folder, "django"),
        no_other_token_is_seen(&folder, "starlette"),
        no_other_token_is_seen(&folder, "express"),
        no_other_token_is_seen(&folder, "tomcat"),
    );
}
