//! `?filter=`: Consul's boolean expressions, parsed against the fields that the elements of a list have.
//!
//! `Service.Port == 80 and "v1" in Service.Tags` and the like: `==`, `!=`, `in`, `not in`, `contains`,
//! `not contains`, `matches`, `not matches`, `is empty`, `is not empty`, joined by `and`, `or`, `not` and
//! parentheses. A selector that goes through a list (`Checks.Status`) matches if any element does.
//! Regular expressions are those of the `regex` crate, which has the syntax of Go's in all but details.

pub(crate) mod fields;
mod parse;

use regex::Regex;
use serde_json::Value;

pub(crate) use fields::Kind;
use parse::{Expression, Operator};

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Filter(Node);

#[derive(Debug)]
enum Node {
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Match { selector: Vec<String>, negated: bool, test: Test },
}

#[derive(Debug)]
enum Test {
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// An element of a list, a key of a map, or a part of a string.
    Holds(String),
    Empty,
    Matches(Regex),
}

impl Filter {
    /// The error is Consul's text.
    pub(crate) fn parse(text: &str, fields: Kind) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("the embedded registry takes expressions of at most {BYTES_MAX} bytes"));
        }
        compile(parse::parse(text)?, fields).map(Self)
    }

    pub(crate) fn matches(&self, element: &Value) -> bool {
        self.0.matches(element)
    }
}

impl Node {
    fn matches(&self, element: &Value) -> bool {
        match self {
            Self::And(left, right) => left.matches(element) && right.matches(element),
            Self::Or(left, right) => left.matches(element) || right.matches(element),
            Self::Not(inner) => !inner.matches(element),
            Self::Match { selector, negated, test } => any(element, selector, *negated, test),
        }
    }
}

/// Follows the selector; at a list, any element may match.
fn any(value: &Value, selector: &[String], negated: bool, test: &Test) -> bool {
    match (value, selector.split_first()) {
        (Value::Array(list), Some(_)) => list.iter().any(|element| any(element, selector, negated, test)),
        (_, Some((name, rest))) => any(value.get(name).unwrap_or(&Value::Null), rest, negated, test),
        (value, None) => holds(value, test) != negated,
    }
}

/// Tests a value; an absent or null one counts as the zero value of its type.
fn holds(value: &Value, test: &Test) -> bool {
    let string = value.as_str().unwrap_or_default();
    match test {
        Test::Text(wanted) => string == wanted,
        Test::Integer(wanted) => value.as_i64().unwrap_or(0) == *wanted,
        Test::Boolean(wanted) => value.as_bool().unwrap_or(false) == *wanted,
        Test::Holds(wanted) => match value {
            Value::Array(list) => list.iter().any(|element| element.as_str() == Some(wanted)),
            Value::Object(object) => object.contains_key(wanted),
            _ => string.contains(wanted.as_str()),
        },
        Test::Empty => match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(object) => object.is_empty(),
            _ => true,
        },
        Test::Matches(regex) => regex.is_match(string),
    }
}

fn compile(expression: Expression, fields: Kind) -> Result<Node, String> {
    Ok(match expression {
        Expression::And(left, right) => {
            Node::And(Box::new(compile(*left, fields)?), Box::new(compile(*right, fields)?))
        }
        Expression::Or(left, right) => {
            Node::Or(Box::new(compile(*left, fields)?), Box::new(compile(*right, fields)?))
        }
        Expression::Not(inner) => Node::Not(Box::new(compile(*inner, fields)?)),
        Expression::Match { selector, operator, negated, value } => {
            let test = test(&selector, operator, negated, value, fields)?;
            Node::Match { selector, negated, test }
        }
    })
}

