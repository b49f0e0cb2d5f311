//! A thread that looks up in the kernel's routing tables why an attempt failed before its SYN.
//!
//! Without trampolines the errno of such a `connect` is not seen: `tcp_v4_connect` and `tcp_v6_connect` return it
//! straight to the caller and leave nothing in the socket. The same look-up, made again a moment later in the socket's
//! network namespace, fails in the same way as long as nobody changed the tables meanwhile.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd as _,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{DecodeError, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{SockaddrIn6, connect, getsockname, setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike as _},
};
use tracing::debug;

use crate::{kernel::iterate, os, privileged::namespaces};

/// Most look-ups that wait; more are refused.
const WAITING_MAX: usize = 1024;
/// Most handles of namespaces that are kept: a walk over `/proc` costs as much as ten look-ups, and a failing client tries
/// many times.
const NAMESPACES_MAX: usize = 16;
/// How long they are kept: a handle keeps its namespace in being.
const NAMESPACE_KEPT: Duration = Duration::from_secs(2);
/// Most results that are remembered: a client that tries again and again costs one look-up.
const ANSWERS_MAX: usize = 64;
/// How long they are remembered.
const ANSWER_KEPT: Duration = Duration::from_millis(100);
/// How long to wait for the kernel's answer, in seconds. It answers within `send`, so this never passes.
const PATIENCE_SECONDS: i64 = 1;
/// Longest answer in bytes (`NLMSG_GOODSIZE` in `include/linux/netlink.h`: at most 8 KiB).
const ANSWER_BYTES: usize = 8 << 10;
/// Any port: nothing is sent to it.
const DISCARD_PORT: u16 = 9;

/// A failed attempt, as far as its route depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuestion {
    /// Comes back with the answer.
    pub token: u64,
    /// Inode of the socket's network namespace.
    pub namespace: u32,
    /// Its destination; IPv4-mapped addresses count as IPv4.
    pub remote: IpAddr,
    /// The address that the socket was bound to.
    pub local: Option<IpAddr>,
    /// The socket's owner, as the first user namespace numbers users (`sk_uid`).
    pub uid: u32,
    /// The socket's mark (`sk_mark`).
    pub mark: u32,
    /// Interface that the socket is bound to (`sk_bound_dev_if`); 0: none.
    pub device: u32,
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteAnswer {
    /// The question's.
    pub token: u64,
    /// The positive errno of `connect`; `None`: there is a route, or the look-up is impossible.
    pub errno: Option<u32>,
}

/// The thread that looks up routes.
#[derive(Clone, Debug)]
pub struct Routes {
    questions: SyncSender<RouteQuestion>,
}

impl Routes {
    /// Starts the thread; `answer` is called on it, once for each question.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(answer: impl Fn(RouteAnswer) + Send + 'static) -> io::Result<Self> {
        let (questions, receiver) = sync_channel(WAITING_MAX);
        thread::Builder::new().name("netconn-route".into()).spawn(move || run(&receiver, answer))?;
        Ok(Self { questions })
    }

    /// Asks; `false` if too many questions wait.
    pub fn ask(&self, question: RouteQuestion) -> bool {
        // Never waits: the engine's thread asks.
        self.questions.try_send(question).is_ok()
    }
}

