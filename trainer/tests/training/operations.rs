//! Operations over ranks against the same on one rank: outputs and gradients.

use crate::llama::SHARING;
use crate::support::{LONG, Rank, numbers, run_well};
use job::config::{LoadBalancer, RotateMethod};
use std::sync::Arc;
use tch::{Device, Kind, Reduction, Tensor, with_grad};
use trainer::Result;
use trainer::ffi::autograd::{backward, leaf, take_grad};
use trainer::ffi::rng;
use trainer::groups::Groups;
use trainer::parallel::{Parallel, ParallelOptions};
use trainer::shard::rows_of;

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// The ranks of a test share layers.
fn parallel(rank: &Rank, is_loss_parallel: bool, vocabulary: i64) -> Parallel {
    let name = format!("tp-{is_loss_parallel}-{vocabulary}");
    let group = rank.group(&name, LONG).unwrap();
    let groups = Groups { tp: Some(Arc::new(group)), ..Groups::default() };
    Parallel::new(&groups, ParallelOptions { is_loss_parallel, ..SHARING }, vocabulary).unwrap()
}

/// This rank's part of a tensor along a dim, as a leaf.
fn part(rank: &Rank, whole: &Tensor, dim: i64) -> Tensor {
    let (first, count) = rows_of(whole.size()[dim as usize], rank.size, rank.rank);
    leaf(&whole.narrow(dim, first, count).contiguous())
}

fn random(size: &[i64]) -> Tensor {
    Tensor::randn(size, FLOAT)
}

/// The output, and the gradients of these leaves when that of the output is `grad`.
fn differentiated(
    leaves: &[&Tensor],
    grad: &Tensor,
    compute: impl FnOnce() -> Result<Tensor>,
) -> Vec<Tensor> {
    let output = with_grad(compute).unwrap();
    backward(&[&output], &[Some(grad)], false).unwrap();
    let grads = leaves.iter().map(|leaf| take_grad(leaf).unwrap().expect("a gradient"));
    std::iter::once(output.detach()).chain(grads).collect()
}

#[track_caller]
fn close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let off = |(found, expected): (f64, f64)| (found - expected).abs();
    let most = numbers(found).into_iter().zip(numbers(expected)).map(off).fold(0.0, f64::max);
    assert!(most < 1e-5, "{what}: {most}");
}

/// A layer whose first weight is cut along its outputs and whose second along its inputs.
fn layers(rank: &Rank) {
    let [input, first, second] = [vec![2, 12, 5], vec![12, 5], vec![5, 12]].map(|size| random(&size));
    let grad = random(&[2, 12, 5]);
    let [whole_input, whole_first, whole_second] = [&input, &first, &second].map(leaf);
    let expected = differentiated(&[&whole_input, &whole_first, &whole_second], &grad, || {
        let hidden = whole_input.f_linear(&whole_first, None::<&Tensor>)?.f_tanh()?;
        Ok(hidden.f_linear(&whole_second, None::<&Tensor>)?)
    });
    let parallel = parallel(rank, true, 12);
    let (own_first, own_second) = (part(rank, &first, 0), part(rank, &second, 1));
    let layer = |input: &Tensor| -> Result<Tensor> {
        let hidden = input.f_linear(&own_first, None::<&Tensor>)?.f_tanh()?;
        Ok(hidden.f_linear(&own_second, None::<&Tensor>)?)
    };
    let weights = |found: &[Tensor]| {
        close(&found[2], &part(rank, &expected[2], 0), "first weight");
        close(&found[3], &part(rank, &expected[3], 1), "second weight");
    };

    let own_input = part(rank, &input, 1);
    let found = differentiated(&[&own_input, &own_first, &own_second], &part(rank, &grad, 1), || {
        parallel.part_of_sequence(&layer(&parallel.whole_sequence(&own_input)?)?)
    });
    close(&found[0], &part(rank, &expected[0], 1), "output, cut");
    close(&found[1], &part(rank, &expected[1], 1), "input, cut");
    weights(&found);
}