fn test(
    selector: &[String],
    operator: Operator,
    negated: bool,
    value: String,
    fields: Kind,
) -> Result<Test, String> {
    let name = selector.join(".");
    let kind = fields.follow(selector).map_err(|name| format!("Selector {name:?} is not valid"))?;
    let coerce = |parser: &str| {
        format!(
            "Failed to coerce value {value:?} for selector {name:?}: strconv.{parser}: parsing {value:?}: invalid syntax"
        )
    };
    match (operator, kind) {
        (Operator::Equal, Kind::Text) => Ok(Test::Text(value)),
        (Operator::Equal, Kind::Integer) => value.parse().map(Test::Integer).map_err(|_| coerce("ParseInt")),
        (Operator::Equal, Kind::Boolean) => {
            boolean(&value).map(Test::Boolean).ok_or_else(|| coerce("ParseBool"))
        }
        (Operator::In, Kind::Text | Kind::List(Kind::Text) | Kind::Map(_)) => Ok(Test::Holds(value)),
        (Operator::Empty, Kind::List(_) | Kind::Map(_)) => Ok(Test::Empty),
        (Operator::Matches, Kind::Text) => Regex::new(&value)
            .map(Test::Matches)
            .map_err(|_| format!("Failed to compile regular expression {value:?}: {}", regex_error(&value))),
        (operator, _) => {
            Err(format!("Invalid match operator {:?} for selector {name:?}", operator.name(negated)))
        }
    }
}

/// Reads a boolean as Go does.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's words for the mistakes that people make; `pattern` is known to be wrong.
pub(crate) fn regex_error(pattern: &str) -> String {
    let count = |wanted: char| pattern.chars().filter(|c| *c == wanted).count();
    let what = if count('(') > count(')') {
        "missing closing )"
    } else if count('(') < count(')') {
        "unexpected )"
    } else if count('[') > count(']') {
        "missing closing ]"
    } else if pattern.starts_with(['*', '+', '?']) {
        "missing argument to repetition operator"
    } else {
        "invalid or unsupported Perl syntax"
    };
    format!("error parsing regexp: {what}: `{pattern}`")
}

/// Longer than any expression that a person writes.
const BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(expression: &str) -> Result<bool, String> {
        let element = json!({
            "Node": {"Node": "n1", "Meta": {"os": "linux", "a-b": "x"}},
            "Service": {"Service": "web", "Port": 80, "Tags": ["v1", "primary"], "Meta": null, "Weights": {"Passing": 3}},
            "Checks": [{"Status": "passing"}, {"Status": "critical"}],
        });
        Filter::parse(expression, fields::HEALTH_SERVICE).map(|filter| filter.matches(&element))
    }

    #[test]
    fn expressions_mean_what_consul_means() {
        for (expression, matches) in [
            ("Service.Service == web", true),
            ("Service.Service==\"web\" and Service.Port != 80", false),
            ("Service.Port==80 or Node.Node==x and Node.Node==y", true),
            ("(Service.Port==80 or Node.Node==x) and Node.Node==y", false),
            ("not Service.Port==81", true),
            ("v1 in Service.Tags", true),
            ("\"v2\" not in Service.Tags", true),
            ("Service.Tags contains primary", true),
            ("Service.Service contains we", true),
            ("Service.Service not contains we", false),
            ("Service.Meta is empty", true),
            ("Service.Tags is not empty", true),
            ("Node.Meta.os == linux", true),
            ("Node.Meta[\"a-b\"] == `x`", true),
            ("Node.Meta.nope != x", true),
            ("Node.Meta contains os", true),
            ("Service.Service matches \"^w\"", true),
            ("Service.Service not matches \"^w\"", false),
            ("Service.Weights.Passing == 3", true),
            ("Service.EnableTagOverride == false", true),
            // Any check will do, for an inequality as well.
            ("Checks.Status == critical", true),
            ("Checks.Status != critical", true),
        ] {
            assert_eq!(check(expression), Ok(matches), "{expression}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_consuls_words() {
        for (expression, text) in [
            ("Service.Bogus == 1", "Selector \"Service.Bogus\" is not valid"),
            ("service.Port == 1", "Selector \"service\" is not valid"),
            ("Service.Meta == x", "Invalid match operator \"Equal\" for selector \"Service.Meta\""),
            (
                "Service.Port is not empty",
                "Invalid match operator \"Is Not Empty\" for selector \"Service.Port\"",
            ),
            (
                "Service.Port == abc",
                "Failed to coerce value \"abc\" for selector \"Service.Port\": strconv.ParseInt: parsing \"abc\": \
                 invalid syntax",
            ),
            (
                "Service.Service matches \"(\"",
                "Failed to compile regular expression \"(\": error parsing regexp: missing closing ): `(`",
            ),
        ] {
            assert_eq!(check(expression).unwrap_err(), text, "{expression}");
        }
    }
}
