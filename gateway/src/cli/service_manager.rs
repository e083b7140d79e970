//! What the service manager learns of a gateway, and asks of it (`sd_notify(3)`). Without `NOTIFY_SOCKET`, as in a shell or a
//! container, nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::gateway::Pulse;

/// The gateway serves.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The gateway reads its configuration again. [`ready`] ends that.
pub(super) fn reloading() {
    // systemd ignores the message without the time (`Type=notify-reload`).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the clock cannot be read"),
    }
}

/// The gateway drains, which may take so long.
pub(super) fn stopping(longest: Duration) {
    let longest = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("draining"),
        NotifyState::ExtendTimeoutUsec(longest),
    ]);
}

/// Another process is the main one from now on.
pub(super) fn succeeded_by(pid: u32) {
    notify(&[NotifyState::MainPid(pid)]);
}

/// Tells the service manager again and again that all threads go on, if it wants to know (`WatchdogSec=`). When one stands still,
/// it hears nothing, and starts the gateway anew.
pub(super) async fn watchdog(pulse: Pulse) {
    let Some(time) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut beat = tokio::time::interval(time / BEATS);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if pulse.is_there(time / BEATS).await {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("a thread does not answer; the service manager's watchdog is not told");
        }
    }
}

fn notify(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// Beats within the watchdog's time: one may be late (`sd_watchdog_enabled(3)` advises half of the time).
const BEATS: u32 = 3;
