//! The attempts of one request, for metrics and the access log: where, with what outcome, when and for how long.

use std::{rc::Rc, time::Instant};

use crate::{
    access_log::{OneAttempt, Outcome},
    snapshot::{LocalCluster, LocalEndpoint},
};

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub(super) number: u32,
    /// Subset of the service, where the route names one or splits.
    pub(super) subset: Option<Rc<str>>,
    /// Instance of the last attempt.
    pub(super) instance: Option<Rc<str>>,
    /// When the last attempt was sent, and when its response head was there.
    pub(super) began: Option<Instant>,
    pub(super) ended: Option<Instant>,
    /// Empty where the first attempt was a good one, as it nearly always is.
    list: Vec<OneAttempt>,
}

impl Attempts {
    /// One more attempt, at this endpoint.
    pub(super) fn begins(&mut self, cluster: &LocalCluster, endpoint: &LocalEndpoint) {
        self.number += 1;
        self.instance = Some(Rc::clone(&endpoint.instance));
        self.subset.clone_from(&cluster.subset);
    }

    /// The last attempt is over. The first one leaves no trace in the list if it `is_final`.
    pub(super) fn ends(&mut self, outcome: Outcome, is_final: bool) {
        if is_final && self.list.is_empty() {
            return;
        }
        let (Some(instance), Some(began), Some(ended)) = (&self.instance, self.began, self.ended) else {
            return;
        };
        let took = ended.saturating_duration_since(began);
        let instance = Rc::clone(instance);
        self.add(OneAttempt { instance, outcome, began, took });
    }

    /// The list, where there is one.
    pub(super) fn list(&self) -> &[OneAttempt] {
        &self.list
    }

    /// Past [`LIST_MAX`] the last one takes the place of the one before it.
    fn add(&mut self, attempt: OneAttempt) {
        self.list.truncate(LIST_MAX - 1);
        self.list.push(attempt);
    }
}

/// Connects that fail are free, and there may be as many as there are instances. The line would be longer than a person reads;
/// `attempts` has their number.
const LIST_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_long_list_keeps_its_beginning_and_its_end() {
        let mut attempts = Attempts::default();
        for status in 0..40 {
            let (instance, began) = (Rc::from("a"), crate::clock::now());
            let outcome = Outcome::Answered(status);
            attempts.add(OneAttempt { instance, outcome, began, took: Duration::ZERO });
        }
        let kept: Vec<_> = attempts.list().iter().map(|one| one.outcome).collect();
        assert_eq!(kept.len(), LIST_MAX);
        assert_eq!((kept[0], kept[15]), (Outcome::Answered(0), Outcome::Answered(39)));
    }
}