/// Answers until nobody can ask any more. Wakes up without a question only to release namespaces.
fn run(questions: &Receiver<RouteQuestion>, answer: impl Fn(RouteAnswer)) {
    os::lower_thread_priority();
    let mut asker = Asker::new();
    loop {
        // At home it holds no namespace, so it may sleep for as long as nothing fails.
        let next = if asker.is_at_home() {
            questions.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            questions.recv_timeout(NAMESPACE_KEPT)
        };
        match next {
            Ok(question) => answer(RouteAnswer { token: question.token, errno: asker.errno(question) }),
            Err(RecvTimeoutError::Timeout) => asker.go_home(),
            // The engine has ended, and with it the last `Routes`.
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// A namespace that was searched for, with its handle if it was found.
struct Namespace {
    inode: u32,
    file: Option<File>,
    since: Instant,
}

/// The state of the thread. The newest entries are last.
struct Asker {
    /// The process's own namespace.
    home: Option<u32>,
    /// The namespace that the thread is in.
    here: Option<u32>,
    namespaces: VecDeque<Namespace>,
    answers: VecDeque<(RouteQuestion, Option<u32>, Instant)>,
}

impl Asker {
    fn new() -> Self {
        let home = iterate::own_namespace().and_then(|inode| u32::try_from(inode).ok());
        Self { home, here: home, namespaces: VecDeque::new(), answers: VecDeque::new() }
    }

    fn errno(&mut self, question: RouteQuestion) -> Option<u32> {
        let question = plain(question);
        if let Some(errno) = never_routed(question.remote, question.device) {
            return Some(errno);
        }
        let now = Instant::now();
        self.answers.retain(|(.., since)| now.duration_since(*since) < ANSWER_KEPT);
        if let Some((_, errno, _)) = self.answers.iter().find(|(asked, ..)| *asked == question) {
            return *errno;
        }
        // A question that cannot be asked is remembered too: the next would look through all processes again.
        let errno = if self.enter(question.namespace, now) { errno_here(&question) } else { None };
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back((question, errno, now));
        errno
    }

    /// Enters a namespace; returns whether the thread is in it now. It needs no privilege to stay where it is.
    fn enter(&mut self, inode: u32, now: Instant) -> bool {
        self.namespaces.retain(|namespace| now.duration_since(namespace.since) < NAMESPACE_KEPT);
        if self.here == Some(inode) {
            return true;
        }
        if !self.namespaces.iter().any(|namespace| namespace.inode == inode) {
            if self.namespaces.len() == NAMESPACES_MAX {
                // The oldest, which has to be searched for again soonest.
                self.namespaces.pop_front();
            }
            // A namespace that is not found is remembered as well: that search takes longest.
            self.namespaces.push_back(Namespace { inode, file: iterate::namespace(inode.into()), since: now });
        }
        // It is there: found before, or just added, also without a file.
        let found = self.namespaces.iter().find(|namespace| namespace.inode == inode);
        let Some(file) = found.and_then(|namespace| namespace.file.as_ref()) else { return false };
        // On an error the thread stays where it was, which `here` still names.
        match namespaces::enter(file) {
            Ok(()) => self.here = Some(inode),
            Err(error) => debug!("a network namespace cannot be entered: {error}"),
        }
        self.here == Some(inode)
    }

    fn is_at_home(&self) -> bool {
        self.here == self.home && self.namespaces.is_empty()
    }

    /// Returns to the own namespace and releases all others, which would not end before.
    fn go_home(&mut self) {
        if let Some(home) = self.home {
            self.enter(home, Instant::now());
        }
        self.namespaces.clear();
    }
}

/// Returns the question as the look-up sees it, so that equal look-ups compare equal.
fn plain(question: RouteQuestion) -> RouteQuestion {
    let remote = question.remote.to_canonical();
    let local = question.local.map(|local| local.to_canonical());
    let local = local.filter(|local| local.is_ipv4() == remote.is_ipv4() && !local.is_unspecified());
    // Connecting to the unspecified address connects to this host (`tcp_v6_connect`, `ip_route_output_key_hash_rcu`).
    let remote = match remote {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => local.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        remote => remote,
    };
    // No token: it differs from attempt to attempt.
    RouteQuestion { token: 0, remote, local, ..question }
}

/// Returns the errno for destinations that `tcp_v6_connect` (`net/ipv6/tcp_ipv6.c`) refuses before it looks up a route:
/// multicast, and link-local addresses without an interface.
fn never_routed(remote: IpAddr, device: u32) -> Option<u32> {
    let IpAddr::V6(remote) = remote else { return None };
    if remote.is_multicast() {
        return Some(libc::ENETUNREACH.unsigned_abs());
    }
    (remote.is_unicast_link_local() && device == 0).then_some(libc::EINVAL.unsigned_abs())
}

/// Returns the errno in the namespace that the thread is in.
fn errno_here(question: &RouteQuestion) -> Option<u32> {
    // IPv4 chooses its source with the route; IPv6 before it, unless the socket is bound.
    let RouteQuestion { remote: IpAddr::V6(remote), local: None, device, .. } = *question else {
        return look_up(question);
    };
    match source(remote, device) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Some(libc::EADDRNOTAVAIL.unsigned_abs()),
        // IPv6 then looks up the route for this source.
        Ok(source) if device == 0 => {
            look_up(question).and_then(|_| look_up(&RouteQuestion { local: Some(source), ..*question }))
        }
        _ => look_up(question),
    }
}

/// Returns the source address that IPv6 would choose, which it does first, even without a route (`ip6_dst_lookup_tail` in
/// `net/ipv6/ip6_output.c`). Netlink does not report it; connecting a UDP socket reveals it without sending anything.
fn source(remote: Ipv6Addr, device: u32) -> io::Result<IpAddr> {
    // Not bound: netconn would report a bound UDP socket.
    let asking = namespaces::datagram()?;
    connect(asking.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(remote, DISCARD_PORT, 0, device)))?;
    let source: SockaddrIn6 = getsockname(asking.as_raw_fd())?;
    Ok(source.ip().into())
}

/// Looks up a route and returns the errno.
fn look_up(question: &RouteQuestion) -> Option<u32> {
    match exchange(question) {
        Ok(answer) => errno_of(answer),
        Err(error) => {
            debug!("the kernel does not answer about a route: {error}");
            None
        }
    }
}

/// Asks the kernel for a route.
fn exchange(question: &RouteQuestion) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    // Each time anew: a socket belongs to the namespace in which it was made.
    let socket = namespaces::netlink(NETLINK_ROUTE)?;
    // A connected socket only hears the kernel (`netlink_getsockbyportid` in net/netlink/af_netlink.c).
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    let mut packet = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(request(question)));
    packet.header.flags = NLM_F_REQUEST;
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::deserialize(&answer).map_err(|error: DecodeError| io::Error::other(error))?;
    Ok(answer.payload)
}

