//! YAML as a tree of nodes with their places.
//!
//! This module reads the parser's events itself instead of deserializing into structs, because serde stops at
//! the first error and a report has all of them. Anchors, aliases, merge keys, tags and several documents are
//! refused: `policies` replaces their usual purposes, and an alias can expand a small file into a huge one.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span as Mark, StrInput};

pub(crate) use super::node::{At, Entry, Node, Scalar, Value};
use super::{
    diagnostics::Diagnostics,
    environment::Environment,
    foreign_variables,
    report::{Diagnostic, Span, code},
    variables::{self, Expanded},
};

/// Reads one document. `None`: the text is not YAML, which is reported.
pub(crate) fn parse(text: &str, env: Environment<'_>, sink: &mut Diagnostics) -> Option<Node> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = NESTING_MAX;
    options.block_nesting_limit = NESTING_MAX;
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { parser, text, env, sink };
    match builder.document() {
        Ok(node) => Some(node),
        Err(error) => {
            let finding = syntax_error(&error, text);
            sink.push(finding);
            None
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    text: &'a str,
    env: Environment<'a>,
    sink: &'a mut Diagnostics,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, ScanError> {
        let mut root: Option<Node> = None;
        while let Some((event, mark)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd => {}
                event if root.is_some() => {
                    let node = self.node(event, mark)?;
                    self.refuse(node.span, "a second document (`---`)", "remove the `---` in front of it");
                }
                event => root = Some(self.node(event, mark)?),
            }
        }
        Ok(root.unwrap_or(Node { span: Span { line: 1, column: 1, length: 0 }, value: Value::Null }))
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Mark)>, ScanError> {
        self.parser.next_event().transpose()
    }

    fn node(&mut self, event: Event<'a>, mark: Mark) -> Result<Node, ScanError> {
        let span = span_of(mark);
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    self.refuse_anchor_or_tag(span)
                } else {
                    self.scalar(&text, style, span)
                }
            }
            Event::SequenceStart(_, anchor, tag) => {
                let mut items = Vec::new();
                while let Some((event, mark)) = self.next()?.filter(|(e, _)| *e != Event::SequenceEnd) {
                    items.push(self.node(event, mark)?);
                }
                if anchor != 0 || tag.is_some() {
                    self.refuse_anchor_or_tag(span)
                } else {
                    Value::List(items)
                }
            }
            Event::MappingStart(_, anchor, tag) => {
                let map = self.map()?;
                if anchor != 0 || tag.is_some() { self.refuse_anchor_or_tag(span) } else { map }
            }
            _ => self.refuse_anchor_or_tag(span),
        };
        // A block map has no mark of its own, so its place is that of its first key.
        let span = match &value {
            Value::Map(entries) if span.length == 0 => entries.first().map_or(span, |entry| entry.key.span),
            _ => span,
        };
        Ok(Node { span, value })
    }

    fn map(&mut self) -> Result<Value, ScanError> {
        let mut is_broken = false;
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Span> = HashMap::new();
        while let Some((event, mark)) = self.next()?.filter(|(e, _)| *e != Event::MappingEnd) {
            let key = self.key(event, mark)?;
            let Some((event, mark)) = self.next()? else { break };
            let value = self.node(event, mark)?;
            let Some(key) = key else {
                // The result of the merge is unknown, so this map cannot be checked any further.
                is_broken = true;
                continue;
            };
            if let Some(first) = seen.insert(key.value.clone(), key.span) {
                self.sink.push(
                    Diagnostic::error(
                        code::DUPLICATE_KEY,
                        key.span,
                        format!("`{}` is given twice", key.value),
                    )
                    .label("remove one of the two")
                    .related(first, "first given here"),
                );
                continue;
            }
            entries.push(Entry { key, value });
        }
        Ok(if is_broken { Value::Broken } else { Value::Map(entries) })
    }

    /// Reads a key. Keys are not expanded: variables are allowed in values only.
    fn key(&mut self, event: Event<'a>, mark: Mark) -> Result<Option<At<String>>, ScanError> {
        let span = span_of(mark);
        match event {
            Event::Scalar(text, _, 0, None) if text == "<<" => {
                self.refuse(span, "the merge key `<<`", POLICIES_INSTEAD);
                Ok(None)
            }
            Event::Scalar(text, _, 0, None) => Ok(Some(At { value: text.into_owned(), span })),
            event => {
                self.node(event, mark)?;
                self.refuse(span, "a key that is not plain text", "write `key: value`");
                Ok(None)
            }
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) -> Value {
        if style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            return Value::Null;
        }
        match variables::expand(text, self.env) {
            Ok(expanded) => {
                let Expanded { text: expanded, from_variable, hidden } = expanded;
                if !from_variable {
                    self.report_foreign_variable(text, span);
                }
                Value::Scalar(Scalar { text: expanded, from_variable, hidden })
            }
            Err(errors) => {
                for error in errors {
                    self.sink.push(error.diagnostic(span, self.text));
                }
                Value::Broken
            }
        }
    }

    /// Warns about a text that looks like a variable. It may be a valid value, and a field that refuses it
    /// reports an error.
    fn report_foreign_variable(&mut self, text: &str, span: Span) {
        if let Some(name) = foreign_variables::of_environment(text) {
            let message = format!("`{text}` is a text, not a variable");
            self.sink.push(
                Diagnostic::warning(code::TAKEN_AS_TEXT, span, message)
                    .label("taken as it is written")
                    .help(format!("write `${{{name}}}` for the environment variable")),
            );
        }
    }

    fn refuse_anchor_or_tag(&mut self, span: Span) -> Value {
        self.refuse(span, "an anchor (`&name`), alias (`*name`) or tag (`!name`)", POLICIES_INSTEAD);
        Value::Broken
    }

    fn refuse(&mut self, span: Span, what: &str, help: &str) {
        let message = format!("{what} is not supported in this file");
        self.sink.push(Diagnostic::error(code::YAML_FEATURE, span, message).help(help));
    }
}

