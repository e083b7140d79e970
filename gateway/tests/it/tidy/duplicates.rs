//! A crate stands in `Cargo.lock` in several versions only with a reason in `docs/DEPENDENCIES.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::root;

/// Names with their versions.
type Versions = BTreeMap<String, BTreeSet<String>>;

#[test]
fn a_crate_has_several_versions_only_with_a_reason() {
    let locked = locked(&fs::read_to_string(root().join("Cargo.lock")).unwrap());
    assert!(locked.len() > 100, "the lock file was read");
    let several: Versions = locked.into_iter().filter(|(_, versions)| versions.len() > 1).collect();
    let reasons = reasons(&fs::read_to_string(root().join("docs/DEPENDENCIES.md")).unwrap());
    for (name, versions) in &several {
        assert_eq!(
            reasons.get(name),
            Some(versions),
            "{name}: the lock file has these versions; the table in docs/DEPENDENCIES.md does not. Find out which crate \
             wants the older one, and whether it or its feature can go",
        );
    }
    for name in reasons.keys() {
        assert!(
            several.contains_key(name),
            "{name} has one version now; its row in docs/DEPENDENCIES.md can go"
        );
    }
}

fn locked(lock_file: &str) -> Versions {
    let mut versions = Versions::new();
    let mut name = None;
    for line in lock_file.lines() {
        let value = |key| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
        if let Some(value) = value("name") {
            name = Some(value.to_owned());
        } else if let (Some(version), Some(name)) = (value("version"), name.take()) {
            versions.entry(name).or_default().insert(version.to_owned());
        }
    }
    versions
}

/// Rows of the table that have a reason.
fn reasons(dependencies: &str) -> Versions {
    let (_, section) = dependencies
        .split_once("## Crates that `Cargo.lock` has in several versions")
        .expect("the section of that name is there");
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, versions, reason] = cells.as_slice() else { return None };
        let is_row = *name != "crate" && !reason.is_empty();
        is_row.then(|| (String::from(*name), versions.split(", ").map(str::to_owned).collect()))
    };
    section.lines().filter_map(row).collect()
}
