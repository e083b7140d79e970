//! Help for fields as other gateways name them: our field, or that Millgate has none.
//!
//! The table is `foreign_words.txt`: one line for the words that mean one thing in one kind of map. The table is used
//! before any guess about spelling. Tests load every example of the table as a file, and compare the
//! table with docs/FROM-OTHER-GATEWAYS.md, which is made from it.

use std::sync::LazyLock;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Word {
    /// The kind of map that contains the words: `route`, `service`, `retry`.
    place: &'static str,
    theirs: Vec<&'static str>,
    products: &'static str,
    cure: Cure,
    why: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    /// Fields for the same map.
    Here(&'static str),
    /// A section of the file.
    AtTheTop(&'static str),
    NotThere,
}

/// The line of the table for a key of the map that `what` names (`Known::what`) and whose fields are `fields`.
/// `None`: the table does not contain the key.
pub(crate) fn find(what: &str, fields: &[&str], key: &str) -> Option<&'static Word> {
    let (place, key) = (place_of(what), folded(key));
    let is_it = |word: &&Word| word.place == place && word.theirs.iter().any(|theirs| folded(theirs) == key);
    // `defaults` and policies have most fields of a route.
    let fits = |word: &&Word| word.field().is_none_or(|field| fields.contains(&field));
    TABLE.iter().filter(is_it).find(fits)
}

impl Word {
    /// The field of the same map with the same meaning.
    pub(crate) fn field(&self) -> Option<&'static str> {
        match self.cure {
            Cure::Here(example) => example.split(':').next(),
            Cure::AtTheTop(_) | Cure::NotThere => None,
        }
    }

    /// All fields of the same map with this meaning, with example values.
    pub(crate) fn fields(&self) -> Option<&'static str> {
        match self.cure {
            Cure::Here(example) => Some(example),
            Cure::AtTheTop(_) | Cure::NotThere => None,
        }
    }

    /// The field with an example value, if it is a single field.
    pub(crate) fn example(&self) -> Option<&'static str> {
        self.fields().filter(|example| !example.contains(" & "))
    }

    /// The label beside the marked word.
    pub(crate) fn label(&self) -> String {
        let whose = match self.products {
            several if several.contains(" and ") || several.contains("other") => String::new(),
            one => format!("a word of {one}; "),
        };
        match self.cure {
            Cure::Here(_) => format!("{whose}here it is `{}`", self.field().unwrap_or_default()),
            Cure::AtTheTop(example) => {
                format!("{whose}here it is in `{}`", example.split(':').next().unwrap_or_default())
            }
            Cure::NotThere => format!("{whose}Millgate has no such field"),
        }
    }

    /// The help. `theirs` is our field with the value that the file has, if it can be carried over.
    pub(crate) fn help(&self, theirs: Option<String>) -> String {
        match self.cure {
            Cure::Here(example) => {
                let fields: Vec<String> = example.split(" & ").map(|field| format!("`{field}`")).collect();
                match theirs {
                    Some(theirs) => format!("{theirs}: {}", self.why),
                    None => format!("write, for example, {}: {}", fields.join(" and "), self.why),
                }
            }
            Cure::AtTheTop(example) => {
                format!("write, for example, `{example}` at the top of the file: {}", self.why)
            }
            Cure::NotThere => self.why.to_owned(),
        }
    }
}

/// The bare name in "a route", "`listen.https`" or "the file".
fn place_of(what: &str) -> &str {
    let bare = ["an ", "a ", "the "].iter().find_map(|article| what.strip_prefix(article)).unwrap_or(what);
    match bare.trim_matches('`') {
        "defaults" | "policy" => "route",
        place => place,
    }
}

/// `stripPrefix`, `strip_prefix` and `Strip-Prefix` are one word.
fn folded(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).map(|c| c.to_ascii_lowercase()).collect()
}

static TABLE: LazyLock<Vec<Word>> = LazyLock::new(|| read(include_str!("foreign_words.txt")));

