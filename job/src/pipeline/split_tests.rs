//! Stages of a configuration. That they are TorchTitan's is tested beside what it makes.

use super::*;
use crate::config::PipelineSchedule;

fn parallelism() -> Parallelism {
    Parallelism { pipeline_parallel_degree: 4, ..Parallelism::default() }
}

fn parts(text: &str) -> Option<Vec<Vec<String>>> {
    Some(text.split('|').map(|part| part.split_whitespace().map(str::to_owned).collect()).collect())
}

fn refused(parallelism: &Parallelism, layers: u32) -> String {
    stages(parallelism, layers).unwrap_err().to_string()
}

/// Every unit is in one stage, in order, and no stage is empty; stages differ by a layer, counted with what they have less.
#[test]
fn every_split_of_a_domain_has_every_unit() {
    let mut count = 0;
    for layers in 0..=40 {
        for stages in 1..=20 {
            for (first_less, last_less) in (0..=4).flat_map(|first| (0..=4).map(move |last| (first, last))) {
                let Ok(units) = split(layers, stages, first_less, last_less) else { continue };
                assert_eq!(units.len() as u64, stages);
                assert_eq!((units[0].start, units[units.len() - 1].end), (0, layers + 2));
                assert!(units.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(units.iter().all(|units| !units.is_empty()), "{layers} {stages}: {units:?}");
                if stages > 1 {
                    let mut sizes: Vec<_> =
                        units.iter().map(|units| u64::from(units.end - units.start)).collect();
                    sizes[0] = sizes[0] - 1 + first_less;
                    *sizes.last_mut().unwrap() += last_less;
                    *sizes.last_mut().unwrap() -= 1;
                    assert!(sizes.windows(2).all(|pair| pair[0] == pair[1] || pair[0] == pair[1] + 1));
                    assert!(sizes[0] - sizes[sizes.len() - 1] <= 1, "{sizes:?}");
                }
                count += 1;
            }
        }
    }
    assert_eq!(count, 9_264);
}

#[test]
fn layers_per_stage_makes_stages() {
    let looped = |layers_per_stage| Parallelism {
        pipeline_parallel_schedule: PipelineSchedule::Interleaved1F1B,
        pipeline_parallel_layers_per_stage: layers_per_stage,
        ..parallelism()
    };
    assert_eq!(stages(&looped(None), 16).unwrap().len(), 8);
    // 16 layers and 2 that embedding and head count as, 2 a stage, are 9 stages: no multiple of 4.
    insta::assert_snapshot!(refused(&looped(Some(2)), 16), @"parallelism.pipeline_parallel_layers_per_stage = 2: 16 layers, with the 1 and 1 that the embedding and the head count as, make stages, 9 of them, which is no multiple of parallelism.pipeline_parallel_degree = 4; remove it, and there are as many stages as the schedule needs");
    assert_eq!(stages(&looped(Some(3)), 22).unwrap().len(), 8);
    insta::assert_snapshot!(refused(&looped(Some(6)), 22), @r#"parallelism.pipeline_parallel_schedule = "Interleaved1F1B" needs 2 stages or more per rank, but there are 1; lower parallelism.pipeline_parallel_layers_per_stage, give parallelism.module_fqns_per_model_part other parts, or take 1F1B, GPipe"#);
    insta::assert_snapshot!(refused(&Parallelism { pipeline_parallel_layers_per_stage: Some(3), ..parallelism() }, 22), @r#"parallelism.pipeline_parallel_schedule = "1F1B" needs exactly 1 stage per rank, but there are 2; raise parallelism.pipeline_parallel_layers_per_stage, give parallelism.module_fqns_per_model_part other parts, or take Interleaved1F1B, LoopedBFS, InterleavedZeroBubble, ZBVZeroBubble, DualPipeV"#);
    insta::assert_snapshot!(refused(&looped(Some(100)), 16), @"parallelism.pipeline_parallel_layers_per_stage = 100: 16 layers, with the 1 and 1 that the embedding and the head count as, make stages, 1 of them, which is no multiple of parallelism.pipeline_parallel_degree = 4; remove it, and there are as many stages as the schedule needs");
    insta::assert_snapshot!(refused(&looped(None), 5), @"8 stages of 5 layers, with the 1 and 1 that the embedding and the head count as (parallelism.pipeline_parallel_first_stage_less_layers, .._last_stage_less_layers): a stage needs a layer; lower parallelism.pipeline_parallel_degree or the stages per rank");
    let heavy = Parallelism { pipeline_parallel_first_stage_less_layers: 5, ..parallelism() };
    insta::assert_snapshot!(refused(&heavy, 8), @"parallelism.pipeline_parallel_first_stage_less_layers = 5: a stage has 3 layers, which it must not be more than; set it to 3 at most, or make fewer stages");
    let heavy = Parallelism { pipeline_parallel_last_stage_less_layers: u64::MAX, ..parallelism() };
    insta::assert_snapshot!(refused(&heavy, 8), @"parallelism.pipeline_parallel_last_stage_less_layers = 18446744073709551615: a stage has 4611686018427387903 layers, which it must not be more than; set it to 4611686018427387903 at most, or make fewer stages");
}

#[test]
fn parts_by_name() {
    let named = |text: &str| Parallelism { module_fqns_per_model_part: parts(text), ..parallelism() };
    let good = "layers.0 tok_embeddings|layers.2 layers.1|layers.3|output norm";
    assert_eq!(stages(&named(good), 4).unwrap(), [0..2, 2..4, 4..5, 5..6]);
    let told = [
        ("layers.3", "layers.4"),
        ("layers.3", "layers.03"),
        ("layers.3", "head"),
        ("layers.3", ""),
        ("layers.3", "layers.0"),
        (" layers.1", ""),
        (" tok_embeddings", ""),
        ("|layers.3", " layers.3"),
        ("layers.2 layers.1|layers.3", "layers.3|layers.2 layers.1"),
        ("layers.3|output norm", "layers.3 norm|output"),
    ];
    let told = told.map(|(from, to)| refused(&named(&good.replace(from, to)), 4));
    insta::assert_snapshot!(told.join("\n").replace("parallelism.module_fqns_per_model_part: ", ""), @r#"
    part 2 has `layers.4`, which this model of 4 layers has not; known: tok_embeddings, layers.0 to layers.3, norm, output
    part 2 has `layers.03`, which this model of 4 layers has not; known: tok_embeddings, layers.0 to layers.3, norm, output
    part 2 has `head`, which this model of 4 layers has not; known: tok_embeddings, layers.0 to layers.3, norm, output
    part 2 is empty; a stage needs a layer: give it one, or remove it
    `layers.0` is in part 0 and in part 2; remove it from one
    no part has `layers.1`; every module is in one: add it
    no part has `tok_embeddings`; every module is in one: add it
    3 stages over 4 ranks: every rank has as many, so the number of stages must be a multiple of parallelism.pipeline_parallel_degree = 4; change that, parallelism.pipeline_parallel_layers_per_stage or parallelism.module_fqns_per_model_part
    `layers.3` is in part 1 and `layers.2`, which comes before it, in part 2; a part has modules that follow each other, and parts are in the order of the model
    `norm` is in part 2 and `output` in part 3; they are one unit: put both in one part
    "#);
    let both = Parallelism { pipeline_parallel_layers_per_stage: Some(1), ..named(good) };
    insta::assert_snapshot!(refused(&both, 6), @"parallelism.module_fqns_per_model_part: it has 4 parts, but parallelism.pipeline_parallel_layers_per_stage makes 8 stages; remove either");
}
