//! The buffers that all HTTP/1.1 connections of a worker use, one after the other, within one poll.
//!
//! Nothing stays in them: what is read is copied out, or parsed into memory of its own, and what a write leaves over is copied
//! to the request that it belongs to. So no byte of one message can reach another one, and the memory is always in the cache.

use std::{
    cell::{RefCell, RefMut},
    rc::Rc,
};

/// One for each worker, which is one thread.
pub(super) struct Scratch {
    read: RefCell<Box<[u8]>>,
    write: RefCell<Vec<u8>>,
}

thread_local! {
    static SCRATCH: Rc<Scratch> = Rc::new(Scratch {
        read: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
        write: RefCell::new(Vec::with_capacity(WRITE_BYTES)),
    });
}

impl Scratch {
    pub(super) fn of_this_worker() -> Rc<Self> {
        SCRATCH.with(Rc::clone)
    }

    /// For one read. What is in it has no meaning.
    pub(super) fn for_a_read(&self) -> RefMut<'_, Box<[u8]>> {
        self.read.borrow_mut()
    }

    /// For what one write begins with: empty.
    pub(super) fn for_a_write(&self) -> RefMut<'_, Vec<u8>> {
        let mut buffer = self.write.borrow_mut();
        buffer.clear();
        // One long head in the life of a worker is no reason to keep its memory.
        buffer.shrink_to(WRITE_BYTES_MAX);
        buffer
    }
}

/// The usual read. It takes a head and its content, or as much of them as a socket usually holds.
pub(super) const READ_BYTES: usize = 32 * 1024;
/// A head, and content that is small enough to be copied behind it.
const WRITE_BYTES: usize = 4 * 1024;
const WRITE_BYTES_MAX: usize = 64 * 1024;
