//! Places for clients: how many may be connected, listen to events, and have lists made, and how many of them may be of one user.
//!
//! Root and the daemon's own user have places apart from all others, so that nobody locks them out. Streams, which stay for days,
//! have places apart from requests, which are answered in milliseconds.

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::unistd::geteuid;
use thiserror::Error;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::engine::COMMANDS_MAX;

/// Everybody who is connected. Streams count here too, but cannot take all of them. Root gets a thousand, because its scripts may
/// start that many commands at once; each costs two descriptors and some 10 KB.
const CONNECTIONS: Quota = Quota { what: "connections", root: 1024, others: 256, each: 128 };
// Who has a place is answered, and not told that the engine is too busy: all of them together do not fill its queue.
const _: () = assert!(CONNECTIONS.root + CONNECTIONS.others < COMMANDS_MAX);
/// Streams of events. An event is compared with the filter of each of them, and each may have a megabyte wait for it.
const STREAMS: Quota = Quota { what: "streams of events", root: 128, others: 64, each: 32 };
/// Lists that are being made or read: the engine has all of them in its hands at the same time.
const LISTS: Quota = Quota { what: "unfinished lists", root: 64, others: 64, each: 32 };

/// Open files of a daemon whose places are all taken: two for each connection, and what hooks, outputs and history have open.
pub(super) const OPEN_FILES: u64 = 4096;

/// How long a request for a list waits for its place: most lists take milliseconds.
const LIST_WAIT: Duration = Duration::from_secs(10);

/// How many places there are of one kind.
#[derive(Clone, Copy, Debug)]
struct Quota {
    /// What has a place, as in "32 connections".
    what: &'static str,
    /// Places of root and of the daemon's own user together.
    root: usize,
    /// Places of all other users together.
    others: usize,
    /// Places of each other user.
    each: usize,
}

/// The places of one kind, and who has them.
struct Places {
    quota: Quota,
    root: Arc<Semaphore>,
    others: Arc<Semaphore>,
    /// Of each other user who has a place. Locked for a look-up only; the server has one thread, so nobody ever waits.
    users: Mutex<HashMap<u32, Arc<Semaphore>>>,
    /// Uid of the daemon.
    own: u32,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    /// Of the places of the user; root has no limit of its own.
    _of_user: Option<OwnedSemaphorePermit>,
}

impl Places {
    fn new(quota: Quota, own: u32) -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self { quota, root: semaphore(quota.root), others: semaphore(quota.others), users: Mutex::default(), own }
    }

    /// Returns the places of a user and those of all who share with that user.
    fn of(&self, uid: u32) -> (Option<Arc<Semaphore>>, Arc<Semaphore>) {
        if self.is_root(uid) {
            return (None, Arc::clone(&self.root));
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who have no place are forgotten: their semaphore is nowhere but here.
        users.retain(|_, places| Arc::strong_count(places) > 1);
        let places = users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(self.quota.each)));
        (Some(Arc::clone(places)), Arc::clone(&self.others))
    }

    fn is_root(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own
    }

    /// Takes a place for a user, if there is one.
    fn take(&self, uid: u32) -> Result<Place, NoPlace> {
        let (user, all) = self.of(uid);
        // The user's first: who has too many takes none from others, not even for a moment.
        let of_user = match user.map(Semaphore::try_acquire_owned) {
            Some(Err(_)) => return Err(self.full(uid, true)),
            Some(Ok(permit)) => Some(permit),
            None => None,
        };
        let of_all = all.try_acquire_owned().map_err(|_| self.full(uid, false))?;
        Ok(Place { _of_all: of_all, _of_user: of_user })
    }

    /// Takes a place for a user as soon as there is one, in the order in which users ask.
    async fn wait(&self, uid: u32, limit: Duration) -> Result<Place, NoPlace> {
        let (user, all) = self.of(uid);
        let has_too_many = user.as_ref().is_some_and(|user| user.available_permits() == 0);
        let both = async {
            let of_user = match user {
                Some(user) => Some(user.acquire_owned().await?),
                None => None,
            };
            Ok::<_, AcquireError>(Place { _of_all: all.acquire_owned().await?, _of_user: of_user })
        };
        // The semaphores are never closed, so that only the time can be up.
        timeout(limit, both).await.ok().and_then(Result::ok).ok_or_else(|| self.full(uid, has_too_many))
    }

    /// Returns how many places are taken.
    fn taken(&self) -> usize {
        let Quota { root, others, .. } = self.quota;
        root + others - self.root.available_permits() - self.others.available_permits()
    }

    /// Returns why there is no place for a user: because it has too many, or because all who share with it do.
    fn full(&self, uid: u32, has_too_many: bool) -> NoPlace {
        let Quota { what, root, others, each } = self.quota;
        let (limit, whose) = match (self.is_root(uid), has_too_many) {
            (true, _) => (root, "root".to_owned()),
            (false, true) => (each, format!("uid {uid}")),
            (false, false) => (others, "all users but root together".to_owned()),
        };
        NoPlace { what, limit, whose }
    }
}

/// All places of a kind are taken.
#[derive(Debug, Error)]
#[error(
    "there are {limit} {what} of {whose}, and there may be no more: end some of them (`ss -xp` shows the processes), or try again \
     later"
)]
pub(super) struct NoPlace {
    what: &'static str,
    limit: usize,
    whose: String,
}

/// All places, and how many clients got none.
pub(super) struct AllPlaces {
    connections: Places,
    streams: Places,
    lists: Places,
    refused: AtomicU64,
}

impl AllPlaces {
    pub(super) fn new() -> Self {
        let of = |quota| Places::new(quota, geteuid().as_raw());
        Self { connections: of(CONNECTIONS), streams: of(STREAMS), lists: of(LISTS), refused: AtomicU64::new(0) }
    }

