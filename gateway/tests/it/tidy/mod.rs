//! The house rules that a compiler does not check (docs/ARCHITECTURE.md, "Invariants").

mod duplicates;
mod floors;
mod imports;
mod indexing;
mod names;

use std::path::{Path, PathBuf};

/// What is not the data plane, relative to `gateway/src`; every other file is, and must follow the rules of the request path.
/// Each row has its reason.
const NOT_DATA_PLANE: [(&str, &str); 22] = [
    ("acme/", "orders certificates, in tasks beside the control loop"),
    ("auto_routes/", "runs in the control loop, when a catalog changes"),
    ("bounded_file.rs", "reads files for the control plane, from its own thread"),
    ("cli/", "the command, beside or before a gateway"),
    ("clock.rs", "the one place that reads a clock"),
    ("config/", "runs at start and at a reload"),
    ("control/", "the control loop and the admin listener, on a thread of their own"),
    ("declaration/", "runs in the control loop, when a catalog changes"),
    ("fuzzing/", "not a part of the product"),
    ("gateway.rs", "starts and stops a gateway"),
    ("gateway/", "starts and stops a gateway"),
    ("main.rs", "the command"),
    ("router/conflicts.rs", "compares routes, at start and at a reload"),
    ("router/path_cures.rs", "reads patterns of the configuration, at start and at a reload"),
    ("router/pattern.rs", "reads patterns of the configuration, at start and at a reload"),
    ("syntax/", "reads the configuration, at start and at a reload"),
    ("testing.rs", "not a part of the product"),
    ("tls/acme_report.rs", "tasks beside the control loop write it, the admin listener reads it"),
    ("tls.rs", "reads certificates, at start and at a reload"),
    ("token.rs", "the command `token`"),
    ("upstream/protocol/differential.rs", "not a part of the product"),
    ("world/", "belongs to the control loop"),
];

/// Decisions: pure, `now` and `rng` are arguments.
const PURE: [&str; 8] = [
    "admission/",
    "headers/",
    "message/",
    "policy/",
    "router/",
    "upstream/endpoint.rs",
    "upstream/load_balancer.rs",
    "upstream/split.rs",
];

const FILE_LINES_MAX: usize = 350;
/// Of tests and benches.
const TEST_FILE_LINES_MAX: usize = 400;
/// Files of tests that are longer; the list only shrinks.
const LONG_TEST_FILES: [&str; 3] =
    ["gateway/tests/it/commands.rs", "gateway/tests/it/declared_routes.rs", "gateway/tests/it/instances.rs"];
const FUNCTION_LINES_MAX: usize = 70;
/// Longer for a reason; the list only shrinks.
const LONG_FUNCTIONS: [(&str, &str); 1] = [("gateway/src/request/error.rs", "row")]; // the table: one arm per failure, and it must be one match

/// One source file: its name from the top of the repository, and its code without tests.
struct Source {
    name: String,
    /// Line number and text; comments and strings are still there.
    lines: Vec<(usize, String)>,
}

impl Source {
    fn is_of_tests(&self) -> bool {
        self.name.ends_with("/tests.rs") || self.name.contains("/tests/")
    }

    /// Whether the file may run for a request or a connection.
    fn is_of_the_data_plane(&self) -> bool {
        self.name.starts_with("gateway/src/") && !NOT_DATA_PLANE.iter().any(|(place, _)| self.is_in(&[place]))
    }

    fn is_in(&self, places: &[&str]) -> bool {
        self.name.strip_prefix("gateway/src/").is_some_and(|name| {
            places
                .iter()
                .any(|place| if place.ends_with('/') { name.starts_with(place) } else { name == *place })
        })
    }

    /// Lines of code: no blank lines, no comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().filter_map(|(at, line)| {
            let code = line.split("//").next().unwrap_or("").trim_end();
            (!code.trim().is_empty()).then_some((*at, code))
        })
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files of the product.
fn sources() -> Vec<Source> {
    let mut all = everything();
    all.retain(|source| !source.is_of_tests());
    assert!(all.len() > 40, "the rules look at the right folder");
    all
}

fn everything() -> Vec<Source> {
    let mut all = Vec::new();
    for package in ["gateway", "registry", "sample-services"] {
        for folder in ["src", "tests"] {
            let folder = root().join(package).join(folder);
            if folder.is_dir() {
                collect(&folder, &mut all);
            }
        }
    }
    all
}

fn collect(dir: &Path, out: &mut Vec<Source>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            // In files of the product, tests are last.
            let text = std::fs::read_to_string(&path).unwrap();
            let tests = text.lines().position(|line| line.starts_with("#[cfg(test)]")).unwrap_or(usize::MAX);
            let lines =
                text.lines().take(tests).enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect();
            out.push(Source { name, lines });
        }
    }
}

