//! A first look at a field's name: its length and its first letter say that it is none of a set, or that it may be one.
//!
//! Nearly every field of a message is none that the gateway treats specially. Two facts about its name show that, where a
//! comparison or a fold would read all of it.

/// Lengths of names, each with the first letters that occur at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefilter {
    /// By length (the last entry: that and more), a bit for each letter.
    first_letters: [u32; LENGTHS],
}

impl Prefilter {
    pub(super) const EMPTY: Self = Self { first_letters: [0; LENGTHS] };

    /// The same, for one name more.
    pub(super) const fn with_name(mut self, name: &str) -> Self {
        self.first_letters[capped(name.len())] |= first_letter(name);
        self
    }

    /// The same, for all names more that begin so.
    pub(super) const fn with_beginning(mut self, beginning: &str) -> Self {
        let mut length = capped(beginning.len());
        while length < LENGTHS {
            self.first_letters[length] |= first_letter(beginning);
            length += 1;
        }
        self
    }

    /// Whether the name may be one of the set; `false` is certain. A name that does not begin with a small letter may
    /// always be one: folded, it may begin with another byte.
    pub(super) const fn may_match(&self, name: &str) -> bool {
        match name.as_bytes() {
            [b'a'..=b'z', ..] => self.first_letters[capped(name.len())] & first_letter(name) != 0,
            _ => true,
        }
    }
}

const fn capped(length: usize) -> usize {
    if length < LENGTHS { length } else { LENGTHS - 1 }
}

/// One bit for it; 0 for what is no small letter.
const fn first_letter(name: &str) -> u32 {
    match name.as_bytes() {
        [letter @ b'a'..=b'z', ..] => 1 << (*letter - b'a'),
        _ => 0,
    }
}

/// Few names are as long, and those share an entry.
const LENGTHS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const SET: Prefilter = Prefilter::EMPTY.with_name("te").with_name("x-real-ip").with_beginning("proxy-");

    #[test]
    fn a_name_passes_only_if_another_length_or_letter_shows_that_it_is_none_of_the_set() {
        for name in ["te", "x-real-ip", "proxy-", "proxy-connection", "x-my-name", "_te", "2", "-a", ""] {
            assert!(SET.may_match(name), "{name}");
        }
        for name in ["ta-", "host", "x-real-ipx", "prox", "accept"] {
            assert!(!SET.may_match(name), "{name}");
        }
        assert!(SET.may_match(&format!("proxy-{}", "a".repeat(60))));
        assert!(!SET.may_match(&"a".repeat(60)));
        assert!(
            Prefilter::EMPTY.with_name(&"a".repeat(60)).may_match(&"a".repeat(61)),
            "long names share an entry"
        );
    }
}
