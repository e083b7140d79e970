//! Tags that declare routes: the text that is shown for a tag is read as the same route.

use crate::declaration::tags::TagForms;

/// Checks that the native text of a declaration declares the same route, whatever form the tag had.
///
/// # Panics
/// The property is violated.
pub fn tag(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let forms = TagForms::default();
    for tag in [text.to_owned(), format!("millgate.route={text}"), format!("urlprefix-{text}")] {
        let read = forms.read(&tag, Some("dc1"));
        assert_eq!(
            read.is_some(),
            forms.is_route(&tag) || forms.is_metadata(tag.trim()),
            "it is about a route"
        );
        let Some(Ok(declaration)) = read else { continue };
        let shown = declaration.to_string();
        // Networks and shares are shown in full, so the text may be longer than a tag is allowed to be. A path beyond ASCII
        // is shown as it stands in requests, percent-encoded, which a pattern must not be.
        if shown.len() <= TAG_BYTES_MAX && !shown.contains('%') {
            assert_eq!(forms.read(&format!("millgate.route={shown}"), None), Some(Ok(declaration)), "{tag}");
        }
    }
}

/// Largest length of a tag in bytes, as in the reader of tags.
const TAG_BYTES_MAX: usize = 512;
