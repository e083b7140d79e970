//! Claims inside other claims: `realm_access.roles` is the member `roles` of the claim `realm_access`.
//!
//! A claim that is called exactly as the configuration writes it comes first, so that `https://example.com/roles` is one name.
//! Otherwise each dot leads one object deeper, `\.` is a dot in a name and `\\` a backslash. Only objects are entered, lists
//! are not.

/// The names that lead to a claim, outermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimPath {
    /// As the configuration writes it: what the claim is asked for by.
    pub(super) written: Box<str>,
    pub(super) steps: Box<[Box<str>]>,
}

impl ClaimPath {
    /// `None`: the text can be nothing but the name of a claim.
    pub(super) fn of(written: &str) -> Option<Self> {
        if !written.contains(['.', '\\']) {
            return None;
        }
        let steps = steps(written)?;
        Some(Self { written: written.into(), steps: steps.into_iter().map(String::into).collect() })
    }
}

/// Whether the text names a claim: a dot has a name on each of its sides.
pub(crate) fn names_a_claim(written: &str) -> bool {
    steps(written).is_some()
}

/// `None`: one of the names is empty.
fn steps(written: &str) -> Option<Vec<String>> {
    let mut steps = vec![String::new()];
    let mut chars = written.chars().peekable();
    while let Some(c) = chars.next() {
        let step = steps.last_mut()?;
        match c {
            '.' => steps.push(String::new()),
            '\\' => step.push(chars.next_if(|next| matches!(next, '.' | '\\')).unwrap_or('\\')),
            _ => step.push(c),
        }
    }
    (!steps.iter().any(String::is_empty)).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_leads_deeper_and_an_escaped_dot_is_one_of_the_name() {
        for (written, expected) in [
            ("sub", &["sub"][..]),
            ("realm_access.roles", &["realm_access", "roles"]),
            ("resource_access.api.roles", &["resource_access", "api", "roles"]),
            (r"cognito\.groups", &["cognito.groups"]),
            (r"resource_access.my\.api.roles", &["resource_access", "my.api", "roles"]),
            (r"a\\.b", &[r"a\", "b"]),
            (r"a\b\", &[r"a\b\"]),
        ] {
            assert_eq!(steps(written).unwrap(), expected, "{written}");
        }
        for written in ["", ".", "a.", ".a", "a..b"] {
            assert!(!names_a_claim(written), "{written}");
        }
        assert_eq!(ClaimPath::of("sub"), None);
    }
}
