//! The open tunnels of a worker, so that a drain reaches them.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Waker},
};

use slab::Slab;

/// The tasks of a worker's open tunnels. At most as many as services allow (`max_tunnels`).
#[derive(Debug, Default)]
pub(crate) struct OpenTunnels(RefCell<Slab<Option<Waker>>>);

impl OpenTunnels {
    /// Adds a tunnel, until the entry is dropped.
    pub(crate) fn enter(all: &Rc<Self>) -> OpenTunnel {
        OpenTunnel { key: all.0.borrow_mut().insert(None), all: Rc::clone(all) }
    }

    /// Wakes all tunnels, because a drain has begun or its time is over.
    pub(crate) fn wake_all(&self) {
        self.0.borrow().iter().filter_map(|(_, waker)| waker.as_ref()).for_each(Waker::wake_by_ref);
    }
}

/// The entry of one tunnel.
#[derive(Debug)]
pub(crate) struct OpenTunnel {
    all: Rc<OpenTunnels>,
    key: usize,
}

impl OpenTunnel {
    /// The task of the tunnel, which [`OpenTunnels::wake_all`] wakes.
    pub(crate) fn remember(&self, cx: &Context<'_>) {
        if let Some(waker) = self.all.0.borrow_mut().get_mut(self.key)
            && waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.all.0.borrow_mut().try_remove(self.key);
    }
}
