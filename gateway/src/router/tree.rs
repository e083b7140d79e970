//! The paths of one host: a tree of segments, its nodes in one vector.
//!
//! Children are visited most specific first, and a node's own routes before its subtree's, so the routes come out in
//! the order of [`super::Precedence`]. Each node is visited at most once; the depth of the recursion is that of the
//! longest configured pattern, whatever the request's path is.

use std::ops::ControlFlow;

use super::{
    Map,
    precedence::{Segment, without_parameters},
};

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: Map<Box<str>, usize>,
    named: Option<usize>,
    star: Option<usize>,
    /// Routes that end here, most specific first.
    routes: Vec<usize>,
    /// Routes with `**` here, most specific first.
    subtree: Vec<usize>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Tree {
    /// Within one node, routes must be inserted most specific first.
    pub(super) fn insert(&mut self, pattern: &[Segment], route: usize) {
        let mut at = ROOT;
        for segment in pattern {
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text.clone()).or_insert(new),
                Segment::Named => *node.named.get_or_insert(new),
                Segment::Star => *node.star.get_or_insert(new),
                Segment::Subtree => {
                    node.subtree.push(route);
                    return;
                }
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].routes.push(route);
    }

    /// Shows `visit` the routes of each pattern that matches `path`, most specific first, until it breaks.
    pub(super) fn visit_matching<B>(
        &self,
        path: &str,
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.descend(ROOT, Some(path.strip_prefix('/').unwrap_or(path)), visit)
    }

    /// `rest` is what follows the slash after the segments so far; `None` is the path's end.
    fn descend<B>(
        &self,
        at: usize,
        rest: Option<&str>,
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.nodes[at];
        match rest {
            None => show(&node.routes, visit)?,
            Some(rest) => {
                let (segment, rest) = match memchr::memchr(b'/', rest.as_bytes()) {
                    Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
                    None => (rest, None),
                };
                let segment = without_parameters(segment);
                if let Some(&child) = node.literals.get(segment) {
                    self.descend(child, rest, visit)?;
                }
                for &child in [node.named, node.star].iter().flatten().filter(|_| !segment.is_empty()) {
                    self.descend(child, rest, visit)?;
                }
            }
        }
        show(&node.subtree, visit)
    }

    /// Shows `visit` the routes of each pattern that matches every path which `pattern` matches.
    pub(super) fn visit_covering<B>(
        &self,
        pattern: &[Segment],
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.descend_covering(ROOT, pattern, visit)
    }

    fn descend_covering<B>(
        &self,
        at: usize,
        pattern: &[Segment],
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.nodes[at];
        match pattern.split_first() {
            None => show(&node.routes, visit)?,
            Some((Segment::Subtree, _)) => {}
            Some((segment, rest)) => {
                let literal = match segment {
                    Segment::Literal(text) => node.literals.get(text).copied(),
                    _ => None,
                };
                let one = [node.named, node.star];
                let not_empty = !matches!(segment, Segment::Literal(text) if text.is_empty());
                for child in literal.into_iter().chain(one.into_iter().flatten().filter(|_| not_empty)) {
                    self.descend_covering(child, rest, visit)?;
                }
            }
        }
        show(&node.subtree, visit)
    }
}

fn show<B>(routes: &[usize], visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>) -> ControlFlow<B> {
    if routes.is_empty() { ControlFlow::Continue(()) } else { visit(routes) }
}

const ROOT: usize = 0;
