//! Collectives between processes, with every value looked at, and what ranks see of one that dies or hangs.

mod support;

use std::time::{Duration, Instant};
use support::{LONG, Rank, numbers, run, run_well};
use tch::{Device, Kind, Tensor};
use trainer::Error;
use trainer::ffi::process_group::ReduceOp;

/// Gloo reduces all of these.
const KINDS: [Kind; 5] = [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double, Kind::Int64];

fn tensor(values: &[f64], kind: Kind) -> Tensor {
    Tensor::from_slice(values).to_kind(kind)
}

fn zeros(len: u32, kind: Kind) -> Tensor {
    Tensor::zeros([i64::from(len)], (kind, Device::Cpu))
}

fn every_collective(rank: &Rank) {
    let (r, n) = (f64::from(rank.rank), f64::from(rank.size));
    let group = rank.group("world", LONG).unwrap();
    assert_eq!((group.rank(), group.size(), group.name()), (rank.rank, rank.size, "world"));
    // 0 + 1 + ... of all ranks.
    let sum = n * (n - 1.0) / 2.0;
    for kind in KINDS {
        for (op, expected) in [
            (ReduceOp::Sum, [sum, sum + n]),
            (ReduceOp::Max, [n - 1.0, n]),
            (ReduceOp::Min, [0.0, 1.0]),
            (ReduceOp::Product, [0.0, (1..=rank.size).map(f64::from).product()]),
        ] {
            let it = tensor(&[r, r + 1.0], kind);
            group.all_reduce(&it, op).unwrap().wait().unwrap();
            assert_eq!(numbers(&it), expected, "{op:?} {kind:?}");
        }
        let it = tensor(&[r, 7.0], kind);
        group.broadcast(&it, rank.size - 1).unwrap().wait().unwrap();
        assert_eq!(numbers(&it), [n - 1.0, 7.0], "{kind:?}");

        let gathered = zeros(2 * rank.size, kind);
        group.all_gather_into(&gathered, &tensor(&[r, r + 10.0], kind)).unwrap().wait().unwrap();
        let expected: Vec<f64> = (0..rank.size).flat_map(|i| [f64::from(i), f64::from(i) + 10.0]).collect();
        assert_eq!(numbers(&gathered), expected, "{kind:?}");

        let parts: Vec<f64> = (0..2 * rank.size).map(|i| f64::from(i) + r).collect();
        let part = zeros(2, kind);
        group.reduce_scatter(&part, &tensor(&parts, kind), ReduceOp::Sum).unwrap().wait().unwrap();
        assert_eq!(numbers(&part), [2.0 * r * n + sum, (2.0 * r + 1.0) * n + sum], "{kind:?}");

        // To rank j go j + 1 elements, from each.
        let to: Vec<i64> = (1..=i64::from(rank.size)).collect();
        let from = vec![i64::from(rank.rank) + 1; rank.size as usize];
        let mine = tensor(&vec![r; to.iter().sum::<i64>() as usize], kind);
        let theirs = zeros(rank.size * (rank.rank + 1), kind);
        group.all_to_all(&theirs, &mine, &from, &to).unwrap().wait().unwrap();
        let expected: Vec<f64> =
            (0..rank.size * (rank.rank + 1)).map(|i| f64::from(i / (rank.rank + 1))).collect();
        assert_eq!(numbers(&theirs), expected, "{kind:?}");
    }
    let it = tensor(&[r, 1.0], Kind::Float);
    group.all_reduce(&it, ReduceOp::Avg).unwrap().wait().unwrap();
    assert_eq!(numbers(&it), [sum / n, 1.0]);

    let equal = zeros(rank.size, Kind::Int64);
    let mine = tensor(&(0..rank.size).map(|to| 100.0 * r + f64::from(to)).collect::<Vec<_>>(), Kind::Int64);
    group.all_to_all(&equal, &mine, &[], &[]).unwrap().wait().unwrap();
    assert_eq!(numbers(&equal), (0..rank.size).map(|from| 100.0 * f64::from(from) + r).collect::<Vec<_>>());

    let (next, last) = ((rank.rank + 1) % rank.size, (rank.rank + rank.size - 1) % rank.size);
    let received = zeros(1, Kind::BFloat16);
    let sent = group.send(&tensor(&[r], Kind::BFloat16), next, 5).unwrap();
    let receiving = group.recv(&received, last, 5).unwrap();
    sent.wait().unwrap();
    receiving.wait().unwrap();
    assert_eq!(numbers(&received), [f64::from(last)]);
    group.barrier().unwrap();
    group.shutdown().unwrap();
}

#[test]
fn two_ranks() {
    run_well("two_ranks", 2, every_collective);
}

#[test]
fn four_ranks() {
    run_well("four_ranks", 4, every_collective);
}

#[test]
fn work_goes_on_while_others_wait_for_it() {
    run_well("work_goes_on_while_others_wait_for_it", 2, |rank| {
        let group = rank.group("world", LONG).unwrap();
        let it = tensor(&[1.0; 1000], Kind::Float);
        if rank.rank == 1 {
            // Not before the other says that it looked.
            rank.store.wait(&["looked"], LONG).unwrap();
        }
        let work = group.all_reduce(&it, ReduceOp::Sum).unwrap();
        // Held by the work; memory of its own would be freed here.
        let seen = it.shallow_clone();
        drop(it);
        if rank.rank == 0 {
            assert!(!work.is_completed().unwrap());
            rank.store.set("looked", b"yes").unwrap();
        }
        work.wait().unwrap();
        assert_eq!(numbers(&seen), vec![2.0; 1000]);
        group.barrier().unwrap();
    });
}

