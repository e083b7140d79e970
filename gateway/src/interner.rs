//! Equal values that share one allocation.
//!
//! Of thousands of routes, most have the timeouts, retries and header rules of the defaults. Sharing these means that a
//! request finds what it reads of its route in the processor's cache, because requests of other routes read it too.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// The values so far. It exists while a configuration is compiled; the values that it returned live on.
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
    /// Returns the first value that is equal to `value`.
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
