//! Authorities: the `http` library reads an accepted authority alike, and its canonical form has the same meaning.

use crate::{admission::Scheme, message::Authority};

/// Checks that another parser reads the same host and port from an accepted authority, and that they are read again from
/// its canonical form.
///
/// # Panics
/// The property is violated.
pub fn authority(data: &[u8]) {
    for (scheme, default_port) in [(Scheme::Http, 80), (Scheme::Https, 443)] {
        let Some(read) = Authority::parse(data, scheme) else { continue };
        let again = Authority::parse(read.host_line().as_bytes(), scheme).expect("canonical to itself");
        assert_eq!((again.host(), again.port()), (read.host(), read.port()));
        assert_eq!(again.host_line(), read.host_line());
        assert_eq!(read.host(), read.host().to_ascii_lowercase(), "lower case");
        assert_ne!(read.port(), Some(default_port), "the default port is not written");

        let other = http::uri::Authority::try_from(data).expect("it is an authority to others");
        let host = other.host().to_ascii_lowercase();
        assert_eq!(host.strip_suffix('.').unwrap_or(&host), read.host());
        assert_eq!(other.port_u16().unwrap_or(default_port), read.port().unwrap_or(default_port));
        assert!(!other.as_str().contains('@'), "no user information");
    }
}