/// Embedding, head and loss of a vocabulary that the ranks do not share evenly.
fn vocabularies(rank: &Rank, vocabulary: i64, is_loss_parallel: bool) {
    let (embedding, head) = (random(&[vocabulary, 5]), random(&[vocabulary, 5]));
    let tokens = Tensor::randint(vocabulary, [2, 12], (Kind::Int64, Device::Cpu));
    let labels = Tensor::randint(vocabulary, [24], (Kind::Int64, Device::Cpu));
    let _ = labels.narrow(0, 3, 4).fill_(-100);
    let grad = Tensor::from(0.25f32);
    let [whole_embedding, whole_head] = [&embedding, &head].map(leaf);
    let expected = differentiated(&[&whole_embedding, &whole_head], &grad, || {
        let states = Tensor::f_embedding(&whole_embedding, &tokens, -1, false, false)?;
        let logits = states.f_linear(&whole_head, None::<&Tensor>)?.f_flatten(0, 1)?;
        Ok(logits.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, -100, 0.0)?)
    });
    let parallel = parallel(rank, is_loss_parallel, vocabulary);
    let (own_embedding, own_head) = (part(rank, &embedding, 0), part(rank, &head, 0));
    let found = differentiated(&[&own_embedding, &own_head], &grad, || {
        let states = parallel.embedding(&own_embedding, &tokens)?;
        let logits = parallel.whole_sequence(&states)?.f_linear(&own_head, None::<&Tensor>)?;
        parallel.cross_entropy(&parallel.logits(&logits)?.f_flatten(0, 1)?, &labels)
    });
    for (index, what) in ["loss", "embedding", "head"].iter().enumerate() {
        let expected = if index == 0 { expected[0].shallow_clone() } else { part(rank, &expected[index], 0) };
        close(&found[index], &expected, &format!("{what} of {vocabulary}, loss parallel {is_loss_parallel}"));
    }
}

/// What this rank has of `[batch, heads, sequence, head_dim]`.
fn own_part(parallel: &Parallel, whole: &Tensor) -> Tensor {
    parallel.own_part(&whole.transpose(1, 2).contiguous()).unwrap().transpose(1, 2)
}

/// Attention to sequences that the ranks share, with as many heads for keys and with fewer.
fn attention(rank: &Rank, options: ParallelOptions, key_heads: i64) {
    let size = |heads: i64| [2, heads, 24, 8];
    let [query, key, value] = [4, key_heads, key_heads].map(|heads| random(&size(heads)));
    let grad = random(&size(4));
    let wholes = [&query, &key, &value].map(leaf);
    let [whole_query, whole_key, whole_value] = &wholes;
    let expected = differentiated(&wholes.each_ref(), &grad, || {
        Parallel::default().attention(whole_query, whole_key, whole_value)
    });
    let name = format!("cp-{key_heads}-{options:?}");
    let groups = Groups { cp: Some(Arc::new(rank.group(&name, LONG).unwrap())), ..Groups::default() };
    let parallel = Parallel::new(&groups, options, 6).unwrap();
    let parts = [&query, &key, &value].map(|whole| leaf(&own_part(&parallel, whole)));
    let [own_query, own_key, own_value] = &parts;
    let found = differentiated(&parts.each_ref(), &own_part(&parallel, &grad), || {
        parallel.attention(own_query, own_key, own_value)
    });
    for (index, what) in ["output", "query", "key", "value"].iter().enumerate() {
        close(&found[index], &own_part(&parallel, &expected[index]), &format!("{what}, {name}"));
    }
}

#[test]
fn attention_to_sequences_that_are_shared_is_that_of_one_rank() {
    for ranks in [2, 3] {
        run_well("operations::attention_to_sequences_that_are_shared_is_that_of_one_rank", ranks, |rank| {
            rng::manual_seed(3).unwrap();
            for rotate_method in [RotateMethod::AllGather, RotateMethod::AllToAll] {
                for load_balancer in [None, Some(LoadBalancer::HeadTail)] {
                    for key_heads in [4, 2, 1] {
                        let options = ParallelOptions { load_balancer, rotate_method, ..SHARING };
                        attention(rank, options, key_heads);
                    }
                }
            }
        });
    }
}

#[test]
fn layers_and_vocabularies_that_are_shared_are_those_of_one_rank() {
    let name = "operations::layers_and_vocabularies_that_are_shared_are_those_of_one_rank";
    for ranks in [2, 3] {
        run_well(name, ranks, |rank| {
            rng::manual_seed(3).unwrap();
            layers(rank);
            for vocabulary in [6, 7, 11] {
                vocabularies(rank, vocabulary, true);
                vocabularies(rank, vocabulary, false);
            }
        });
    }
}

#[test]
fn a_rank_without_tokens_is_refused() {
    run_well("operations::a_rank_without_tokens_is_refused", 3, |rank| {
        let groups = Groups { tp: Some(Arc::new(rank.group("tp", LONG).unwrap())), ..Groups::default() };
        let error = Parallel::new(&groups, ParallelOptions::default(), 4).unwrap_err().to_string();
        let expected =
            "parallelism.tensor_parallel_degree = 3: of 4 tokens each rank takes 2, which leaves none";
        assert!(error.starts_with(expected), "{error}");
    });
}