/// Returns the request with what `ip_route_connect` and `tcp_v6_connect` look up, as far as it is known: not the ports, the
/// type of service, or `SO_DONTROUTE`.
fn request(question: &RouteQuestion) -> RouteMessage {
    let RouteQuestion { token: _, namespace: _, remote, local, uid, mark, device } = *question;
    let (family, bits) = match remote {
        IpAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::BITS as u8),
        IpAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::BITS as u8),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message.attributes = vec![
        RouteAttribute::Destination(remote.into()),
        RouteAttribute::Uid(uid),
        RouteAttribute::IpProto(libc::IPPROTO_TCP as u8),
    ];
    // A bound IPv6 socket stays on its interface. Netlink's look-up does so only without a source
    // (`ip6_route_output_flags_noref` in net/ipv6/route.c): rules about the source are not seen then.
    if let Some(local) = local.filter(|local| local.is_ipv4() || device == 0) {
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Source(local.into()));
    }
    if mark != 0 {
        message.attributes.push(RouteAttribute::Mark(mark));
    }
    if device != 0 {
        message.attributes.push(RouteAttribute::Oif(device));
    }
    message
}

/// Returns the errno of `connect` for an answer of the kernel.
fn errno_of(answer: NetlinkPayload<RouteNetlinkMessage>) -> Option<u32> {
    let errno = match answer {
        // Wrapping, because a damaged code may be the smallest number, which has no negative.
        NetlinkPayload::Error(error) => error.raw_code().wrapping_neg(),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => errno_of_route(&route),
        _ => 0,
    };
    match errno {
        // An errno that is not the route's would be reported as the reason of the attempt.
        // These are not about the route: no memory, no permission, no such family (`rtnetlink_rcv_msg`).
        libc::ENOMEM | libc::ENOBUFS | libc::EPERM | libc::EOPNOTSUPP => None,
        errno => u32::try_from(errno).ok().filter(|errno| *errno != 0),
    }
}

