//! Paths to claims inside other claims: `realm_access.roles` is the member `roles` of the claim `realm_access`.
//!
//! A claim whose name is exactly the written path has precedence, so that `https://example.com/roles` is one name. Otherwise
//! each dot leads into an object, `\.` is a dot in a name and `\\` a backslash. A path does not lead into lists.

use crate::syntax::claims::steps;

/// The names that lead to a claim, outermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimPath {
    /// The path as the configuration has it, which is also the name of the claim in requests for it.
    pub(super) written: Box<str>,
    pub(super) steps: Box<[Box<str>]>,
}

impl ClaimPath {
    /// `None`: the text can only be the name of a claim.
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
