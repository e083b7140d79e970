//! A first look at a field's name: its first and its third letter show that it is not in a set, or that it may be.
//!
//! The gateway treats few fields of a message specially. Two bytes of a name are enough to recognise most others,
//! where a comparison or a fold would read all of it. (The second byte of many names is the `-` of `x-`.)

/// The pairs of first and third letters of the names in a set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefilter {
    /// By third letter: a bit for each first letter.
    first_letters: [u32; THIRDS],
}

impl Prefilter {
    pub(super) const EMPTY: Self = Self { first_letters: [0; THIRDS] };

    /// The filter with one more name.
    pub(super) const fn with_name(mut self, name: &str) -> Self {
        self.first_letters[third_letter(name)] |= first_letter(name);
        self
    }

    /// The filter with all names that have this beginning.
    pub(super) const fn with_beginning(mut self, beginning: &str) -> Self {
        if beginning.len() >= 3 {
            return self.with_name(beginning);
        }
        let mut third = 0;
        while third < THIRDS {
            self.first_letters[third] |=
                if beginning.is_empty() { u32::MAX } else { first_letter(beginning) };
            third += 1;
        }
        self
    }

    /// Whether the name may be in the set, or fold to a name in it; `false` is certain.
    pub(super) const fn may_match(&self, name: &str) -> bool {
        match first_letter(name) {
            // The folded name may begin with another byte.
            0 => true,
            letter => self.first_letters[third_letter(name)] & letter != 0,
        }
    }
}

/// The bit of the first letter; 0 for a byte that is not a lower-case letter.
const fn first_letter(name: &str) -> u32 {
    match name.as_bytes() {
        [letter @ b'a'..=b'z', ..] => 1 << (*letter - b'a'),
        _ => 0,
    }
}

/// The place of the third byte, which is the same for a byte and for its folded form.
const fn third_letter(name: &str) -> usize {
    match name.as_bytes() {
        [_, _, letter, ..] => PLACES[*letter as usize] as usize,
        _ => 0,
    }
}

/// The place of each third byte. Digits share places with letters; place 0 is for bytes that fold to `-`, and for
/// shorter names.
const PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut byte = 0_u8;
    while byte < 0x7f {
        places[byte as usize] = if byte.is_ascii_alphanumeric() { byte & 31 } else { 0 };
        byte += 1;
    }
    places
};

const THIRDS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const SET: Prefilter = Prefilter::EMPTY.with_name("te").with_name("x-real-ip").with_beginning("proxy-");

    #[test]
    fn a_name_passes_only_if_its_letters_show_that_it_is_none_of_the_set() {
        for name in
            ["te", "x-real-ip", "x-rest", "proxy-", "proxy-connection", "_te", "2", "-a", "", "t!!", "ta"]
        {
            assert!(SET.may_match(name), "{name}");
        }
        for name in ["tea", "host", "x-user", "prixy-", "accept"] {
            assert!(!SET.may_match(name), "{name}");
        }
    }

    #[test]
    fn a_short_beginning_stands_for_all_names_that_begin_so() {
        let set = Prefilter::EMPTY.with_beginning("x-");
        assert!(set.may_match("x-a") && set.may_match("x-9") && set.may_match("x") && !set.may_match("a-x"));
        assert!(Prefilter::EMPTY.with_beginning("").may_match("anything"));
    }
}
