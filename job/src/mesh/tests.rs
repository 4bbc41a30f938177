use super::*;
use std::collections::BTreeSet;

fn asked(degrees: [u64; 6], shard: i64) -> Parallelism {
    let [dp_replicate, cp, tp, pp, ep, etp] = degrees;
    Parallelism {
        data_parallel_replicate_degree: dp_replicate,
        data_parallel_shard_degree: shard,
        context_parallel_degree: cp,
        tensor_parallel_degree: tp,
        pipeline_parallel_degree: pp,
        expert_parallel_degree: ep,
        expert_tensor_parallel_degree: etp,
        ..Parallelism::default()
    }
}

fn messages(degrees: [u64; 6], shard: i64, world: u32) -> Vec<String> {
    let errors = ParallelDims::new(&asked(degrees, shard), world).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

/// Every choice of degrees, right or wrong, for worlds of up to 16 ranks.
fn every(visit: impl Fn(u32, [u64; 6], i64, Result<ParallelDims, Vec<MeshError>>)) {
    for world in 1..=16u32 {
        let divisors: Vec<u64> =
            (1..=u64::from(world)).filter(|degree| u64::from(world).is_multiple_of(*degree)).collect();
        for &dp_replicate in &divisors {
            for &cp in &divisors {
                for &tp in &divisors {
                    for &pp in &divisors {
                        for &ep in &divisors {
                            for etp in BTreeSet::from([1, 2, tp]) {
                                for shard in divisors.iter().map(|degree| *degree as i64).chain([-1]) {
                                    let degrees = [dp_replicate, cp, tp, pp, ep, etp];
                                    visit(
                                        world,
                                        degrees,
                                        shard,
                                        ParallelDims::new(&asked(degrees, shard), world),
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn exactly_what_makes_up_the_world_is_accepted() {
    every(|world, degrees, shard, made| {
        let [dp_replicate, cp, tp, pp, ep, etp] = degrees;
        let others = dp_replicate * cp * tp * pp;
        let world = u64::from(world);
        let left = if shard == -1 { world / others } else { shard as u64 };
        let is_right = others * left == world
            && (etp == 1 || etp == tp)
            && (ep == 1 || (left * cp * tp).is_multiple_of(ep * etp));
        assert_eq!(made.is_ok(), is_right, "{world} {degrees:?} {shard}");
        if let Ok(dims) = made {
            assert_eq!(u64::from(dims.dp_shard), left);
            assert_eq!(u64::from(dims.world()), world);
        }
    });
}

#[test]
fn groups_are_the_ranks_that_differ_in_one_thing() {
    every(|world, degrees, shard, made| {
        let Ok(dims) = made else { return };
        for view in [View::DataLoading, View::Dense, View::Sparse] {
            assert_eq!(dims.mesh(view).ranks(), world, "{view:?} {degrees:?} {shard}");
        }
        for group in Group::ALL {
            let groups = dims.groups(group);
            let members: Vec<u32> = groups.iter().flatten().copied().collect();
            assert_eq!(BTreeSet::from_iter(&members).len(), members.len(), "{group:?} {degrees:?}");
            assert_eq!(members.len(), world as usize, "{group:?} {degrees:?}");
            for ranks in groups {
                assert_eq!(ranks.len(), dims.size(group) as usize);
                assert!(ranks.is_sorted());
                for (place, rank) in ranks.iter().enumerate() {
                    assert_eq!(dims.coordinate(group, *rank), place as u32);
                    assert_eq!(dims.ranks(group, *rank), ranks);
                }
            }
        }
    });
}

/// Groups by arithmetic on the rank, apart from meshes: rank = (((pp * R + r) * S + s) * C + c) * T + t.
#[test]
fn groups_by_arithmetic() {
    every(|world, _, _, made| {
        let Ok(dims) = made else { return };
        let parts = |rank: u32| {
            let (t, rest) = (rank % dims.tp, rank / dims.tp);
            let (c, rest) = (rest % dims.cp, rest / dims.cp);
            let (s, rest) = (rest % dims.dp_shard, rest / dims.dp_shard);
            let (r, p) = (rest % dims.dp_replicate, rest / dims.dp_replicate);
            [p, r, s, c, t]
        };
        // Which of the five parts a group's ranks may differ in.
        for (group, free) in [
            (Group::Pp, [true, false, false, false, false]),
            (Group::DpReplicate, [false, true, false, false, false]),
            (Group::Batch, [false, true, true, false, false]),
            (Group::Loss, [false, true, true, true, false]),
            (Group::Fsdp, [false, false, true, true, false]),
            (Group::Cp, [false, false, false, true, false]),
            (Group::Tp, [false, false, false, false, true]),
        ] {
            for rank in 0..world {
                let same = |other: &u32| {
                    parts(rank)
                        .iter()
                        .zip(parts(*other))
                        .zip(free)
                        .all(|((a, b), is_free)| is_free || *a == b)
                };
                assert_eq!(dims.ranks(group, rank), (0..world).filter(same).collect::<Vec<_>>());
            }
        }
        // Experts: of the ranks with the same stage and copy, in order, cut as efsdp x ep x etp.
        let (ep, etp) = if dims.ep > 1 { (dims.ep, dims.etp) } else { (1, dims.tp) };
        let block = dims.efsdp() * ep * etp;
        assert_eq!(block, dims.fsdp() * dims.tp);
        for rank in 0..world {
            let (first, place) = (rank / block * block, rank % block);
            let (of_ep, of_efsdp) = (place / etp % ep, place / etp / ep);
            let start = first + of_efsdp * ep * etp;
            let experts: Vec<u32> = (0..ep).map(|other| start + other * etp + place % etp).collect();
            assert_eq!(dims.ranks(Group::Ep, rank), experts);
            let parts: Vec<u32> = (0..etp).map(|other| start + of_ep * etp + other).collect();
            assert_eq!(dims.ranks(Group::Etp, rank), parts);
            let shards: Vec<u32> =
                (0..dims.efsdp()).map(|other| first + (other * ep + of_ep) * etp + place % etp).collect();
            assert_eq!(dims.ranks(Group::Efsdp, rank), shards);
        }
    });
}

#[test]
fn the_dense_view_is_the_mesh_of_checkpoints() {
    every(|_, _, _, made| {
        let Ok(dims) = made else { return };
        let stored = dcp::plan::mesh_of(dims.degrees()).unwrap();
        let sizes = |mesh: &Mesh| mesh.axes().iter().map(|axis| axis.size).collect::<Vec<_>>();
        assert_eq!(sizes(&stored), sizes(&dims.mesh(View::Dense)));
    });
}

#[test]
fn a_job_of_sixteen() {
    let dims = ParallelDims::new(&asked([1, 2, 2, 2, 4, 1], -1), 16).unwrap();
    assert_eq!((dims.dp_shard, dims.batch(), dims.fsdp(), dims.efsdp()), (2, 2, 4, 2));
    assert_eq!((dims.seq_len_divisor(), dims.non_data_parallel(), dims.is_sharded()), (8, 8, true));
    assert_eq!(dims.ranks(Group::Tp, 5), [4, 5]);
    assert_eq!(dims.ranks(Group::Cp, 5), [5, 7]);
    assert_eq!(dims.ranks(Group::Fsdp, 5), [1, 3, 5, 7]);
    assert_eq!(dims.ranks(Group::Pp, 5), [5, 13]);
    assert_eq!(dims.ranks(Group::Ep, 5), [4, 5, 6, 7]);
    assert_eq!(dims.ranks(Group::Efsdp, 5), [1, 5]);
}

#[test]
fn rules_are_named_with_their_numbers() {
    assert_eq!(
        messages([2, 1, 3, 1, 1, 1], -1, 16),
        [
            "data_parallel_shard_degree = -1 takes the ranks that the other degrees leave, but 16 ranks are not a multiple of \
          dp_replicate 2 x cp 1 x tp 3 x pp 1 = 6; start another number of ranks or change a degree"
        ]
    );
    assert_eq!(
        messages([1, 1, 2, 1, 1, 3], 4, 16),
        [
            "dp_replicate 1 x dp_shard 4 x cp 1 x tp 2 x pp 1 = 8, but there are 16 ranks; start 8 ranks, or set \
             data_parallel_shard_degree to -1, which takes what is left",
            "expert_tensor_parallel_degree = 3: it is 1 or tensor_parallel_degree, which is 2; set it to one of them"
        ]
    );
    assert_eq!(
        messages([1, 1, 2, 1, 3, 1], -1, 4),
        [
            "expert_parallel_degree 3 x expert_tensor_parallel_degree 1 does not divide dp_shard 2 x cp 1 x tp 2 = 4, of which \
          experts are shared out; change expert_parallel_degree"
        ]
    );
    assert_eq!(
        messages([0, 1, 1, 1, 1, 1], -2, 4),
        [
            "data_parallel_replicate_degree = 0: degrees are at least 1",
            "data_parallel_shard_degree = -2: degrees are at least 1"
        ]
    );
    // Degrees beyond all ranks there are do not wrap.
    let huge = messages([u64::MAX, 1, u64::MAX, 1, 1, 1], -1, 4);
    assert!(huge[0].contains("= 18446744073709551615; start"), "{huge:?}");
}
