//! What newcomers write: each case of `tests/config/wrong/*.md` is explained with exactly the text that stands below it, and the
//! cure that it names works.
//!
//! `UPDATE_GOLDEN=1 cargo test -p millgate --test it wrong_config` writes the texts anew; the difference is what a review looks at.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millgate::{
    cli::check::findings,
    config::{self, Diagnostic, Report, Severity},
};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// One heading with its two fenced blocks.
struct Case {
    place: String,
    yaml: String,
    golden: String,
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/wrong");
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn cases(path: &Path) -> Vec<Case> {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let block = |section: &str, kind: &str| {
        let after =
            section.split_once(&format!("```{kind}\n")).unwrap_or_else(|| panic!("{name}: {section}")).1;
        let end = after.find("```").unwrap();
        after[..end].to_owned()
    };
    let sections = text.split("\n## ").skip(1);
    sections
        .map(|section| Case {
            place: format!("{name}: {}", section.lines().next().unwrap_or_default()),
            yaml: block(section, "yaml"),
            golden: block(section, "text"),
        })
        .collect()
}

/// A folder with the files that the cases name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret.key"), "0123456789abcdef0123456789abcdef").unwrap();
    // RFC 8037, appendix A.2.
    let key =
        "{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}";
    fs::write(dir.path().join("keys.json"), format!("{{\"keys\": [{key}]}}")).unwrap();
    fs::write(dir.path().join("path"), "token").unwrap();
    let list = crate::support::authority::Authority::new()
        .revoke(&[], std::time::Duration::from_secs(4_000_000_000));
    fs::write(dir.path().join("revoked.pem"), list).unwrap();
    let authority = crate::support::authority::Authority::new().pem();
    fs::write(dir.path().join("clients.pem"), authority).unwrap();
    fs::create_dir(dir.path().join("logs")).unwrap();
    for (name, host, from, to) in [
        ("expired", "localhost", 2020, 2021),
        ("future", "localhost", 2098, 2099),
        ("cert", "localhost", 2020, 2099),
        ("twin", "localhost", 2020, 2099),
        ("nameless", "192.0.2.7", 2020, 2099),
    ] {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 2), date_time_ymd(to, 1, 2));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(dir.path().join(format!("{name}.pem")), pem).unwrap();
        fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    dir
}

