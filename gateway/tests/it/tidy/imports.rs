//! Reads which rooms a source file imports from: every path that begins with `crate::` or, through `super::`, at the top of
//! its crate. A room is what stands directly in `src`: a folder or a file.

use super::Source;

/// One import of another room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) line: usize,
    /// Modules from the top of the crate. The last segments may be names of items.
    pub(super) path: Vec<String>,
}

/// The modules from the top of the crate to the file; none for the root of the crate.
pub(super) fn module_of(source: &Source) -> Vec<String> {
    let (_, inside) = source.name.split_once("/src/").expect("a file of a crate's source");
    let inside = inside.strip_suffix(".rs").expect("a source file");
    let mut path: Vec<String> = inside.split('/').map(str::to_owned).collect();
    path.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    path
}

/// All imports of a file from its own crate.
pub(super) fn imports(source: &Source) -> Vec<Import> {
    let mut text = String::new();
    let mut line_starts = Vec::new();
    for (line, code) in source.code() {
        line_starts.push((text.len(), line));
        text.push_str(code);
        text.push('\n');
    }
    let line_at = |at: usize| line_starts[line_starts.partition_point(|(start, _)| *start <= at) - 1].1;
    let mut found = Vec::new();
    for prefix in ["crate::", "super::"] {
        for (at, _) in text.match_indices(prefix) {
            let is_inside = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if is_inside {
                continue;
            }
            let mut base = if prefix == "crate::" { Vec::new() } else { module_of(source) };
            let mut rest = &text[at + prefix.len()..];
            if prefix == "super::" {
                base.pop();
                while let Some(after) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = after;
                }
            }
            found.extend(tree(&base, rest).0.into_iter().map(|path| Import { line: line_at(at), path }));
        }
    }
    found
}

/// The paths of a use tree, and the text behind it: `a::b`, `{a, b::{c, d}}`.
fn tree<'a>(base: &[String], text: &'a str) -> (Vec<Vec<String>>, &'a str) {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        let mut paths = Vec::new();
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return (paths, after);
            }
            let (more, after) = tree(base, rest);
            paths.extend(more);
            let Some(end) = after.find([',', '}']) else { return (paths, "") };
            rest = after[end..].strip_prefix(',').unwrap_or(&after[end..]);
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = base.to_vec();
    if !name.is_empty() {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(rest) => tree(&path, rest),
        None => (vec![path], rest),
    }
}

#[test]
fn every_form_of_an_import_is_read() {
    let code = "use crate::a::{self, b::C, d::{E, F}};\nuse super::g::H;\nuse super::super::i;\nlet x = crate::j::k();\n\
                use other::crate::no;\nuse crate::{\n    l::M,\n    n,\n};\n";
    let lines = code.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect();
    let source = Source { name: "gateway/src/one/two.rs".to_owned(), lines };
    let read: Vec<(usize, String)> =
        imports(&source).into_iter().map(|import| (import.line, import.path.join("::"))).collect();
    let expected = [
        (1, "a::self"),
        (1, "a::b::C"),
        (1, "a::d::E"),
        (1, "a::d::F"),
        (4, "j::k"),
        (6, "l::M"),
        (6, "n"),
        (2, "one::g::H"),
        (3, "i"),
    ];
    assert_eq!(read, expected.map(|(line, path)| (line, path.to_owned())));
}