/// Fails with every place that is in `files` and has one of `words`.
fn forbid(rule: &str, words: &[&str], files: impl Fn(&Source) -> bool) {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| files(source)) {
        for (at, code) in source.code() {
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{at}: {}", source.name, code.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn listed_places_exist() {
    let all = sources();
    let places = NOT_DATA_PLANE.iter().map(|(place, _)| *place).chain(PURE);
    let gone: Vec<&str> = places.filter(|place| !all.iter().any(|source| source.is_in(&[place]))).collect();
    assert!(gone.is_empty(), "no file is at these places: {gone:?}");
}

#[test]
fn decisions_do_not_await() {
    forbid("a decision must not await", &[".await", "async fn"], |source| source.is_in(&PURE));
}

#[test]
fn clocks_are_read_only_in_clock_rs() {
    forbid(
        "read the clock in clock.rs and hand `now` in",
        &["Instant::now()", "SystemTime::now()"],
        Source::is_of_the_data_plane,
    );
}

/// Beside the other tests of a machine with two cores, nothing is sure to happen within such a time.
#[test]
fn times_of_less_than_a_second_are_promised_in_a_binary_of_their_own() {
    let mut found = Vec::new();
    let is_beside_others = |name: &str| name.contains("/tests/it/");
    for source in everything().iter().filter(|source| is_beside_others(&source.name)) {
        for (at, code) in source.code() {
            let bounds = code.split("elapsed() < Duration::from_millis(").skip(1);
            let mut numbers =
                bounds.filter_map(|rest| rest.split(')').next()?.replace('_', "").parse::<u32>().ok());
            if numbers.any(|ms| ms < 1000) {
                found.push(format!("{}:{at}: {}", source.name, code.trim()));
            }
        }
    }
    assert!(found.is_empty(), "belongs to `tests/timed` of the package:\n{}", found.join("\n"));
}

#[test]
fn randomness_comes_from_the_worker() {
    forbid("take `rng` as an argument", &["rand::rng()", "thread_rng", "rand::random"], |source| {
        // The worker seeds its generator once, at start.
        source.is_of_the_data_plane() && !source.is_in(&["worker/mod.rs"])
    });
}

#[test]
fn the_data_plane_takes_no_lock() {
    forbid("no lock in the data plane", &["Mutex", "RwLock"], Source::is_of_the_data_plane);
    forbid("a concurrent map only in the limiter's store", &["DashMap"], |source| {
        source.is_of_the_data_plane() && !source.is_in(&["policy/rate_limit/"])
    });
}

#[test]
fn local_replies_get_their_status_in_error_rs_only() {
    forbid("a status for the client comes from the table in error.rs", &["StatusCode::"], |source| {
        // Decisions compare statuses, and two answers are not errors: the admission table, and `OPTIONS *`.
        let decides = source.is_in(&[
            "admission/",
            "headers/",
            "policy/",
            "request/error.rs",
            "request/exchange.rs",
            "request/grpc.rs",
            "request/reply.rs",
            "upstream/protocol/",
        ]);
        source.is_of_the_data_plane() && !decides
    });
    let replies = sources().into_iter().find(|source| source.name == "gateway/src/request/reply.rs").unwrap();
    let used: Vec<String> = replies
        .code()
        .filter(|(_, code)| code.contains("StatusCode::"))
        .map(|(_, code)| code.trim().to_owned())
        .collect();
    assert_eq!(used, ["*response.status_mut() = StatusCode::NO_CONTENT;"], "only the answer to `OPTIONS *`");
}

#[test]
fn the_data_plane_does_not_panic() {
    forbid(
        "no panic in the data plane",
        &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!("],
        Source::is_of_the_data_plane,
    );
}

#[test]
fn the_data_plane_stays_on_its_core_and_off_the_disk() {
    let words = ["tokio::spawn", "spawn_blocking", "std::fs", "tokio::fs", "lookup_host", "ToSocketAddrs"];
    // The log writer is a thread of its own; opening its file is at start.
    forbid("no task on another core, no file, no name look-up", &words, |source| {
        source.is_of_the_data_plane() && !source.is_in(&["access_log/"])
    });
}

#[test]
fn every_file_says_what_it_promises() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.lines.first().is_none_or(|(_, line)| !line.starts_with("//!")))
        .map(|source| source.name)
        .collect();
    assert!(silent.is_empty(), "these files do not begin with `//!`: {silent:?}");
}

#[test]
fn files_and_functions_are_small() {
    let mut long = Vec::new();
    let products: Vec<String> = sources().into_iter().map(|source| source.name).collect();
    for source in everything() {
        let lines = source.code().count();
        let max = if products.contains(&source.name) { FILE_LINES_MAX } else { TEST_FILE_LINES_MAX };
        if lines > max && !LONG_TEST_FILES.contains(&source.name.as_str()) {
            long.push(format!("{}: {lines} lines of code", source.name));
        }
    }
    for source in sources() {
        for (name, lines) in functions(&source) {
            let excepted = LONG_FUNCTIONS.contains(&(source.name.as_str(), name.as_str()));
            if lines > FUNCTION_LINES_MAX && !excepted {
                long.push(format!("{}: fn {name} has {lines} lines of code", source.name));
            }
        }
    }
    assert!(long.is_empty(), "at most {FILE_LINES_MAX} and {FUNCTION_LINES_MAX}:\n{}", long.join("\n"));
}

/// Functions and their lines of code; rustfmt puts a function's closing brace at the indentation of its `fn`.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let mut functions = Vec::new();
    let mut open: Option<(String, usize, usize)> = None;
    for (_, code) in source.code() {
        let indent = code.len() - code.trim_start().len();
        if let Some((name, at, lines)) = &mut open {
            *lines += 1;
            if code.trim() == "}" && indent == *at {
                functions.push((name.clone(), *lines));
                open = None;
            }
        } else if let Some(rest) = code.split("fn ").nth(1)
            && code.trim_start().split("fn ").next().is_some_and(is_declaration)
            && !code.ends_with(['}', ';'])
        {
            let name = rest.split(['(', '<']).next().unwrap_or("").to_owned();
            open = Some((name, indent, 1));
        }
    }
    functions
}

/// What may stand before `fn`.
fn is_declaration(before: &str) -> bool {
    before
        .split_whitespace()
        .all(|word| ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe"].contains(&word))
}

#[test]
fn no_machine_no_marks_of_unfinished_work() {
    let mut found = Vec::new();
    for source in sources() {
        for (at, line) in &source.lines {
            if ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("].iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{at}: {line}", source.name));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
