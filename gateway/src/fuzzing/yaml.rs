//! The tree of a configuration: another YAML reader sees the same shape in a text without a finding, and findings can be
//! shown.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::{
    config::{advice::ADVICE, raw},
    syntax::{
        diagnostics::{Diagnostics, Report, Source},
        environment::Environment,
        tree::{self, Node, Value},
    },
};

/// Checks that a text without a finding is YAML to another reader, too, with the same maps and lists.
///
/// # Panics
/// The property is violated.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let nothing = |_: &str| None;
    let mut sink = Diagnostics::default();
    let node = tree::parse(text, Environment::of_file(&nothing), &mut sink);
    let is_clean = sink.into_vec().is_empty();
    if let (Some(node), true) = (node, is_clean) {
        let other: Shape = serde_saphyr::from_str(text).expect("YAML to another reader");
        assert_eq!(shape(&node), other);
    }

    let mut sink = Diagnostics::with(&ADVICE);
    let _sections = raw::read(text, Environment::of_file(&nothing), &mut sink);
    let report = Report::new(Source::new("routes.yaml", text), sink.into_vec());
    assert!(!report.to_string().contains('\u{1b}'), "no control sequence of the text reaches the terminal");
}

/// The shape of a YAML document, without its texts.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Scalar,
    List(Vec<Shape>),
    /// The values, in the order of the text.
    Map(Vec<Shape>),
}

fn shape(node: &Node) -> Shape {
    match &node.value {
        Value::Null | Value::Scalar(_) | Value::Broken => Shape::Scalar,
        Value::List(items) => Shape::List(items.iter().map(shape).collect()),
        Value::Map(entries) => Shape::Map(entries.iter().map(|entry| shape(&entry.value)).collect()),
    }
}

/// Reads any scalar as a scalar, so that the YAML types of scalars do not matter.
struct AnyValue;

macro_rules! scalars {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Shape, E> {
            Ok(Shape::Scalar)
        })*
    };
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    scalars! { visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Shape, D::Error> {
        Shape::deserialize(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Shape::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut map = Vec::new();
        while let Some((_, value)) = entries.next_entry::<Shape, Shape>()? {
            map.push(value);
        }
        Ok(Shape::Map(map))
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}
