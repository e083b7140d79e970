//! The attempts of one request, for metrics and the access log: instance, outcome, begin and duration.

use std::{rc::Rc, time::Instant};

use crate::{
    access_log::{OneAttempt, Outcome},
    snapshot::{LocalCluster, LocalEndpoint},
};

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Number of attempts so far.
    pub(super) number: u32,
    /// Subset of the service, if the route names one or splits its requests.
    pub(super) subset: Option<Rc<str>>,
    /// Instance of the last attempt.
    pub(super) instance: Option<Rc<str>>,
    /// The time at which the last attempt began.
    pub(super) began: Option<Instant>,
    /// The time at which the last attempt ended: its response head had come, or it had failed.
    pub(super) ended: Option<Instant>,
    /// Empty if the first attempt was the final one, which is nearly always so.
    list: Vec<OneAttempt>,
}

impl Attempts {
    /// Begins one more attempt, at this endpoint.
    pub(super) fn begins(&mut self, cluster: &LocalCluster, endpoint: &LocalEndpoint) {
        self.number += 1;
        self.instance = Some(Rc::clone(&endpoint.instance));
        self.subset.clone_from(&cluster.subset);
    }

    /// Ends the last attempt. If it was the first one and `is_final`, it is not put into the list.
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

    /// The list of attempts; empty if the first one was the final one.
    pub(super) fn list(&self) -> &[OneAttempt] {
        &self.list
    }

    /// Adds an attempt. From [`LIST_MAX`] attempts on, it replaces the last one in the list.
    fn add(&mut self, attempt: OneAttempt) {
        self.list.truncate(LIST_MAX - 1);
        self.list.push(attempt);
    }
}

/// The largest number of attempts in the list. Failed connects are free, and there may be as many as there are instances; a
/// longer line would not be read. `attempts` has their number.
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
