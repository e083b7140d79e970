//! A service's bytes: hyper's client and ours see the same response in them, or ours is stricter for a reason.

use crate::upstream::protocol::differential;

/// The first byte chooses the method and how the rest is cut; the rest is what a service writes, after which it closes.
///
/// # Panics
/// The property does not hold.
pub fn http1_response(data: &[u8]) {
    // Past it only the limits differ, which tests have.
    if data.len() <= 8 * 1024 {
        differential::compare(data);
    }
}
