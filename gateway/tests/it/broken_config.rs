//! Each `tests/config/broken/NAME.yaml` is refused (or warned about) with exactly the text of `NAME.txt`.
//!
//! The texts are what a user reads, so a change of one is a change to look at: `UPDATE_GOLDEN=1 cargo test` writes
//! them anew, and the difference goes into the review.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millgate::{cli::check::findings, config};

/// The environment that the files may refer to. `$SECRET` must never come out again.
fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some("correct horse battery staple".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn output_of(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let report = match config::parse(name, &text, Path::new("tests/config/broken"), &env) {
        Ok(loaded) => findings(&loaded),
        Err(report) => report,
    };
    format!("{report}\n")
}

fn files(extension: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/broken");
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

#[test]
fn every_broken_file_is_explained_as_its_golden_text_says() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let paths = files("yaml");
    assert!(paths.len() >= 20, "only {} broken files were found", paths.len());
    let mut different = Vec::new();
    for path in paths {
        let output = output_of(&path);
        assert!(!output.contains("correct horse"), "{} shows a secret:\n{output}", path.display());
        let golden = path.with_extension("txt");
        if update {
            fs::write(&golden, &output).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if output != expected {
            different.push(format!("--- {}\n{expected}\n+++ now\n{output}", golden.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_golden_text_belongs_to_a_broken_file() {
    for golden in files("txt") {
        assert!(golden.with_extension("yaml").exists(), "{} has no .yaml", golden.display());
    }
}
