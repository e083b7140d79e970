//! Equal values, held once.
//!
//! Of thousands of routes most have the timeouts, retries and header rules of the defaults. What a request reads of its
//! route is then in the cache because requests of other routes read it too.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// The values so far. Lives while a configuration is compiled; what it gave out lives on.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized> {
    known: HashSet<Arc<T>, foldhash::fast::RandomState>,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { known: HashSet::default() }
    }
}

impl<T: ?Sized + Eq + Hash> Interner<T> {
    /// The value that is equal to this one and came first.
    pub(crate) fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&*value) {
            return Arc::clone(known);
        }
        self.known.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_memory_and_different_ones_do_not() {
        let mut interner = Interner::<str>::default();
        let [first, second, other] = ["items", "items", "orders"].map(|text| interner.share(text.into()));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((&*first, &*other), ("items", "orders"));
    }
}
