//! The memory pool of a search, which its operators share fairly.

use std::fmt::{self, Display, Formatter};

use datafusion::{
    error::Result,
    execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
};

/// Name under which the operator that distributes rows to threads registers its memory.
const EXCHANGE: &str = "RepartitionExec";

/// DataFusion's fair pool, except that rows waiting between threads are counted but never refused. They take little
/// memory, as their channels are bounded. If refused, DataFusion 55 would spill them to files, and two such operators
/// can deadlock (<https://github.com/apache/datafusion/issues/24883>, fixed after 55.2).
#[derive(Debug)]
pub(crate) struct SearchPool(FairSpillPool);

impl SearchPool {
    /// Creates a pool of this size.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(FairSpillPool::new(bytes))
    }
}

fn is_exchange(consumer: &MemoryConsumer) -> bool {
    consumer.name().starts_with(EXCHANGE)
}

impl Display for SearchPool {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl MemoryPool for SearchPool {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        // A consumer that is never refused needs no fair share.
        if !is_exchange(consumer) {
            self.0.register(consumer);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if !is_exchange(consumer) {
            self.0.unregister(consumer);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        // `grow` never refuses in any pool; DataFusion uses it where an operator cannot spill.
        self.0.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.0.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if is_exchange(reservation.consumer()) {
            // `grow` counts the bytes, so that the limit applies to the other operators.
            self.0.grow(reservation, additional);
            return Ok(());
        }
        self.0.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.0.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_waits_between_threads_is_not_refused() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SearchPool::new(1_000));
        let sort = MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(&pool);
        let exchange = MemoryConsumer::new("RepartitionExec[0]").with_can_spill(true).register(&pool);
        exchange.try_grow(5_000).unwrap();
        sort.try_grow(1_000).unwrap();
        assert!(sort.try_grow(1).is_err());
        assert_eq!(pool.reserved(), 6_000);
        drop((sort, exchange));
        assert_eq!(pool.reserved(), 0);
    }
}
