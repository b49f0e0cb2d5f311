//! Values at stable indexes, so that snapshots can walk a table in parts while it changes.

use crate::shrink::KEPT_CAPACITY;

/// Slots whose memory comes and goes together.
const CHUNK: u32 = 256;

/// Values at stable indexes. The index of a value that was removed is used again. The slots are allocated in chunks, and those
/// of a chunk without values are given back: after a burst a few connections that last do not keep the memory of all.
#[derive(Debug)]
pub(super) struct Slots<T> {
    chunks: Vec<Chunk<T>>,
    /// Chunks that are not full, each once. Values go into the last, so that the others can run empty.
    open: Vec<u32>,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    /// `None` are free. The slots behind its end are free, too.
    values: Vec<Option<T>>,
    /// Free slots among `values`.
    free: Vec<u8>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), open: Vec::new(), len: 0 }
    }
}

impl<T> Chunk<T> {
    const EMPTY: Self = Self { values: Vec::new(), free: Vec::new() };

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.values.len() == CHUNK as usize
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.values.len()
    }

    /// Puts a value into a free slot of a chunk that is not full, and returns the slot.
    fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            if let Some(free) = self.values.get_mut(usize::from(slot)) {
                *free = Some(value);
            }
            return u32::from(slot);
        }
        if self.values.capacity() == 0 {
            self.values.reserve_exact(CHUNK as usize);
        }
        self.values.push(Some(value));
        // Below `CHUNK`.
        u32::try_from(self.values.len() - 1).unwrap_or(CHUNK)
    }
}

impl<T> Slots<T> {
    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.chunks.get((slot / CHUNK) as usize)?.values.get((slot % CHUNK) as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.chunks.get_mut((slot / CHUNK) as usize)?.values.get_mut((slot % CHUNK) as usize)?.as_mut()
    }

    /// Returns all values.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| &chunk.values).flatten()
    }

    /// Returns the values from a slot on, with their slots. A caller that walks the slots in parts sees each value that
    /// stays all the while exactly once.
    pub(super) fn starting_at(&self, slot: usize) -> impl Iterator<Item = (u32, &T)> {
        let first = u32::try_from(slot).unwrap_or(u32::MAX);
        // Free slots are skipped but counted: slots are positions that a caller comes back to.
        let chunks = (0..).step_by(CHUNK as usize).zip(&self.chunks).skip((first / CHUNK) as usize);
        let values = chunks.flat_map(|(start, chunk): (u32, _)| (start..).zip(&chunk.values));
        values.skip_while(move |(slot, _)| *slot < first).filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }

    /// Adds a value and returns its slot.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let index = self.open.last().copied().unwrap_or_else(|| {
            // More than 2^32 sockets do not fit into the memory of any machine.
            let index = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX / CHUNK);
            self.chunks.push(Chunk::EMPTY);
            self.open.push(index);
            index
        });
        // `open` has indexes of chunks only.
        let Some(chunk) = self.chunks.get_mut(index as usize) else { return u32::MAX };
        let slot = index * CHUNK + chunk.insert(value);
        if chunk.is_full() {
            self.open.pop();
        }
        self.len += 1;
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<T> {
        let index = slot / CHUNK;
        let chunk = self.chunks.get_mut(index as usize)?;
        let was_full = chunk.is_full();
        let value = chunk.values.get_mut((slot % CHUNK) as usize)?.take()?;
        chunk.free.push((slot % CHUNK) as u8);
        self.len -= 1;
        let last_open = self.open.last().copied();
        if was_full {
            self.open.push(index);
            // It is not the next to be used any more.
            self.give_back_if_empty(last_open);
        } else if last_open != Some(index) {
            // The chunk that values go into keeps its memory: one that comes and goes costs no allocation.
            self.give_back_if_empty(Some(index));
        }
        if self.len == 0 && self.chunks.len() > KEPT_CAPACITY / CHUNK as usize {
            *self = Self::default();
        }
        Some(value)
    }

    fn give_back_if_empty(&mut self, chunk: Option<u32>) {
        if let Some(chunk) =
            chunk.and_then(|index| self.chunks.get_mut(index as usize)).filter(|chunk| chunk.is_empty())
        {
            *chunk = Chunk::EMPTY;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl<T> Slots<T> {
        fn capacity(&self) -> usize {
            self.chunks.iter().map(|chunk| chunk.values.capacity()).sum()
        }
    }

    #[test]
    fn slots_are_stable_and_used_again() {
        let mut slots = Slots::default();
        let numbers: Vec<u32> = (0..5).map(|value| slots.insert(value)).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert_eq!((slots.remove(1), slots.remove(1), slots.remove(9)), (Some(1), None, None));
        assert_eq!((slots.len(), slots.get(1), slots.get(2)), (4, None, Some(&2)));
        assert_eq!(slots.starting_at(1).collect::<Vec<_>>(), [(2, &2), (3, &3), (4, &4)]);
        assert_eq!(slots.starting_at(9).count(), 0);
        assert_eq!((slots.insert(7), slots.iter().sum::<u32>()), (1, 16));
    }

    #[test]
    fn memory_is_given_back_although_some_stay() {
        let mut slots = Slots::default();
        (0..100_000).for_each(|value| _ = slots.insert(value));
        assert!(slots.capacity() < 100_000 + CHUNK as usize);
        (0..100_000).filter(|slot| slot % 50_000 != 7).for_each(|slot| _ = slots.remove(slot));
        assert_eq!((slots.len(), slots.get(50_007)), (2, Some(&50_007)));
        assert!(slots.capacity() <= 3 * CHUNK as usize, "{}", slots.capacity());
        (0..1000).for_each(|value| _ = slots.insert(value));
        assert!(slots.capacity() < 1000 + 3 * CHUNK as usize, "{}", slots.capacity());
    }

    #[test]
    fn memory_is_given_back_when_nothing_is_left() {
        let mut slots = Slots::default();
        (0..=KEPT_CAPACITY).for_each(|value| _ = slots.insert(value));
        (0..=KEPT_CAPACITY).for_each(|slot| _ = slots.remove(slot as u32));
        assert_eq!((slots.len(), slots.chunks.capacity(), slots.open.capacity()), (0, 0, 0));
        assert_eq!(slots.insert(1), 0);
    }

    proptest! {
        #[test]
        fn slots_are_a_map(steps in prop::collection::vec((any::<bool>(), 0_usize..600), 1..20), from in 0_u32..2000) {
            let (mut slots, mut model, mut next) = (Slots::default(), BTreeMap::new(), 0);
            for (insert, count) in steps {
                for number in 0..count {
                    if insert {
                        let slot = slots.insert(next);
                        prop_assert_eq!(model.insert(slot, next), None, "slots in use are not given out again");
                        next += 1;
                    } else if let Some(slot) = model.keys().nth(number * 7919 % model.len().max(1)).copied() {
                        prop_assert_eq!(slots.remove(slot), model.remove(&slot));
                    }
                }
                prop_assert_eq!(slots.len(), model.len());
                prop_assert!(slots.iter().eq(model.values()));
                let walked: Vec<(u32, u32)> = slots.starting_at(from as usize).map(|(slot, value)| (slot, *value)).collect();
                prop_assert_eq!(walked, model.range(from..).map(|(slot, value)| (*slot, *value)).collect::<Vec<_>>());
            }
        }
    }
}
