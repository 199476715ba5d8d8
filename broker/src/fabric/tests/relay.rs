//! A stretch of network between two nodes that can be made bad.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::AtomicBool;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::*;

const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Passes datagrams on to where it leads, as well as it is allowed to.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    _task: JoinSet<()>,
}

struct State {
    leads_to: Mutex<SocketAddr>,
    is_cut: AtomicBool,
    lost_permille: AtomicU64,
    doubled_permille: AtomicU64,
    damaged_permille: AtomicU64,
    chance: AtomicU64,
}

impl Relay {
    pub(super) async fn start(leads_to: SocketAddr) -> Relay {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let state = Arc::new(State {
            leads_to: Mutex::new(leads_to),
            is_cut: AtomicBool::new(false),
            lost_permille: AtomicU64::new(0),
            doubled_permille: AtomicU64::new(0),
            damaged_permille: AtomicU64::new(0),
            chance: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
        });
        let mut task = JoinSet::new();
        task.spawn(forward(socket, state.clone()));
        Relay { address, state, _task: task }
    }

    pub(super) fn lead_to(&self, address: SocketAddr) {
        *self.state.leads_to.lock() = address;
    }

    pub(super) fn cut(&self, is_cut: bool) {
        self.state.is_cut.store(is_cut, Ordering::Relaxed);
    }

    pub(super) fn degrade(&self, lost: u64, doubled: u64, damaged: u64) {
        self.state.lost_permille.store(lost, Ordering::Relaxed);
        self.state.doubled_permille.store(doubled, Ordering::Relaxed);
        self.state.damaged_permille.store(damaged, Ordering::Relaxed);
    }
}

impl State {
    /// What becomes of a datagram: how many of it go on, and whether a bit of it is wrong.
    fn fate(&self) -> (usize, bool) {
        let is_one_of = |permille: &AtomicU64| self.below(1000) < permille.load(Ordering::Relaxed);
        if self.is_cut.load(Ordering::Relaxed) || is_one_of(&self.lost_permille) {
            return (0, false);
        }
        (1 + usize::from(is_one_of(&self.doubled_permille)), is_one_of(&self.damaged_permille))
    }

    fn below(&self, bound: u64) -> u64 {
        let mut chance = self.chance.load(Ordering::Relaxed);
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        self.chance.store(chance, Ordering::Relaxed);
        chance % bound
    }

    async fn pass(&self, datagram: &mut [u8], socket: &UdpSocket, to: SocketAddr) {
        let (times, is_damaged) = self.fate();
        if is_damaged && let Ok(length) = u64::try_from(datagram.len()) {
            datagram[self.below(length) as usize] ^= 1;
        }
        for _ in 0..times {
            // A full buffer is one more loss.
            let _ = socket.send_to(datagram, to).await;
        }
    }
}

/// Each sender gets a socket of its own, so that answers find their way back.
async fn forward(socket: Arc<UdpSocket>, state: Arc<State>) {
    let mut backs: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else { continue };
        if let Entry::Vacant(vacant) = backs.entry(from) {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            tasks.spawn(answer(back.clone(), socket.clone(), from, state.clone()));
            vacant.insert(back);
        }
        let to = *state.leads_to.lock();
        state.pass(&mut datagram[..length], &backs[&from], to).await;
    }
}

async fn answer(back: Arc<UdpSocket>, socket: Arc<UdpSocket>, to: SocketAddr, state: Arc<State>) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, _)) = back.recv_from(&mut datagram).await else { continue };
        state.pass(&mut datagram[..length], &socket, to).await;
    }
}
