//! A queue in chunks: it takes the memory of what is in it. A `VecDeque` keeps the memory of the most that ever was, doubles it
//! at once when it grows, and touches all of it when it turns round.

use std::collections::VecDeque;

/// Values of a chunk.
const CHUNK: usize = 256;

/// A queue whose memory grows and shrinks with it.
#[derive(Debug)]
pub(super) struct ChunkedQueue<T> {
    /// All but the last are full, apart from the values that were taken from the first.
    chunks: VecDeque<VecDeque<T>>,
    /// Number of values that were taken from the first chunk.
    taken: usize,
}

impl<T> Default for ChunkedQueue<T> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), taken: 0 }
    }
}

impl<T> ChunkedQueue<T> {
    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        let last = self.chunks.back().map_or(0, VecDeque::len);
        match self.chunks.len() {
            0 | 1 => last,
            count => (count - 1) * CHUNK - self.taken + last,
        }
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub(super) fn back(&self) -> Option<&T> {
        self.chunks.back()?.back()
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        let index = index.checked_add(self.taken)?;
        // The first chunk begins with what has not been taken from it.
        let within = if index < CHUNK { index.checked_sub(self.taken)? } else { index % CHUNK };
        self.chunks.get(index / CHUNK)?.get(within)
    }

    pub(super) fn push_back(&mut self, value: T) {
        // The last chunk may be the first too.
        let taken = if self.chunks.len() == 1 { self.taken } else { 0 };
        match self.chunks.back_mut() {
            Some(last) if last.len() + taken < CHUNK => last.push_back(value),
            _ => {
                let mut chunk = VecDeque::with_capacity(CHUNK);
                chunk.push_back(value);
                self.chunks.push_back(chunk);
            }
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let first = self.chunks.front_mut()?;
        let value = first.pop_front()?;
        self.taken += 1;
        if first.is_empty() {
            self.chunks.pop_front();
            self.taken = 0;
            if self.chunks.is_empty() {
                self.chunks = VecDeque::new();
            }
        }
        Some(value)
    }

    /// Returns all values, oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// Returns the values from an index on.
    pub(super) fn iter_from(&self, index: usize) -> impl Iterator<Item = &T> {
        let index = index.saturating_add(self.taken);
        // What was taken from the first chunk is not in it any more.
        let within = if index < CHUNK { index - self.taken } else { index % CHUNK };
        self.chunks.iter().skip(index / CHUNK).flatten().skip(within)
    }

    /// Returns for how many values there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.chunks.iter().map(VecDeque::capacity).sum::<usize>() + self.chunks.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec((any::<bool>(), 0_usize..700), 1..20), index in 0_usize..2000) {
            let (mut queue, mut model, mut next) = (ChunkedQueue::default(), VecDeque::new(), 0);
            for (push, count) in steps {
                for _ in 0..count {
                    if push {
                        queue.push_back(next);
                        model.push_back(next);
                        next += 1;
                    } else {
                        prop_assert_eq!(queue.pop_front(), model.pop_front());
                    }
                }
                prop_assert_eq!((queue.len(), queue.front(), queue.back()), (model.len(), model.front(), model.back()));
                prop_assert_eq!(queue.get(index), model.get(index));
                prop_assert!(queue.iter_from(index).eq(model.iter().skip(index)));
                prop_assert!(queue.iter().rev().eq(model.iter().rev()));
                prop_assert!(queue.capacity() <= model.len() + 3 * CHUNK);
            }
        }
    }
}