/// Returns the errno of `connect` for a route, 0 if it leads somewhere.
fn errno_of_route(route: &RouteMessage) -> i32 {
    let told = route.attributes.iter().find_map(|attribute| match attribute {
        // Negative, in an unsigned field (`rtnl_put_cacheinfo` in net/core/rtnetlink.c).
        RouteAttribute::CacheInfo(info) if info.error != 0 => Some(0_i32.wrapping_sub_unsigned(info.error)),
        _ => None,
    });
    told.unwrap_or(match route.header.kind {
        // TCP has one peer (`tcp_v4_connect` in net/ipv4/tcp_ipv4.c).
        RouteType::Broadcast | RouteType::Multicast => libc::ENETUNREACH,
        // `fib_props` in net/ipv4/fib_semantics.c, `ip6_rt_type_to_error` in net/ipv6/route.c.
        RouteType::Unreachable => libc::EHOSTUNREACH,
        RouteType::Prohibit => libc::EACCES,
        RouteType::BlackHole => libc::EINVAL,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroI32, sync::mpsc::channel};

    use netlink_packet_core::{ErrorBuffer, ErrorMessage, Parseable as _};
    use netlink_packet_route::route::RouteCacheInfo;

    use super::*;

    fn question(remote: &str) -> RouteQuestion {
        RouteQuestion {
            token: 7,
            namespace: iterate::own_namespace().unwrap().try_into().unwrap(),
            remote: remote.parse().unwrap(),
            local: None,
            uid: 0,
            mark: 0,
            device: 0,
        }
    }

    fn ask(questions: &[RouteQuestion]) -> Vec<Option<u32>> {
        let (sender, answers) = channel::<RouteAnswer>();
        let routes = Routes::start(move |answer| sender.send(answer).unwrap()).unwrap();
        questions.iter().for_each(|question| assert!(routes.ask(*question)));
        drop(routes);
        let answers: Vec<_> = answers.iter().collect();
        assert!(answers.iter().map(|answer| answer.token).eq(questions.iter().map(|question| question.token)));
        answers.iter().map(|answer| answer.errno).collect()
    }

    #[test]
    fn this_host_is_reached() {
        let mapped = question("::ffff:127.0.0.1");
        let bound = RouteQuestion { local: Some("127.0.0.1".parse().unwrap()), ..question("127.0.0.1") };
        assert_eq!(ask(&[question("127.0.0.1"), question("0.0.0.0"), mapped, bound, bound]), [None; 5]);
    }

    #[test]
    fn a_group_is_not() {
        let on_loopback = RouteQuestion { device: 1, ..question("224.0.0.1") };
        let questions = [question("224.0.0.1"), on_loopback, question("255.255.255.255"), question("ff02::1")];
        assert_eq!(ask(&questions), [Some(101); 4]);
    }

    #[test]
    fn link_local_addresses_need_an_interface() {
        assert_eq!(ask(&[question("fe80::1")]), [Some(22)]);
    }

    #[test]
    fn what_is_not_there_is_no_error_of_the_route() {
        assert_eq!(ask(&[RouteQuestion { namespace: 0, ..question("10.1.2.3") }]), [None]);
    }

    #[test]
    fn a_source_of_another_host_is_refused() {
        let answers = ask(&[RouteQuestion { local: Some("192.0.2.1".parse().unwrap()), ..question("127.0.0.1") }]);
        // Not the same in all kernels: 101 in 6.18.
        assert!(matches!(answers[..], [Some(22 | 101)]), "{answers:?}");
    }

    fn told(code: i32) -> Option<u32> {
        let error = ErrorMessage::parse(&ErrorBuffer::new(&code.to_ne_bytes())).unwrap();
        assert_eq!(error.code, NonZeroI32::new(code));
        errno_of(NetlinkPayload::Error(error))
    }

    #[test]
    fn errors_are_those_of_the_route_only() {
        for errno in [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::ENODEV] {
            assert_eq!(told(-errno), Some(errno.unsigned_abs()));
        }
        for code in [0, -libc::ENOMEM, -libc::EPERM, -libc::EOPNOTSUPP, 5, i32::MIN] {
            assert_eq!(told(code), None);
        }
    }

    #[test]
    fn routes_may_lead_nowhere() {
        let route = |kind, error: i32| {
            let mut route = RouteMessage::default();
            route.header.kind = kind;
            let mut info = RouteCacheInfo::parse(&[0; 32]).unwrap();
            info.error = error.cast_unsigned();
            route.attributes.push(RouteAttribute::CacheInfo(info));
            errno_of(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)))
        };
        for (kind, errno) in [
            (RouteType::Unicast, None),
            (RouteType::Local, None),
            (RouteType::Anycast, None),
            (RouteType::Broadcast, Some(101)),
            (RouteType::Multicast, Some(101)),
            (RouteType::Unreachable, Some(113)),
            (RouteType::Prohibit, Some(13)),
            (RouteType::BlackHole, Some(22)),
        ] {
            assert_eq!(route(kind, 0), errno);
        }
        assert_eq!(route(RouteType::Unreachable, -libc::ENETUNREACH), Some(101));
        assert_eq!(route(RouteType::Unicast, -libc::EACCES), Some(13));
    }

    #[test]
    fn too_many_questions_are_refused() {
        let (go, wait) = channel::<()>();
        let routes = Routes::start(move |_| assert!(wait.recv().is_err())).unwrap();
        let refused = (0..2 * WAITING_MAX).filter(|_| !routes.ask(question("127.0.0.1"))).count();
        assert!(refused >= WAITING_MAX - 1);
        drop(go);
    }
}
