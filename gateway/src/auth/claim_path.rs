//! Claims inside other claims: `realm_access.roles` is the member `roles` of the claim `realm_access`.
//!
//! A claim that is called exactly as the configuration writes it comes first, so that `https://example.com/roles` is one name.
//! Otherwise each dot leads one object deeper, `\.` is a dot in a name and `\\` a backslash. Only objects are entered, lists
//! are not.

use crate::syntax::claims::steps;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_dot_is_the_name_of_a_claim() {
        assert_eq!(ClaimPath::of("sub"), None);
    }
}
