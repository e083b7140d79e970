//! From the instances that the registry lists to those that are used: mass removals are doubted for a while, and instances
//! that flap are held up. Pure; `now` is an argument.
//!
//! An instance that is held up is published with the status critical. Flap damping never removes the last instances: when
//! all instances that could take requests would be held up, none is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::watch::damping::Damper;
use crate::watch::instance::{Instance, Key, Status, by_key, key};
use crate::watch::mass_drop::{Circumstances, MassDrop};

/// The state of one service.
#[derive(Debug)]
pub(crate) struct Settle {
    believed: Arc<[Instance]>,
    /// `None` until something was published.
    published: Option<Arc<[Instance]>>,
    /// `None` if flap damping is off.
    damper: Option<Damper>,
    drop: MassDrop,
    held_up: BTreeSet<Key>,
}

impl Settle {
    /// `seed` are instances from an earlier run, which are in use already. `doubt` is how long a removal is doubted that trouble
    /// of the registry explains.
    pub(crate) fn new(seed: Option<Arc<[Instance]>>, flap_damping: bool, doubt: Duration) -> Self {
        Self {
            believed: seed.clone().unwrap_or_default(),
            published: seed,
            damper: flap_damping.then(Damper::default),
            drop: MassDrop::new(doubt),
            held_up: BTreeSet::new(),
        }
    }

    /// Takes what the registry lists now; returns the instances to use, if they change.
    pub(crate) fn take(
        &mut self,
        believed: Arc<[Instance]>,
        circumstances: &Circumstances,
        now: Instant,
    ) -> Option<Arc<[Instance]>> {
        if let Some(damper) = &mut self.damper {
            let new = by_key(&believed);
            for old in self.believed.iter().filter(|old| old.is_routable()) {
                let key = key(old);
                // A person puts an instance into maintenance; that is not a flap.
                let stays =
                    new.get(&key).is_some_and(|new| new.is_routable() || new.status == Status::Maintenance);
                if !stays {
                    damper.went_down(&key, now);
                }
            }
        }
        let before = self.published.clone().unwrap_or_default();
        self.drop.take(&before, &believed, circumstances, now);
        self.believed = believed;
        self.release(now)
    }

    /// As [`Settle::take`], for time that passed.
    pub(crate) fn release(&mut self, now: Instant) -> Option<Arc<[Instance]>> {
        let mut list = self.believed.to_vec();
        self.drop.apply(&mut list, now);
        self.hold_up(&mut list, now);
        if self.published.as_deref() == Some(list.as_slice()) {
            return None;
        }
        let list: Arc<[Instance]> = list.into();
        self.published = Some(Arc::clone(&list));
        Some(list)
    }

    /// When to call [`Settle::release`].
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let damper = self.damper.as_ref().and_then(|damper| damper.next_release(now));
        damper.into_iter().chain(self.drop.until()).min()
    }

    /// The registry lists no instance, or has not answered yet.
    pub(crate) fn has_none(&self) -> bool {
        self.believed.is_empty()
    }

    /// Nothing was ever published.
    pub(crate) fn is_new(&self) -> bool {
        self.published.is_none()
    }

    /// The instances in use, if any were published.
    pub(crate) fn published(&self) -> Option<Arc<[Instance]>> {
        self.published.clone()
    }

    /// The instances that the registry lists.
    pub(crate) fn believed(&self) -> &Arc<[Instance]> {
        &self.believed
    }

    /// Instances that could take requests and are held up.
    pub(crate) fn held_up(&self) -> &BTreeSet<Key> {
        &self.held_up
    }

    /// Instances that stay in use although the registry removed them.
    pub(crate) fn kept(&self) -> BTreeSet<Key> {
        let published = self.published.iter().flat_map(|list| list.iter());
        published.map(key).filter(|key| self.drop.holds(key)).collect()
    }

    fn hold_up(&mut self, list: &mut [Instance], now: Instant) {
        self.held_up.clear();
        let Some(damper) = &self.damper else { return };
        let (mut held, mut free) = (Vec::new(), 0);
        for (at, instance) in list.iter().enumerate().filter(|(_, instance)| instance.is_routable()) {
            if damper.holds(&key(instance), now) {
                held.push(at);
            } else {
                free += 1;
            }
        }
        if free == 0 {
            return;
        }
        for at in held {
            if let Some(instance) = list.get_mut(at) {
                instance.status = Status::Critical;
                self.held_up.insert(key(instance));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;
    use crate::watch::options::DOUBT;

    fn two(b: Status) -> Arc<[Instance]> {
        [instance("a", Status::Passing), instance("b", b)].into()
    }

    fn take(settle: &mut Settle, believed: Arc<[Instance]>, now: Instant) -> Option<Vec<Status>> {
        let published = settle.take(believed, &Circumstances::default(), now)?;
        Some(published.iter().map(|instance| instance.status).collect())
    }

    /// `b` went down four times within four seconds, and is up again.
    fn flapped(settle: &mut Settle) -> Instant {
        let mut now = Instant::now();
        take(settle, two(Status::Passing), now);
        for _ in 0..4 {
            assert!(take(settle, two(Status::Critical), now).is_some(), "down at once");
            now += Duration::from_secs(1);
            take(settle, two(Status::Passing), now);
        }
        now
    }

    #[test]
    fn the_first_answer_is_published_even_if_it_is_empty() {
        assert_eq!(
            take(&mut Settle::new(None, true, DOUBT), Arc::from([]), Instant::now()),
            Some(Vec::new())
        );
    }

    #[test]
    fn an_instance_that_flaps_is_held_up_and_let_in_by_time_alone() {
        let mut settle = Settle::new(None, true, DOUBT);
        let now = flapped(&mut settle);
        assert_eq!(settle.held_up().len(), 1);
        let release = settle.next(now).unwrap();
        assert_eq!(settle.release(release - Duration::from_millis(1)), None);
        let published = settle.release(release).unwrap();
        assert_eq!(*published, *two(Status::Passing));
        assert_eq!((settle.held_up().len(), settle.next(release)), (0, None));
    }

    #[test]
    fn without_damping_it_is_back_at_once() {
        let mut settle = Settle::new(None, false, DOUBT);
        flapped(&mut settle);
        assert_eq!(settle.held_up().len(), 0);
        assert_eq!(settle.published.as_deref(), Some(&*two(Status::Passing)));
    }

    #[test]
    fn the_last_instances_are_not_held_up() {
        let mut settle = Settle::new(None, true, DOUBT);
        let now = flapped(&mut settle);
        let mut alone = two(Status::Passing).to_vec();
        alone[0].status = Status::Critical;
        assert_eq!(
            take(&mut settle, alone.into(), now),
            Some(vec![Status::Critical, Status::Passing]),
            "b is all there is"
        );
    }

    #[test]
    fn maintenance_is_no_flap() {
        let mut settle = Settle::new(None, true, DOUBT);
        let now = Instant::now();
        for _ in 0..10 {
            take(&mut settle, two(Status::Passing), now);
            take(&mut settle, two(Status::Maintenance), now);
        }
        take(&mut settle, two(Status::Passing), now);
        assert_eq!(settle.held_up().len(), 0);
    }

    #[test]
    fn instances_from_an_earlier_run_are_no_news() {
        let mut settle = Settle::new(Some(two(Status::Passing)), true, DOUBT);
        assert_eq!(take(&mut settle, two(Status::Passing), Instant::now()), None);
    }
}