fn span_of(mark: Mark) -> Span {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let is_one_line = mark.start.line() == mark.end.line();
    let length = if is_one_line { mark.end.col().saturating_sub(mark.start.col()) } else { 1 };
    Span { line: small(mark.start.line()), column: small(mark.start.col() + 1), length: small(length) }
}

/// The first tab in the indentation of this line, or of a later one.
fn first_tab(text: &str, line: usize) -> Option<Span> {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    text.lines().enumerate().skip(line - 1).find_map(|(at, source)| {
        let indent = &source[..source.len() - source.trim_start().len()];
        let column = indent.find('\t').filter(|_| !source.trim().is_empty())?;
        Some(Span { line: small(at + 1), column: small(column + 1), length: 1 })
    })
}

fn syntax_error(error: &ScanError, text: &str) -> Diagnostic {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let marker = error.marker();
    // The parser reports the end of the text one line past the last one, so the last line is shown.
    let line = marker.line().clamp(1, text.lines().count().max(1));
    let span = Span { line: small(line), column: small(marker.col() + 1), length: 1 };
    let source_line = text.lines().nth(line - 1).unwrap_or_default();
    let finding = Diagnostic::error(code::SYNTAX, span, format!("not valid YAML: {}", error.info()));
    // For a tab, the parser stops at the end of the line before it.
    if error.info().contains("tab")
        && let Some(span) = first_tab(text, line)
    {
        let finding = Diagnostic { span, ..finding };
        return finding.label("a tab").help("indent with spaces, not with tabs");
    }
    if source_line.contains("${") {
        finding.help("inside `{…}` and `[…]` a variable must be quoted: `\"${NAME}\"`")
    } else if source_line.contains("/{") {
        finding.help("inside `{…}` a path with `{name}` must be quoted: `path: \"/users/{id}\"`")
    } else if source_line.contains('\t') {
        finding.help("indent with spaces, not with tabs")
    } else if source_line.trim_start().contains(": *")
        || source_line.contains(": @")
        || source_line.contains(": `")
    {
        finding.help("a value that begins with `*`, `@` or a backtick must be quoted: `\"*.shop.example\"`")
    } else {
        finding.help("compare the indentation of this line with the lines around it, and look for an open quote or bracket")
    }
}

const POLICIES_INSTEAD: &str =
    "settings that several routes share belong into `policies` (and `use`) or `defaults`";
/// Deepest nesting; the format itself needs at most seven levels.
const NESTING_MAX: usize = 32;
