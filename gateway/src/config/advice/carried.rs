//! Help for a word of another product that keeps its value: our word with the same value, if our reader accepts it.

use std::time::Duration;

use crate::{
    config::raw::destination::service_cure,
    policy::{body_limit::BodyLimit, rate_limit::rate::Rate},
    router::{path_cures::path_or_cure, pattern::host_pattern},
    syntax::{
        fields::name,
        tree::{Node, Value},
        units::{Invalid, count, duration_in, in_yaml},
    },
};

/// Help such as "write `path: /users`". `example` is our field as the table shows it, such as `path: /users/**` if the
/// other product's word means a beginning. `None`: the field cannot express the value in the same form.
pub(super) fn help(example: &str, node: &Node) -> Option<String> {
    let (field, shown) = example.split_once(": ")?;
    let Value::Scalar(scalar) = &node.value else { return None };
    if scalar.from_variable || shown.starts_with(['{', '[']) {
        return None;
    }
    let text = scalar.text.as_str();
    let refused = match field {
        "path" => path_or_cure(text).map(drop),
        "service" | "name" => name(text).map(drop),
        "host" => host_pattern(text).map(drop),
        // A bare number has its period in the other product's word.
        "rate_limit" | "rate" if text.contains(['/', ' ']) => Rate::parse(text).map(drop),
        "body_limit" => BodyLimit::parse(text).map(drop),
        "retry" | "retries" => count::<u32>(text, 0..=10).map(drop),
        "timeout" | "total" | "try" | "open" | "window" => {
            duration_in(text, Duration::from_secs(1)..=Duration::from_mins(1)).map(drop)
        }
        _ => return None,
    };
    match refused {
        Ok(()) if shown.ends_with("/**") && !text.contains('*') => {
            Some(format!("write `{field}: {}/**`", text.trim_end_matches('/')))
        }
        Ok(()) => Some(format!("write `{field}: {}`", in_yaml(text))),
        Err(_) if field == "service" => service_cure(text),
        Err(Invalid { help: Some(help), .. }) if help.starts_with("write `path:") => Some(help),
        Err(Invalid { help: Some(help), .. }) => {
            let cure = help.strip_prefix("write `")?.split('`').next()?;
            Some(format!("write `{field}: {}`", in_yaml(cure.trim_matches('"'))))
        }
        Err(_) => None,
    }
}
