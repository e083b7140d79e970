//! Help for headers as other products write them: `Host`, and variables in values.

use crate::{
    policy::rewrite::parse_host,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        foreign_variables,
        tree::{Entry, Node, Value},
    },
};

/// Help for a rule that sets `Host`, which belongs to `rewrite`.
pub(crate) fn host(entry: &Entry) -> Option<String> {
    let Value::Scalar(scalar) = &entry.value.value else { return None };
    if !entry.key.value.eq_ignore_ascii_case("host") {
        return None;
    }
    let is_name =
        !scalar.from_variable && !scalar.text.contains(['$', '%']) && parse_host(&scalar.text).is_ok();
    Some(if is_name {
        format!("`Host` is a part of `rewrite` in the route: `rewrite: {{host: \"{}\"}}`", scalar.text)
    } else {
        "leave it away: the service gets the client's `Host`; another one is `rewrite: {host: NAME}` in the route".to_owned()
    })
}

/// Warns about another product's variable in a value. It may be meant as a text, so this is not an error.
pub(crate) fn report_variable(node: &Node, what: &str, sink: &mut Diagnostics) {
    let Value::Scalar(scalar) = &node.value else { return };
    if scalar.from_variable {
        return;
    }
    let Some(found) = foreign_variables::in_header(&scalar.text) else { return };
    let help = match what {
        "match_headers" => "a condition compares with a text; what the service gets is written as `headers: {request: {set: {X-A: …}}}`"
            .to_owned(),
        _ => foreign_variables::header_cure(&scalar.text, found),
    };
    let message = format!("`{}` in `{what}` is a text, not a variable", found.text);
    sink.push(
        Diagnostic::warning(code::TAKEN_AS_TEXT, node.span, message)
            .label("taken as it is written")
            .help(help),
    );
}

/// Help for a refused value that contains another product's variable.
pub(crate) fn variable(text: &str) -> Option<String> {
    foreign_variables::in_header(text).map(|found| foreign_variables::header_cure(text, found))
}
