//! Values at stable indexes, so that snapshots can walk a table in parts while it changes.

/// Capacity beyond this is given back when nothing is left.
pub(super) const KEPT_CAPACITY: usize = 1024;

/// Values at stable indexes. The index of a value that was removed is used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    /// `None` are free.
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Returns all values.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// Returns the values from a slot on, with their slots. A caller that walks the slots in parts sees each value that
    /// stays all the while exactly once.
    pub(super) fn starting_at(&self, slot: usize) -> impl Iterator<Item = (u32, &T)> {
        let first = u32::try_from(slot).unwrap_or(u32::MAX);
        let slots = self.slots.get(slot..).unwrap_or_default();
        // Free slots are skipped but counted: slots are positions that a caller comes back to.
        slots.iter().zip(first..).filter_map(|(value, slot)| Some((slot, value.as_ref()?)))
    }

    /// Adds a value and returns its slot.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            if let Some(free) = self.slots.get_mut(slot as usize) {
                *free = Some(value);
            }
            return slot;
        }
        self.slots.push(Some(value));
        // More than 2^32 sockets do not fit into the memory of any machine.
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<T> {
        let value = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        // Only an empty table can shrink: the slot of an entry must not change while snapshots walk.
        if self.len() == 0 && self.slots.len() > KEPT_CAPACITY {
            *self = Self::default();
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn memory_is_given_back_when_nothing_is_left() {
        let mut slots = Slots::default();
        (0..=KEPT_CAPACITY).for_each(|value| _ = slots.insert(value));
        (0..=KEPT_CAPACITY).for_each(|slot| _ = slots.remove(slot as u32));
        assert_eq!((slots.len(), slots.slots.capacity(), slots.free.capacity()), (0, 0, 0));
        assert_eq!(slots.insert(1), 0);
    }
}