#[test]
fn subgroups_in_an_order_of_their_own() {
    run_well("subgroups_in_an_order_of_their_own", 4, |rank| {
        let world = rank.group("world", LONG).unwrap();
        let pairs = [[0, 2], [3, 1]];
        for (index, pair) in pairs.iter().enumerate() {
            let name = format!("pair {index}");
            let Some(group) = world.subgroup(&name, pair).unwrap() else {
                assert!(!pair.contains(&rank.rank));
                continue;
            };
            assert_eq!(pair[group.rank() as usize], rank.rank);
            let both = zeros(2, Kind::Int64);
            group.all_gather_into(&both, &tensor(&[rank.rank.into()], Kind::Int64)).unwrap().wait().unwrap();
            assert_eq!(numbers(&both), pair.map(f64::from));
        }
        for wrong in [&[][..], &[0, 0], &[0, 4]] {
            assert!(matches!(world.subgroup("wrong", wrong), Err(Error::Usage(_))), "{wrong:?}");
        }
        world.barrier().unwrap();
    });
}

#[test]
fn a_call_that_cannot_work_is_an_error_that_names_it() {
    run_well("a_call_that_cannot_work_is_an_error_that_names_it", 2, |rank| {
        let group = rank.group("world", LONG).unwrap();
        let (one, two) = (zeros(1, Kind::Float), zeros(2, Kind::Float));
        let message = |result: trainer::Result<()>| result.unwrap_err().to_string();
        let wait =
            |work: trainer::Result<trainer::ffi::process_group::Work>| work.and_then(|work| work.wait());
        let found = message(wait(group.all_gather_into(&one, &two)));
        assert!(
            found.starts_with("all_gather_into in group `world`: output Float [1] does not have"),
            "{found}"
        );
        let found = message(wait(group.reduce_scatter(&two, &one.to_kind(Kind::Int64), ReduceOp::Sum)));
        assert!(
            found.contains("input Int64 [1] does not have the elements of 2 ranks' output Float [2]"),
            "{found}"
        );
        // gloo has no such type.
        let found = message(wait(group.all_reduce(&zeros(2, Kind::ComplexFloat), ReduceOp::Max)));
        assert!(
            found.starts_with(&format!("all_reduce in group `world` failed at rank {} of 2: ", rank.rank)),
            "{found}"
        );
        for splits in [&[1, 1, 1][..], &[2], &[-1, 2], &[1, 0]] {
            let found = message(wait(group.all_to_all(&two, &two, splits, splits)));
            assert!(found.contains("do not add up"), "{found}");
        }
        assert!(message(wait(group.send(&one, 2, 0))).contains("rank 2 is not one of the 2"));
        assert!(message(wait(group.broadcast(&one, 2))).contains("rank 2 is not one of the 2"));
        group.barrier().unwrap();
    });
}

/// A collective of ranks that are not all there: its error, and how long it took.
fn failing_all_reduce(rank: &Rank, group: &trainer::ffi::process_group::ProcessGroup) -> (String, Duration) {
    let start = Instant::now();
    let error = group
        .all_reduce(&tensor(&[1.0; 4096], Kind::Float), ReduceOp::Sum)
        .and_then(|work| work.wait())
        .unwrap_err()
        .to_string();
    let what = format!("all_reduce in group `world` failed at rank {} of {}: ", rank.rank, rank.size);
    assert!(error.starts_with(&what), "{error}");
    (error, start.elapsed())
}

#[test]
fn a_rank_that_dies_fails_the_others() {
    let ends = run("a_rank_that_dies_fails_the_others", 4, |rank| {
        let group = rank.group("world", LONG / 4).unwrap();
        group.barrier().unwrap();
        if rank.rank == 2 {
            std::process::abort();
        }
        let (error, waited) = failing_all_reduce(rank, &group);
        assert!(waited < LONG / 2, "{waited:?}: {error}");
    });
    let codes: Vec<_> = ends.iter().map(|end| end.code()).collect();
    assert_eq!(codes, [Some(0), Some(0), None, Some(0)]);
}

#[test]
fn a_rank_that_hangs_fails_the_others_in_time() {
    let timeout = Duration::from_secs(3);
    run_well("a_rank_that_hangs_fails_the_others_in_time", 2, |rank| {
        let group = rank.group("world", LONG).unwrap();
        group.barrier().unwrap();
        group.set_timeout(timeout).unwrap();
        if rank.rank == 1 {
            rank.store.wait(&["failed"], LONG).unwrap();
            return;
        }
        let (error, waited) = failing_all_reduce(rank, &group);
        assert!(waited >= timeout && waited < timeout + LONG / 4, "{waited:?}: {error}");
        rank.store.set("failed", b"yes").unwrap();
    });
}

#[test]
fn a_rank_that_does_not_come_fails_the_others_in_time() {
    let timeout = Duration::from_secs(2);
    run_well("a_rank_that_does_not_come_fails_the_others_in_time", 2, |rank| {
        if rank.rank == 1 {
            return;
        }
        let start = Instant::now();
        let error = rank.group("world", timeout).unwrap_err().to_string();
        assert!(error.starts_with("connecting in group `world` failed at rank 0 of 2: "), "{error}");
        assert!(start.elapsed() < LONG / 4, "{:?}", start.elapsed());
    });
}