/// Reads the table. A line in another form is left out; a test counts the lines.
fn read(text: &'static str) -> Vec<Word> {
    let mut place = "";
    let mut words = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            place = name;
            continue;
        }
        let mut cells = line.split(" | ");
        let (Some(theirs), Some(products), Some(cure), Some(why), None) =
            (cells.next(), cells.next(), cells.next(), cells.next(), cells.next())
        else {
            continue;
        };
        let cure = match cure {
            "-" => Cure::NotThere,
            _ => cure.strip_prefix("^ ").map_or(
                if place == "file" { Cure::AtTheTop(cure) } else { Cure::Here(cure) },
                Cure::AtTheTop,
            ),
        };
        words.push(Word { place, theirs: theirs.split_whitespace().collect(), products, cure, why });
    }
    words
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fmt::Write as _, fs, path::Path};

    use super::*;
    use crate::config::{load::parse, raw};

    #[test]
    fn every_line_of_the_table_is_understood() {
        let lines = include_str!("foreign_words.txt").lines();
        let rows = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '[']));
        assert_eq!(TABLE.len(), rows.count());
        assert!(TABLE.len() > 150);
    }

    #[test]
    fn no_word_of_the_table_is_a_field_of_ours_or_stands_there_twice() {
        let mut seen = HashSet::new();
        for known in raw::maps() {
            for field in known.fields {
                let found = find(known.what, known.fields, field);
                let is_ours = found
                    .is_some_and(|word| word.theirs.iter().any(|theirs| folded(theirs) == folded(field)));
                assert!(!is_ours, "`{field}` of {} is ours", known.what);
            }
        }
        for word in TABLE.iter() {
            let fields =
                raw::maps().into_iter().find(|known| place_of(known.what) == word.place).map(|k| k.fields);
            let fields = fields.unwrap_or_else(|| panic!("there is no map `{}`", word.place));
            if let Some(field) = word.field() {
                assert!(fields.contains(&field), "`{field}` is no field of {}", word.place);
            }
            for theirs in &word.theirs {
                let twice = !seen.insert((word.place, folded(theirs)));
                assert!(!twice, "`{theirs}` of {} stands there twice", word.place);
            }
        }
    }

    /// A file that contains the example of a word.
    fn file_with(word: &Word) -> Option<String> {
        let (place, example) = match word.cure {
            Cure::NotThere => return None,
            Cure::AtTheTop(example) => ("file", example),
            Cure::Here(example) => (word.place, example),
        };
        let example = &example.replace(" & ", ", ");
        let route = |inner: &str| {
            let path = if inner.starts_with("path:") { "" } else { "path: /a, " };
            let service =
                if inner.contains("service:") || inner.contains("redirect:") { "" } else { "service: s, " };
            format!("routes: [{{{path}{service}{inner}}}]\n")
        };
        let plain = route("name: r");
        let service = |inner: &str| format!("services: {{s: {{{inner}}}}}\n{plain}");
        let body = match place {
            "file" if example.starts_with("routes:") && !example.contains("require:") => {
                format!("{example}\n")
            }
            "file" if example.starts_with("routes:") => format!(
                "auth: {{main: {{issuer: \"https://i.example\", audience: a}}}}\ndefaults: {{auth: main}}\n{example}\n"
            ),
            "file" if example.starts_with("auth:") => format!("{example}\ndefaults: {{auth: main}}\n{plain}"),
            "file" => format!("{example}\n{plain}"),
            "listen" => format!("listen: {{{example}}}\n{plain}"),
            "route" if example.starts_with("auth: ") || example.starts_with("require: ") => {
                let auth = if example.starts_with("auth: ") { "" } else { "auth: main, " };
                let provider = "auth: {main: {issuer: \"https://i.example\", audience: a}}";
                format!("{provider}\n{}", route(&format!("{auth}{example}")))
            }
            "route" => format!("policies: {{strict: {{rate_limit: 20/s}}}}\n{}", route(example)),
            "service" => service(example),
            "breaker" | "outlier" | "pool" => service(&format!("{place}: {{{example}}}")),
            "tls" => service(&format!("protocol: https, tls: {{{example}}}")),
            "rate_limit" if !example.contains("rate:") => {
                route(&format!("rate_limit: {{rate: 100/s, {example}}}"))
            }
            "listen.https" => {
                let all = [
                    "bind: \"0.0.0.0:8443\"",
                    "cert_file: cert.pem",
                    "key_file: key.pem",
                    "client_ca_file: clients.pem",
                ];
                let field = example.split(':').next().unwrap();
                let others =
                    all.iter().filter(|one| !one.starts_with(field)).copied().collect::<Vec<_>>().join(", ");
                format!("listen: {{https: {{{example}, {others}}}}}\n{plain}")
            }
            "auth provider" => {
                let has_keys = ["issuer:", "jwks", "_file:"].iter().any(|word| example.contains(word));
                let issuer = if has_keys { "" } else { ", issuer: \"https://i.example\"" };
                let audience = if example.contains("audience:") { "" } else { ", audience: a" };
                let example = format!("{example}{issuer}{audience}");
                format!("auth: {{main: {{{example}}}}}\ndefaults: {{auth: main}}\n{plain}")
            }
            "header rules" => route(&format!("headers: {{request: {{{example}}}}}")),
            "require" => format!(
                "auth: {{main: {{issuer: \"https://i.example\", audience: a}}}}\n{}",
                route(&format!("auth: main, require: {{{example}}}"))
            ),
            "cors" if !example.contains("origins:") => {
                route(&format!("cors: {{origins: [\"https://app.example\"], {example}}}"))
            }
            "cors" | "rate_limit" | "timeout" | "retry" | "rewrite" | "headers" => {
                route(&format!("{place}: {{{example}}}"))
            }
            "discovery.consul" => format!(
                "discovery: {{consul: {{{example}}}}}\nauth: {{main: {{issuer: \"https://i.example\", audience: a}}}}\n\
                 defaults: {{auth: main}}\n{plain}"
            ),
            _ => format!("{place}: {{{example}}}\n{plain}"),
        };
        Some(format!("version: 1\n{body}"))
    }

    #[test]
    fn every_example_of_the_table_loads() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "cert.pem",
            "key.pem",
            "a.pem",
            "a.key",
            "clients.pem",
            "revoked.pem",
            "tickets",
            "ca.pem",
            "jwks.json",
            "issuer.pem",
            "consul.token",
        ];
        for name in files {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::write(dir.path().join("secret.key"), "0123456789abcdef0123456789abcdef").unwrap();
        let wrong = TABLE.iter().filter_map(|word| {
            let text = file_with(word)?;
            let report = parse("routes.yaml", &text, dir.path(), &|_| None).err()?;
            Some(format!("{} of {}:\n{report}", word.theirs[0], word.place))
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    /// The table as a page.
    fn page() -> String {
        let mut page = String::from(HEAD);
        let mut place = "";
        for word in TABLE.iter() {
            if word.place != place {
                place = word.place;
                let title = match place {
                    "file" => "At the top of the file".to_owned(),
                    "route" => "In a route, a policy or `defaults`".to_owned(),
                    "service" | "auth provider" => format!("In {place}s")
                        .replace("In services", "In a service")
                        .replace("In auth providers", "In an auth provider"),
                    _ => format!("In `{place}`"),
                };
                write!(page, "\n## {title}\n\n| Elsewhere | Of | Here | |\n|---|---|---|---|\n").unwrap();
            }
            let theirs: Vec<String> = word.theirs.iter().map(|theirs| format!("`{theirs}`")).collect();
            let ours = match word.cure {
                Cure::Here(example) => format!("`{}`", example.replace(" & ", "`, `")),
                Cure::AtTheTop(example) if place == "file" => format!("`{example}`"),
                Cure::AtTheTop(example) => format!("at the top: `{example}`"),
                Cure::NotThere => "not there".to_owned(),
            };
            let cells = [theirs.join(", "), word.products.to_owned(), ours, word.why.to_owned()];
            writeln!(page, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")).unwrap();
        }
        page
    }

    const HEAD: &str = "# Coming from another gateway\n\n\
        Words of other gateways, and the fields of `routes.yaml` with the same meaning. `millgate check` recognises these words, too, and names ours\n\
        at their place; a whole file of another product is recognised by its first keys. A test loads every example of this page.\n\
        This page is made from `gateway/src/config/advice/foreign_words.txt`: `UPDATE_GOLDEN=1 cargo test -p millgate --lib foreign_words` writes it.\n";

    #[test]
    fn the_page_of_the_documentation_is_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/FROM-OTHER-GATEWAYS.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, page()).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page(), "docs/FROM-OTHER-GATEWAYS.md is not what the table says");
    }
}
