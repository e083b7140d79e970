//! The paths of one host: a tree of segments, with its nodes in one vector.
//!
//! With many routes, a lookup does not find its route in the processor's cache, so it reads little memory: a node is
//! smaller than a cache line, the nodes of one pattern are neighbours, and patterns share equal texts.
//!
//! Children are visited most specific first, and a node's own routes before its subtree's, so the routes come in the
//! order of [`super::Precedence`]. Each node is visited at most once. The depth of the recursion is that of the
//! longest configured pattern, and does not depend on the request's path.

use std::{num::NonZero, ops::ControlFlow, sync::Arc};

use super::{Map, precedence::Segment, reading::without_parameters};
use crate::interner::Interner;

/// The path patterns of one host, with their routes.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The routes of all nodes. A `List` is a part of it.
    lists: Vec<usize>,
}

#[derive(Debug, Default)]
struct Node {
    literals: Literals,
    named: Option<Child>,
    star: Option<Child>,
    /// Routes that end here, most specific first.
    routes: List,
    /// Routes that have `**` here, most specific first.
    subtree: List,
}

/// The index of a node that is not the root.
type Child = NonZero<u32>;

/// Children by index, with their texts. Most nodes far from the root have one child, which needs no hash.
#[derive(Debug, Default)]
enum Literals {
    #[default]
    None,
    One(Arc<str>, Child),
    Many(Box<Map<Arc<str>, Child>>),
}

/// A part of [`Tree::lists`].
#[derive(Debug, Default, Clone, Copy)]
struct List {
    start: u32,
    end: u32,
}

impl List {
    fn push(&mut self, lists: &mut Vec<usize>, route: usize) {
        // Usually the routes of a node are inserted one after the other.
        if self.end as usize != lists.len() {
            let start = lists.len();
            lists.extend_from_within(self.start as usize..self.end as usize);
            (self.start, self.end) = (small(start), small(lists.len()));
        }
        lists.push(route);
        self.end += 1;
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], lists: Vec::new() }
    }
}

impl Literals {
    fn get(&self, segment: &str) -> Option<Child> {
        match self {
            Self::None => None,
            Self::One(text, child) => (**text == *segment).then_some(*child),
            Self::Many(children) => children.get(segment).copied(),
        }
    }

    /// The child of `text`. If there is none, it becomes `new`.
    fn child(&mut self, text: Arc<str>, new: Child) -> Child {
        match self {
            Self::None => {
                *self = Self::One(text, new);
                new
            }
            Self::One(known, child) if *known == text => *child,
            Self::One(known, child) => {
                let children = [(Arc::clone(known), *child), (text, new)];
                *self = Self::Many(Box::new(children.into_iter().collect()));
                new
            }
            Self::Many(children) => *children.entry(text).or_insert(new),
        }
    }
}

impl Tree {
    /// Inserts a route. Routes of the same node must be inserted most specific first.
    pub(super) fn insert(&mut self, pattern: &[Segment], route: usize, texts: &mut Interner<str>) {
        let mut at = ROOT;
        for segment in pattern {
            // The root exists, so the fallback is never taken.
            let new = NonZero::new(small(self.nodes.len())).unwrap_or(Child::MAX);
            let node = &mut self.nodes[at as usize];
            let child = match segment {
                Segment::Literal(text) | Segment::AnyCase(text) => {
                    node.literals.child(texts.share(Arc::from(&**text)), new)
                }
                Segment::Named => *node.named.get_or_insert(new),
                Segment::Star => *node.star.get_or_insert(new),
                Segment::Subtree => return node.subtree.push(&mut self.lists, route),
            };
            if child == new {
                self.nodes.push(Node::default());
            }
            at = child.get();
        }
        self.nodes[at as usize].routes.push(&mut self.lists, route);
    }

    /// Calls `visit` with the routes of each pattern that matches `path`, most specific first, until it breaks.
    pub(super) fn visit_matching<B>(
        &self,
        path: &str,
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.descend(ROOT, Some(path.strip_prefix('/').unwrap_or(path)), visit)
    }

    /// `rest` is the path after the next slash; `None` is the end of the path.
    fn descend<B>(
        &self,
        at: u32,
        rest: Option<&str>,
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.nodes[at as usize];
        match rest {
            None => self.show(node.routes, visit)?,
            Some(rest) => {
                let (segment, rest) = match memchr::memchr(b'/', rest.as_bytes()) {
                    Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
                    None => (rest, None),
                };
                let segment = without_parameters(segment);
                if let Some(child) = node.literals.get(segment) {
                    self.descend(child.get(), rest, visit)?;
                }
                for &child in [node.named, node.star].iter().flatten().filter(|_| !segment.is_empty()) {
                    self.descend(child.get(), rest, visit)?;
                }
            }
        }
        self.show(node.subtree, visit)
    }

    /// Calls `visit` with the routes of each pattern that matches every path which `pattern` matches, until it breaks.
    pub(super) fn visit_covering<B>(
        &self,
        pattern: &[Segment],
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.descend_covering(ROOT, pattern, visit)
    }

    fn descend_covering<B>(
        &self,
        at: u32,
        pattern: &[Segment],
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.nodes[at as usize];
        match pattern.split_first() {
            None => self.show(node.routes, visit)?,
            Some((Segment::Subtree, _)) => {}
            Some((segment, rest)) => {
                let literal = match segment {
                    Segment::Literal(text) | Segment::AnyCase(text) => node.literals.get(text),
                    _ => None,
                };
                let one = [node.named, node.star];
                let not_empty = !matches!(segment, Segment::Literal(text) if text.is_empty());
                let one = one.into_iter().flatten().filter(|_| not_empty);
                for child in literal.into_iter().chain(one) {
                    self.descend_covering(child.get(), rest, visit)?;
                }
            }
        }
        self.show(node.subtree, visit)
    }

    fn show<B>(&self, list: List, visit: &mut impl FnMut(&[usize]) -> ControlFlow<B>) -> ControlFlow<B> {
        match &self.lists[list.start as usize..list.end as usize] {
            [] => ControlFlow::Continue(()),
            routes => visit(routes),
        }
    }
}

/// An index in half the space. A configuration that can be read has fewer than four thousand million segments.
fn small(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

const ROOT: u32 = 0;
