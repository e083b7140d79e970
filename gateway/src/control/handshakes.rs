//! TCP handshakes that are under way when a listener is to close.
//!
//! The kernel drops new handshakes then ([`refuse_handshakes`](crate::worker_thread::listen::refuse_handshakes)), and a client whose first segment was dropped sends it again
//! a second later. So that time is as short as it can be: until the handshakes that have begun are over, which takes one round trip
//! of each client, and is a millisecond where clients are near.

use std::{io, sync::Arc, time::Duration};

/// Waits until no handshake with one of the ports is under way, at most [`END_MAX`]. Where the system does not tell, it waits for
/// all of that.
pub(super) async fn end(ports: &Arc<[u16]>) {
    let _ = tokio::time::timeout(END_MAX, none_is_under_way(ports)).await;
}

async fn none_is_under_way(ports: &Arc<[u16]>) {
    let mut empty = 0;
    while empty < EMPTY_LOOKS {
        let ports = Arc::clone(ports);
        // The table of a busy machine is long, and the loop goes on.
        match tokio::task::spawn_blocking(move || under_way(&ports)).await {
            Ok(Ok(0)) => empty += 1,
            Ok(Ok(_)) => empty = 0,
            Ok(Err(_)) | Err(_) => return std::future::pending().await,
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// How many handshakes with these ports are under way, in the network of this process.
fn under_way(ports: &[u16]) -> io::Result<usize> {
    let mut number = 0;
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(text) => number += text.lines().filter(|line| is_one(line, ports)).count(),
            // A system without IPv6 has only one table.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(number)
}

/// Whether a line is a handshake with one of the ports (`proc_pid_net(5)`): number, own address and port in hex, the peer's, state.
fn is_one(line: &str, ports: &[u16]) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let port = fields.next().and_then(|own| u16::from_str_radix(own.rsplit(':').next()?, 16).ok());
    port.is_some_and(|port| ports.contains(&port)) && fields.nth(1) == Some(SYN_RECEIVED)
}

/// The state of a connection between the first and the third segment of its handshake (`include/net/tcp_states.h`).
const SYN_RECEIVED: &str = "03";
/// Longer than a round trip around the world.
const END_MAX: Duration = Duration::from_millis(300);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// A segment that passed before new handshakes were dropped may become one a moment after a look.
const EMPTY_LOOKS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_a_line_with_the_port_and_the_state_of_one() {
        let line = "   1: 0100007F:1F90 0100007F:D2F0 03 00000000:00000000 01:00000063 00000000     0        0 0 1 ffff";
        let v6 = "   0: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:D2F0 03 00000000:00000000";
        assert!(is_one(line, &[80, 8080]) && is_one(v6, &[8080]));
        assert!(!is_one(line, &[80]) && !is_one(&line.replace(" 03 ", " 01 "), &[8080]));
        assert!(!is_one("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when", &[8080]));
        assert!(!is_one("", &[8080]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells_that_no_handshake_is_under_way_where_nobody_listens() {
        assert_eq!(under_way(&[1]).unwrap(), 0);
    }
}