fn report(yaml: &str, dir: &Path) -> Report {
    let env = |name: &str| {
        let known = [
            ("CONSUL_ADDR", "http://127.0.0.1:8500"),
            ("CONSUL_TOKEN", "t"),
            ("USERS_PATH", "/users/:hidden"),
            ("STRIP", "/hidden"),
            ("NETWORK", "16.0.0.0/4"),
            ("GATEWAY_HOST", "shop.example"),
        ];
        known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    match config::parse("routes.yaml", yaml, dir, &env) {
        Ok(loaded) => findings(&loaded),
        Err(report) => report,
    }
}

#[test]
fn every_wrong_configuration_is_explained_as_its_golden_text_says() {
    let dir = folder();
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let (mut count, mut different) = (0, Vec::new());
    for path in files() {
        let mut text = fs::read_to_string(&path).unwrap();
        for case in cases(&path) {
            count += 1;
            let output = format!("{}\n", report(&case.yaml, dir.path()));
            let shows = ["hidden", "16.0.0.0"].iter().any(|value| output.contains(value));
            assert!(!shows, "{} shows the value of a variable:\n{output}", case.place);
            if output == case.golden {
                continue;
            }
            let (old, new) = (
                format!("```yaml\n{}```\n\n```text\n{}```\n", case.yaml, case.golden),
                format!("```yaml\n{}```\n\n```text\n{output}```\n", case.yaml),
            );
            assert!(text.contains(&old), "{}: two blocks that follow each other", case.place);
            text = text.replacen(&old, &new, 1);
            different.push(format!("--- {}\n{}+++ now\n{output}", case.place, case.golden));
        }
        if update {
            fs::write(&path, text).unwrap();
        }
    }
    assert!(count >= 80, "only {count} cases were found");
    assert!(update || different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_finding_has_a_place_a_cause_and_a_cure() {
    let dir = folder();
    for case in files().iter().flat_map(|path| cases(path)) {
        let report = report(&case.yaml, dir.path());
        assert!(!report.diagnostics.is_empty(), "{}: nothing is found", case.place);
        for finding in &report.diagnostics {
            let place = &case.place;
            assert!(finding.span.line > 0, "{place}: no line: {finding:?}");
            let says_what = finding.help.is_some() || finding.label.starts_with("did you mean");
            assert!(says_what, "{place}: no cure: {finding:?}");
        }
    }
}

/// The files of `tests/config/broken`, too: many findings each, and in maps of one line.
fn broken() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/broken");
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    yaml.map(|path| Case {
        place: path.display().to_string(),
        yaml: fs::read_to_string(&path).unwrap(),
        golden: String::new(),
    })
    .collect()
}

/// Applies the advice of each finding, in each way in which a reader might, and checks that fewer findings are left.
#[test]
fn what_a_finding_says_to_write_is_accepted() {
    let dir = folder();
    let (mut tried, mut useless) = (0, Vec::new());
    for case in files().iter().flat_map(|path| cases(path)).chain(broken()) {
        let before = report(&case.yaml, dir.path());
        for finding in &before.diagnostics {
            let Some(written) = Written::of(finding) else { continue };
            tried += 1;
            let texts = written.in_place_of(finding, &case.yaml);
            let is_better = |text: &String| is_better(&report(text, dir.path()), &before);
            if !texts.iter().any(is_better) {
                let last = texts.last().map(|text| report(text, dir.path()));
                useless.push(format!("{}: {:?}\n{texts:#?}\n{last:?}", case.place, finding.help));
            }
        }
    }
    assert!(tried >= 60, "only {tried} cures were tried");
    println!("{tried} cures were tried");
    assert!(useless.is_empty(), "{} of {tried}:\n{}", useless.len(), useless.join("\n\n"));
}

fn is_better(now: &Report, before: &Report) -> bool {
    let errors = |report: &Report| {
        report.diagnostics.iter().filter(|finding| finding.severity == Severity::Error).count()
    };
    errors(now) < errors(before)
        || (errors(now) == errors(before) && now.diagnostics.len() < before.diagnostics.len())
}

/// The texts in "write `path: /users` and `host: shop.example`".
struct Written {
    first: String,
    /// Further fields of the same map.
    others: Vec<String>,
    /// "… at the top of the file".
    is_for_the_top: bool,
    /// "…, and at the top of the file …".
    top: Option<String>,
}

impl Written {
    fn of(finding: &Diagnostic) -> Option<Self> {
        let help = finding.help.as_deref()?;
        let mut rest = help.split_once("write `").or_else(|| help.split_once("write, for example, `"))?.1;
        let (first, after) = rest.split_once('`')?;
        rest = after;
        let mut others = Vec::new();
        while let Some((other, after)) = rest
            .strip_prefix(" and `")
            .or_else(|| rest.strip_prefix(", and `"))
            .and_then(|rest| rest.split_once('`'))
        {
            others.push(other.to_owned());
            rest = after;
        }
        let is_for_the_top = rest.starts_with(" at the top of the file");
        let top = rest.strip_prefix(", and at the top of the file `").and_then(|rest| rest.split_once('`'));
        let top = top.map(|(top, _)| top.to_owned());
        Some(Self { first: first.to_owned(), others, is_for_the_top, top })
    }

    /// The file with it: instead of the marked text, instead of the whole entry, or at the top.
    fn in_place_of(&self, finding: &Diagnostic, yaml: &str) -> Vec<String> {
        let lines: Vec<&str> = yaml.lines().collect();
        let at = usize::try_from(finding.span.line).unwrap() - 1;
        let column = usize::try_from(finding.span.column.max(1)).unwrap() - 1;
        let length = usize::try_from(finding.span.length.max(1)).unwrap();
        let line = lines[at];
        let chars: Vec<char> = line.chars().collect();
        let text = |range: std::ops::Range<usize>| {
            chars[range.start.min(chars.len())..range.end.min(chars.len())].iter().collect::<String>()
        };
        let rebuilt = |replaced: &[String], from: usize, to: usize| {
            let all = lines[..from].iter().map(|line| (*line).to_owned());
            let after = lines[to.min(lines.len())..].iter().map(|line| (*line).to_owned());
            all.chain(replaced.iter().cloned()).chain(after).collect::<Vec<_>>().join("\n") + "\n"
        };
        let key_column = line.len() - line.trim_start_matches([' ', '-']).len();
        let indent = " ".repeat(key_column);
        let further = self.others.iter().map(|other| format!("{indent}{other}"));
        let mut texts = Vec::new();
        // The marked text.
        let marked = format!("{}{}{}", text(0..column), self.first, text(column + length..chars.len()));
        texts.push(rebuilt(&std::iter::once(marked).chain(further.clone()).collect::<Vec<_>>(), at, at + 1));
        // The entry, with everything that is deeper.
        let is_deeper = |line: &&&str| line.len() - line.trim_start().len() > key_column;
        let end = at + 1 + lines[at + 1..].iter().take_while(is_deeper).count();
        let entry = format!("{}{}", &line[..key_column], self.first);
        let without = format!("{}name: r", &line[..key_column]);
        if self.is_for_the_top {
            let rest =
                rebuilt(if line.contains("- ") { std::slice::from_ref(&without) } else { &[] }, at, end);
            texts.push(rest.replacen('\n', &format!("\n{}\n", self.first), 1));
        }
        // The entry around it.
        let is_around = |line: &&str| line.len() - line.trim_start().len() < key_column.max(1);
        if let Some(parent) = lines[..at].iter().rposition(is_around) {
            texts.push(rebuilt(std::slice::from_ref(&self.first), parent, end.max(at + 1)));
            let to_the_end = lines[parent + 1..].iter().take_while(|line| line.starts_with(' ')).count();
            texts.push(rebuilt(std::slice::from_ref(&self.first), parent, parent + 1 + to_the_end));
            let depth = lines[parent].len() - lines[parent].trim_start().len();
            let is_inside = |line: &&&str| line.len() - line.trim_start().len() > depth;
            let inside = lines[parent + 1..].iter().take_while(is_inside).count();
            let whole = format!("{}{}", " ".repeat(depth), self.first);
            texts.push(rebuilt(&[whole], parent, parent + 1 + inside));
        }
        texts.push(rebuilt(&std::iter::once(entry).chain(further).collect::<Vec<_>>(), at, end));
        // The entry in a map of one line.
        let rest = text(column..chars.len());
        let end_of_entry = rest.find([',', '}']).unwrap_or(rest.len());
        let flow = format!("{}{}{}", text(0..column), self.first, &rest[end_of_entry..]);
        texts.push(rebuilt(&[flow], at, at + 1));
        // The same, where the value is marked.
        let before = text(0..column);
        let start = before.rfind(['{', ',']).map_or(0, |at| at + 1);
        let flow = format!("{} {}{}", &before[..start], self.first, &rest[end_of_entry..]);
        texts.push(rebuilt(&[flow], at, at + 1));
        // Beside the others of a list of one line.
        texts.push(yaml.replacen(line.trim_start_matches([' ', '-']), &self.first, 1));
        if let Some(top) = &self.top {
            let with_top: Vec<_> =
                texts.iter().map(|text| text.replacen('\n', &format!("\n{top}\n"), 1)).collect();
            texts.extend(with_top);
        }
        texts
    }
}
