//! What every line between ranks does alike: the first test of each implementation.

use super::Coordinator;
use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A deadline that no healthy rank meets.
const LONG: Duration = Duration::from_secs(120);
/// A deadline that a test waits for.
const SHORT: Duration = Duration::from_millis(400);
/// Longer than any piece it may be sent in.
const LARGE_BYTES: usize = (21 << 20) + 12345;

/// The ranks of a fresh job, and what of it is still in its store.
pub struct Job {
    /// In rank order.
    pub ranks: Vec<Arc<dyn Coordinator>>,
    /// How many values the store holds.
    pub held: Box<dyn Fn() -> usize>,
}

impl fmt::Debug for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Job").field("ranks", &self.ranks).finish_non_exhaustive()
    }
}

/// Checks an implementation on jobs of up to `ranks_max` ranks. `start` makes a job of so many ranks, which wait for each
/// other no longer than so long. Panics where it differs from the contract.
pub fn all(ranks_max: u32, start: &dyn Fn(u32, Duration) -> Job) {
    type Case = fn(&[Arc<dyn Coordinator>]);
    const CASES: &[Case] =
        &[gathers, broadcasts, shares, meets, groups_at_once, tags_at_once, again_and_again];
    for ranks in [1, 2, 3, 5, 8, 16].into_iter().filter(|ranks| *ranks <= ranks_max) {
        let job = start(ranks, LONG);
        check_numbers(&job, ranks);
        for case in CASES {
            case(&job.ranks);
            assert_eq!((job.held)(), 0, "{ranks} ranks: left behind");
        }
    }
    wrong_groups(&start(ranks_max.min(4), LONG).ranks);
    if ranks_max >= 4 {
        let job = start(4, LONG);
        large(&job.ranks);
        lengths_differ(&job.ranks);
        assert_eq!((job.held)(), 0, "left behind");
        missing_reader(&start(4, SHORT).ranks);
        missing_sender(&start(4, SHORT).ranks);
        missing_at_a_gather(&start(4, SHORT).ranks);
        comes_back(&start(4, SHORT).ranks);
    }
}

/// Runs `body` as every rank of `who` at the same time; results in that order.
fn at<T: Send>(
    ranks: &[Arc<dyn Coordinator>],
    who: &[u32],
    body: impl Fn(&dyn Coordinator) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let body = &body;
        let handles: Vec<_> =
            who.iter().map(|rank| scope.spawn(move || body(&*ranks[*rank as usize]))).collect();
        handles.into_iter().map(|handle| handle.join().expect("a rank's checks hold")).collect()
    })
}

fn everyone(ranks: &[Arc<dyn Coordinator>]) -> Vec<u32> {
    (0..ranks.len() as u32).collect()
}