    /// Returns how many clients are connected that do not listen to events.
    pub(super) fn requests(&self) -> usize {
        self.connections.taken().saturating_sub(self.streams.taken())
    }

    /// Returns how many clients listen to events.
    pub(super) fn streams(&self) -> usize {
        self.streams.taken()
    }

    /// Returns how many clients and requests were refused for want of a place.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn count<T>(&self, result: Result<T, NoPlace>) -> Result<T, NoPlace> {
        result.inspect_err(|_| _ = self.refused.fetch_add(1, Ordering::Relaxed))
    }
}

/// A client that is connected.
#[derive(Clone)]
pub(super) struct Peer {
    uid: u32,
    pub(super) places: Arc<AllPlaces>,
    /// The connection once more, because hyper keeps the first descriptor to itself.
    connection: Arc<UnixStream>,
}

impl Peer {
    /// Returns the client behind a connection, and its place.
    ///
    /// # Errors
    ///
    /// The inner one when there is no place for it; the outer one when the system refuses something.
    pub(super) fn admit(stream: &UnixStream, places: &Arc<AllPlaces>) -> io::Result<Result<(Self, Place), NoPlace>> {
        // `SO_PEERCRED`: who has called `connect`, whoever uses the connection now.
        let uid = stream.peer_cred()?.uid();
        let place = match places.count(places.connections.take(uid)) {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        let connection = Arc::new(UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?);
        Ok(Ok((Self { uid, places: Arc::clone(places), connection }, place)))
    }

    /// Returns whose requests these are; `None`: root's or those of the daemon's own user.
    pub(super) fn user(&self) -> Option<u32> {
        (!self.places.connections.is_root(self.uid)).then_some(self.uid)
    }

    /// Takes a place among the streams.
    pub(super) fn stream(&self) -> Result<Place, NoPlace> {
        self.places.count(self.places.streams.take(self.uid))
    }

    /// Takes a place among the lists, and waits for it if it has to.
    pub(super) async fn list(&self) -> Result<Place, NoPlace> {
        self.places.count(self.places.lists.wait(self.uid, LIST_WAIT).await)
    }

    /// Returns a future that is ready when the client has closed the connection, or its half of it, which hyper takes for the same.
    pub(super) fn hung_up(&self) -> impl Future<Output = ()> + Send + use<> {
        let connection = Arc::clone(&self.connection);
        // Hyper notices the end of a connection by reading, but not while it holds a part of a next request: with one byte too
        // many a client would stay a client for ever. The end comes with every interest; this one has nothing else, so that
        // data to read wakes nobody in vain.
        async move { _ = connection.ready(Interest::PRIORITY).await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { what: "tests", root: 2, others: 5, each: 3 };
    const OWN: u32 = 990;

    fn refusal(places: &Places, uid: u32) -> String {
        places.take(uid).unwrap_err().to_string()
    }

    #[test]
    fn nobody_takes_the_places_of_others() {
        let places = Places::new(QUOTA, OWN);
        let take = |uid| (0..9).map_while(|_| places.take(uid).ok()).collect::<Vec<_>>();
        let first = take(1000);
        assert_eq!(first.len(), 3, "one user cannot take all");
        assert!(
            refusal(&places, 1000).starts_with("there are 3 tests of uid 1000, and there may be no more: end some")
        );
        let second = take(1001);
        assert_eq!(second.len(), 2, "what the first has left");
        assert!(refusal(&places, 1002).starts_with("there are 5 tests of all users but root together, and there may"));
        let root = [places.take(0).unwrap(), places.take(OWN).unwrap()];
        assert!(refusal(&places, 0).starts_with("there are 2 tests of root, and there may be no more"));
        assert_eq!(places.taken(), 7);
        drop(first);
        assert_eq!(take(1001).len(), 1, "three in all");
        assert_eq!(take(1002).len(), 3);
        drop((second, root));
        assert_eq!(places.taken(), 0);
        drop(places.take(1003));
        assert_eq!(places.users.lock().unwrap().len(), 1, "who has left is forgotten");
    }

    #[tokio::test]
    async fn a_place_is_waited_for_but_not_for_ever() {
        let places = Places::new(QUOTA, OWN);
        let root = [places.take(0).unwrap(), places.take(0).unwrap()];
        let soon = Duration::from_millis(20);
        assert!(places.wait(0, soon).await.is_err());
        let places = &places;
        let (place, ()) = tokio::join!(places.wait(0, LIST_WAIT), async {
            tokio::time::sleep(soon).await;
            drop(root);
        });
        assert!(place.is_ok() && places.taken() == 1);
        let mine = [places.take(7).unwrap(), places.take(7).unwrap(), places.take(7).unwrap()];
        assert!(places.wait(7, soon).await.unwrap_err().to_string().contains("3 tests of uid 7"));
        drop(mine);
    }

    #[tokio::test]
    async fn the_end_of_a_client_shows_behind_what_nobody_has_read() {
        use std::io::Write as _;

        let (server, client) = UnixStream::pair().unwrap();
        let (peer, place) = Peer::admit(&server, &Arc::new(AllPlaces::new())).unwrap().unwrap();
        assert_eq!(peer.places.requests(), 1);
        let hung_up = tokio::spawn(peer.hung_up());
        let mut client = client.into_std().unwrap();
        client.write_all(b"more").unwrap();
        server.readable().await.unwrap();
        assert!(!hung_up.is_finished(), "the client is still there");
        drop(client);
        timeout(Duration::from_secs(5), hung_up).await.unwrap().unwrap();
        drop(place);
        assert_eq!(peer.places.requests(), 0);
    }
}
