//! Gives memory back after a burst: collections keep the room for the most that they ever held.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hash},
};

use hashbrown::HashMap;

/// Room for this many values is never given back.
pub const KEPT_CAPACITY: usize = 1024;
/// A collection that uses less than this part of its room is made smaller.
const SPARSE: usize = 8;

/// Makes a map smaller that is almost empty.
pub fn shrink_if_sparse<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if is_sparse(map.len(), map.capacity()) {
        // With room to grow, so that values that come and go do not make it shrink and grow in turn.
        map.shrink_to(map.len() * 2);
    }
}

/// Makes a queue smaller that is almost empty.
pub fn shrink_queue_if_sparse<T>(queue: &mut VecDeque<T>) {
    if is_sparse(queue.len(), queue.capacity()) {
        queue.shrink_to(queue.len() * 2);
    }
}

fn is_sparse(used: usize, room: usize) -> bool {
    room > KEPT_CAPACITY && used < room / SPARSE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sparse_shrinks() {
        let mut map: HashMap<u32, u32> = (0..100_000).map(|number| (number, number)).collect();
        let mut queue: VecDeque<u32> = (0..100_000).collect();
        for number in 0..99_990 {
            map.remove(&number);
            shrink_if_sparse(&mut map);
            queue.pop_front();
            shrink_queue_if_sparse(&mut queue);
        }
        assert!(map.len() == 10 && map.capacity() <= 2 * KEPT_CAPACITY, "{}", map.capacity());
        assert!(queue.len() == 10 && queue.capacity() <= 2 * KEPT_CAPACITY, "{}", queue.capacity());
        map.reserve(KEPT_CAPACITY / 2);
        let room = map.capacity();
        shrink_if_sparse(&mut map);
        assert_eq!(map.capacity(), room, "little room is kept");
    }
}