/// Bytes that tell rank, purpose and position apart.
fn bytes_of(rank: u32, salt: u32, byte_len: usize) -> Vec<u8> {
    let start = rank.wrapping_mul(7919).wrapping_add(salt.wrapping_mul(104_729));
    (0..byte_len as u32)
        .map(|index| (start.wrapping_add(index).wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect()
}

fn check_numbers(job: &Job, ranks: u32) {
    assert_eq!(job.ranks.len(), ranks as usize);
    for (index, rank) in job.ranks.iter().enumerate() {
        assert_eq!((rank.rank(), rank.ranks()), (index as u32, ranks));
    }
}

fn gathers(ranks: &[Arc<dyn Coordinator>]) {
    // Rank r sends r * unit bytes: rank 0, and with the unit zero every rank, sends none.
    for unit in [0, 1, 1000, 20_001] {
        let sent = |rank: u32| bytes_of(rank, unit, (rank * unit) as usize);
        let all = at(ranks, &everyone(ranks), |line| {
            line.gather(&format!("gather-{unit}"), &sent(line.rank())).unwrap()
        });
        let expected: Vec<Vec<u8>> = everyone(ranks).into_iter().map(sent).collect();
        assert!(all[0].as_ref() == Some(&expected), "unit {unit}: other bytes than sent");
        assert!(all[1..].iter().all(Option::is_none));
    }
}

fn broadcasts(ranks: &[Arc<dyn Coordinator>]) {
    let group = everyone(ranks);
    for from in [0, ranks.len() as u32 / 2, ranks.len() as u32 - 1] {
        for byte_len in [0, 1, 16 << 10, (16 << 10) + 1, 300_000] {
            let sent = bytes_of(from, 1, byte_len);
            let got = at(ranks, &group, |line| {
                let mut bytes = if line.rank() == from { sent.clone() } else { vec![0xee; byte_len] };
                line.broadcast(&format!("{from}-{byte_len}"), from, &group, &mut bytes).unwrap();
                bytes
            });
            assert!(got.iter().all(|bytes| *bytes == sent), "{byte_len} bytes from {from}");
        }
    }
}

fn shares(ranks: &[Arc<dyn Coordinator>]) {
    for byte_len in [0, 5, 100_000] {
        let got = at(ranks, &everyone(ranks), |line| {
            line.share(&format!("share-{byte_len}"), &bytes_of(line.rank(), 2, byte_len)).unwrap()
        });
        assert!(got.iter().all(|bytes| *bytes == bytes_of(0, 2, byte_len)), "{byte_len} bytes");
    }
}

fn meets(ranks: &[Arc<dyn Coordinator>]) {
    let come = AtomicU32::new(0);
    at(ranks, &everyone(ranks), |line| {
        std::thread::sleep(Duration::from_millis(u64::from(line.rank() % 3) * 10));
        come.fetch_add(1, Ordering::SeqCst);
        line.meet("meet").unwrap();
        assert_eq!(come.load(Ordering::SeqCst), line.ranks(), "rank {} went on too early", line.rank());
    });
}

/// Even and odd ranks broadcast among themselves, at the same time and under the same tag.
fn groups_at_once(ranks: &[Arc<dyn Coordinator>]) {
    at(ranks, &everyone(ranks), |line| {
        let group: Vec<u32> = (line.rank() % 2..line.ranks()).step_by(2).collect();
        let from = group[group.len() / 2];
        let sent = bytes_of(from, 3, 50_000);
        let mut bytes = if line.rank() == from { sent.clone() } else { vec![0; sent.len()] };
        line.broadcast("halves", from, &group, &mut bytes).unwrap();
        assert!(bytes == sent, "other bytes than sent");
    });
}

/// Threads of one rank, each in collectives of its own; the ranks' threads start in different orders.
fn tags_at_once(ranks: &[Arc<dyn Coordinator>]) {
    const THREADS: u32 = 4;
    at(ranks, &everyone(ranks), |line| {
        std::thread::scope(|scope| {
            for index in 0..THREADS {
                let thread = (index + line.rank()) % THREADS;
                scope.spawn(move || {
                    for round in 0..3 {
                        let salt = 10 * thread + round;
                        let tag = |what| format!("{what}-{thread}-{round}");
                        let gathered =
                            line.gather(&tag("gather"), &bytes_of(line.rank(), salt, 100)).unwrap();
                        let all = line.share(&tag("share"), &gathered.unwrap_or_default().concat()).unwrap();
                        let expected = (0..line.ranks()).map(|rank| bytes_of(rank, salt, 100));
                        assert!(all == expected.collect::<Vec<_>>().concat(), "{}", tag("mixed up"));
                    }
                });
            }
        });
    });
}

/// As often as a long run would between restarts, without growing: the caller looks at what is held.
fn again_and_again(ranks: &[Arc<dyn Coordinator>]) {
    at(ranks, &everyone(ranks), |line| {
        for round in 0..40 {
            line.meet(&format!("again-{round}")).unwrap();
        }
    });
}

fn large(ranks: &[Arc<dyn Coordinator>]) {
    let group = [0, 1, 3];
    let sent = bytes_of(1, 4, LARGE_BYTES);
    let got = at(ranks, &group, |line| {
        let mut bytes = if line.rank() == 1 { sent.clone() } else { vec![0; LARGE_BYTES] };
        line.broadcast("large", 1, &group, &mut bytes).unwrap();
        bytes
    });
    assert!(got.iter().all(|bytes| *bytes == sent), "other bytes than sent");
    let gathered = at(ranks, &everyone(ranks), |line| {
        line.gather("large gather", &bytes_of(line.rank(), 5, LARGE_BYTES)).unwrap()
    });
    let gathered = gathered[0].as_ref().expect("rank 0 has them");
    for (rank, bytes) in (0..).zip(gathered) {
        assert!(*bytes == bytes_of(rank, 5, LARGE_BYTES), "rank {rank}: other bytes than sent");
    }
}

fn wrong_groups(ranks: &[Arc<dyn Coordinator>]) {
    let line = &ranks[0];
    let all = everyone(ranks);
    let beyond = [0, line.ranks()];
    let unsorted: Vec<u32> = all.iter().rev().copied().chain([0]).collect();
    let groups: [(u32, &[u32]); 5] =
        [(0, &[]), (0, &all[1..]), (line.ranks(), &all), (0, &beyond), (0, &unsorted)];
    for (from, group) in groups {
        let refused = line.broadcast("wrong", from, group, &mut [0; 3]);
        assert!(matches!(refused, Err(Error::Usage(_))), "{from} to {group:?}: {refused:?}");
    }
}

/// Both sides learn at once; nobody waits for the deadline.
fn lengths_differ(ranks: &[Arc<dyn Coordinator>]) {
    let start = Instant::now();
    let results = at(ranks, &[0, 1], |line| {
        line.broadcast("lengths", 0, &[0, 1], &mut vec![0; 100_000 + line.rank() as usize])
    });
    for result in results {
        let Err(Error::RanksDisagree { tag, why }) = result else { panic!("{result:?}") };
        assert_eq!(tag, "lengths");
        assert!(why.contains("100000") && why.contains("100001"), "{why}");
    }
    assert!(start.elapsed() < LONG / 2);
}

/// Checks that an error names exactly these ranks, neither early nor late.
fn assert_missing<T: fmt::Debug>(result: &Result<T>, expected: &[u32], start: Instant) {
    match result {
        Err(Error::RanksMissing { missing, ranks: 4, .. }) => assert_eq!(missing, expected),
        other => panic!("{other:?}"),
    }
    let waited = start.elapsed();
    assert!(waited >= SHORT - Duration::from_millis(20) && waited < SHORT + LONG / 4, "{waited:?}");
}

fn missing_reader(ranks: &[Arc<dyn Coordinator>]) {
    let group = [0, 1, 2, 3];
    at(ranks, &[0, 3], |line| {
        let start = Instant::now();
        let mut bytes = bytes_of(0, 6, 1000);
        let result = line.broadcast("no reader", 0, &group, &mut bytes);
        match line.rank() {
            0 => assert_missing(&result, &[1, 2], start),
            _ => result.unwrap(),
        }
        assert!(bytes == bytes_of(0, 6, 1000));
    });
}

fn missing_sender(ranks: &[Arc<dyn Coordinator>]) {
    let group = [0, 1, 2, 3];
    at(ranks, &[0, 1, 3], |line| {
        let start = Instant::now();
        assert_missing(&line.broadcast("no sender", 2, &group, &mut [0; 1000]), &[2], start);
    });
    at(ranks, &[1, 2, 3], |line| {
        let start = Instant::now();
        assert_missing(&line.gather("no rank 0", b"here"), &[0], start);
    });
}

/// Rank 0 names those that are missing; the one that came is not held up by them.
fn missing_at_a_gather(ranks: &[Arc<dyn Coordinator>]) {
    at(ranks, &[0, 2], |line| {
        let start = Instant::now();
        let result = line.gather("half a gather", &[line.rank() as u8; 100]);
        match line.rank() {
            0 => assert_missing(&result, &[1, 3], start),
            _ => assert_eq!(result.unwrap(), None),
        }
    });
}

/// After a failure, the next attempt works with all ranks.
fn comes_back(ranks: &[Arc<dyn Coordinator>]) {
    let failed = at(ranks, &[0, 1, 2], |line| line.gather("attempt-1", b"old").is_err());
    assert_eq!(failed, [true, false, false]);
    assert_missing_late_rank(ranks);
    let all = at(ranks, &everyone(ranks), |line| line.gather("attempt-2", b"new").unwrap());
    assert_eq!(all[0].as_ref().expect("rank 0 has them"), &vec![b"new".to_vec(); 4]);
}

/// The rank that was late finds nobody under the old tag.
fn assert_missing_late_rank(ranks: &[Arc<dyn Coordinator>]) {
    let start = Instant::now();
    assert_missing(&ranks[3].gather("attempt-1", b"old"), &[0], start);
}
