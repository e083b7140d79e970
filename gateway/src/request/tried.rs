//! The attempts of one request, for its line in the access log: where, with what outcome, when and for how long.
//!
//! A request that is answered at its first attempt, as nearly all are, has no list.

use crate::access_log::OneAttempt;

/// The list of one request.
#[derive(Debug, Default)]
pub struct Tried(Vec<OneAttempt>);

impl Tried {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn all(&self) -> &[OneAttempt] {
        &self.0
    }

    /// Past [`TRIED_MAX`] the last one takes the place of the one before it.
    pub(super) fn add(&mut self, attempt: OneAttempt) {
        self.0.truncate(TRIED_MAX - 1);
        self.0.push(attempt);
    }
}

/// Connects that fail are free, and there may be as many as there are instances. The line would be longer than a person reads;
/// `attempts` has their number.
const TRIED_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Duration};

    use super::*;
    use crate::access_log::Outcome;

    #[test]
    fn a_long_list_keeps_its_beginning_and_its_end() {
        let mut tried = Tried::default();
        for status in 0..40 {
            let (instance, began) = (Rc::from("a"), crate::clock::now());
            let outcome = Outcome::Answered(status);
            tried.add(OneAttempt { instance, outcome, began, took: Duration::ZERO });
        }
        let kept: Vec<_> = tried.all().iter().map(|one| one.outcome).collect();
        assert_eq!(kept.len(), TRIED_MAX);
        assert_eq!((kept[0], kept[15]), (Outcome::Answered(0), Outcome::Answered(39)));
    }
}
