//! Buffers that belong to a worker's thread, not to a session: an idle session has none.

use std::cell::RefCell;

/// What one turn reads at the most: some seven to eight messages of 64 KiB with their headers, so that
/// one in so many is cut by its end; no larger than the processor's second-level cache. What of it is
/// never written to takes no memory.
pub(super) const READ_BYTES: usize = 8 * (64 + 1) * 1024;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
    static UNMASKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's read buffer.
pub(super) fn with_read_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    READ.with_borrow_mut(|buffer| work(buffer))
}

/// Lends this thread's buffer for an unmasked message, empty.
pub(super) fn with_unmasked<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    UNMASKED.with_borrow_mut(|buffer| {
        buffer.clear();
        let result = work(buffer);
        if buffer.capacity() > READ_BYTES {
            *buffer = Vec::new();
        }
        result
    })
}
