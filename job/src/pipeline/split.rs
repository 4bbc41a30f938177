//! A model cut into stages.
//!
//! Units of a model are its embedding, its layers, and its norm and head together. The embedding counts as some layers and
//! the norm and head as some others, so that the stages that have them get fewer.
//!
//! Source: `pipeline_llm` and `generate_llm_fqn_per_model_part` in torchtitan/distributed/pipeline_parallel.py, v0.2.2.

use super::{PipelineError, schedules};
use crate::config::Parallelism;
use std::ops::Range;

const EMBEDDING: &str = "tok_embeddings";
const LAYERS: &str = "layers.";
const NORM: &str = "norm";
const OUTPUT: &str = "output";

/// The units of every stage of a model of `layers` layers, as a configuration asks for them.
///
/// Errors: [`PipelineError`], the rule that does not hold.
pub fn stages(parallelism: &Parallelism, layers: u32) -> Result<Vec<Range<u32>>, PipelineError> {
    let schedule = schedules::find(parallelism.pipeline_parallel_schedule);
    let ranks = parallelism.pipeline_parallel_degree;
    let (first_less, last_less) = (
        parallelism.pipeline_parallel_first_stage_less_layers,
        parallelism.pipeline_parallel_last_stage_less_layers,
    );
    let asked = match parallelism.pipeline_parallel_layers_per_stage {
        None => None,
        Some(layers_per_stage) => {
            let layers_counted = counted(layers, first_less, last_less);
            let stages = layers_counted.div_ceil(layers_per_stage.max(1));
            if ranks == 0 || !stages.is_multiple_of(ranks) {
                let per_rank = stages.checked_div(ranks).and_then(|per_rank| u32::try_from(per_rank).ok());
                let per_rank = per_rank.filter(|per_rank| schedule.check_stages_per_rank(*per_rank).is_ok());
                let wanted = u64::from(per_rank.unwrap_or(schedule.stages_per_rank.default()));
                let wanted = wanted.saturating_mul(ranks.max(1));
                let fitting = layers_counted.div_ceil(wanted);
                let remedy = match fitting > 0 && layers_counted.div_ceil(fitting) == wanted {
                    true => format!("set it to {fitting}"),
                    false => "remove it, and there are as many stages as the schedule needs".to_owned(),
                };
                return Err(PipelineError::LayersPerStage {
                    layers_per_stage,
                    layers,
                    first_less,
                    last_less,
                    stages,
                    ranks,
                    remedy,
                });
            }
            Some(stages)
        }
    };
    let units = match (&parallelism.module_fqns_per_model_part, asked) {
        (Some(parts), Some(stages)) if stages != parts.len() as u64 => {
            return Err(PipelineError::Parts {
                why: format!(
                    "it has {} parts, but parallelism.pipeline_parallel_layers_per_stage makes {stages} stages; remove either",
                    parts.len()
                ),
            });
        }
        (Some(parts), _) => split_by_names(parts, layers)?,
        (None, asked) => {
            let stages = asked.unwrap_or(ranks.saturating_mul(u64::from(schedule.stages_per_rank.default())));
            split(layers, stages, first_less, last_less)?
        }
    };
    let stages = units.len() as u64;
    if ranks == 0 || !stages.is_multiple_of(ranks) {
        return Err(PipelineError::StagesOverRanks { stages, ranks });
    }
    schedule.check_stages_per_rank(u32::try_from(stages / ranks).unwrap_or(u32::MAX))?;
    Ok(units)
}

/// Layers, with what embedding and head count as.
fn counted(layers: u32, first_less: u64, last_less: u64) -> u64 {
    u64::from(layers).saturating_add(first_less).saturating_add(last_less)
}

/// Cuts a model of `layers` layers, and so of `layers + 2` units, into stages of the same number of layers, the first ones one
/// more where it does not divide. The first stage has `first_less` less, the last one `last_less`.
///
/// Errors: [`PipelineError::TooManyStages`] and [`PipelineError::LessLayers`].
pub fn split(
    layers: u32,
    stages: u64,
    first_less: u64,
    last_less: u64,
) -> Result<Vec<Range<u32>>, PipelineError> {
    let units = layers.saturating_add(2);
    if stages == 1 {
        return Ok(std::iter::once(0..units).collect());
    }
    let layers_counted = counted(layers, first_less, last_less);
    if stages == 0 || stages > layers_counted {
        return Err(PipelineError::TooManyStages { stages, layers, first_less, last_less });
    }
    let (layers_per_stage, more) = (layers_counted / stages, layers_counted % stages);
    for (key, less) in [
        ("parallelism.pipeline_parallel_first_stage_less_layers", first_less),
        ("parallelism.pipeline_parallel_last_stage_less_layers", last_less),
    ] {
        if less > layers_per_stage {
            return Err(PipelineError::LessLayers { key, less, layers_per_stage });
        }
    }
    let mut start = 0;
    let end_of = |stage: u64| {
        let layers_before = (stage + 1) * layers_per_stage + (stage + 1).min(more) - first_less;
        // Not more than the model has, which is a u32; and the embedding is before them.
        if stage + 1 == stages { units } else { layers_before as u32 + 1 }
    };
    Ok((0..stages).map(|stage| std::mem::replace(&mut start, end_of(stage))..end_of(stage)).collect())
}

/// Cuts a model of `layers` layers where `parallelism.module_fqns_per_model_part` says: `tok_embeddings`, `layers.N`, `norm`
/// and `output`, each in one part. The order of names within a part means nothing.
///
/// Errors: [`PipelineError::Parts`], with the name.
pub fn split_by_names(parts: &[Vec<String>], layers: u32) -> Result<Vec<Range<u32>>, PipelineError> {
    let bad = |why: String| Err(PipelineError::Parts { why });
    // Of every module, in the order of the forward pass, its part. Norm and head are two modules and one unit.
    let modules = layers.saturating_add(3);
    let mut part_of: Vec<Option<usize>> = vec![None; modules as usize];
    for (part, names) in parts.iter().enumerate() {
        if names.is_empty() {
            return bad(format!("part {part} is empty; a stage needs a layer: give it one, or remove it"));
        }
        for name in names {
            let Some(module) = module_of(name, layers) else {
                return bad(format!(
                    "part {part} has `{name}`, which this model of {layers} layers has not; known: {EMBEDDING}, {}{NORM}, \
                     {OUTPUT}",
                    match layers {
                        0 => String::new(),
                        1 => format!("{LAYERS}0, "),
                        _ => format!("{LAYERS}0 to {LAYERS}{}, ", layers - 1),
                    }
                ));
            };
            if let Some(other) = part_of[module].replace(part) {
                return bad(format!("`{name}` is in part {other} and in part {part}; remove it from one"));
            }
        }
    }
    let mut ends = vec![0; parts.len()];
    let mut last = 0;
    for (module, part) in part_of.iter().enumerate() {
        let name = name_of(module as u32, layers);
        let Some(part) = *part else {
            return bad(format!("no part has `{name}`; every module is in one: add it"));
        };
        if part < last {
            let before = name_of(module as u32 - 1, layers);
            return bad(format!(
                "`{name}` is in part {part} and `{before}`, which comes before it, in part {last}; a part has modules that \
                 follow each other, and parts are in the order of the model"
            ));
        }
        if name == OUTPUT && part != last {
            return bad(format!(
                "`{NORM}` is in part {last} and `{OUTPUT}` in part {part}; they are one unit: put both in one part"
            ));
        }
        last = part;
        // Norm and head have the same unit.
        ends[part] = (module as u32 + 1).min(layers + 2);
    }
    let mut start = 0;
    Ok(ends.into_iter().map(|end| std::mem::replace(&mut start, end)..end).collect())
}

fn module_of(name: &str, layers: u32) -> Option<usize> {
    let after_layers = layers as usize + 1;
    match name {
        EMBEDDING => Some(0),
        NORM => Some(after_layers),
        OUTPUT => Some(after_layers + 1),
        _ => {
            let layer: u32 = name.strip_prefix(LAYERS)?.parse().ok()?;
            (layer < layers && name_of(layer + 1, layers) == name).then_some(layer as usize + 1)
        }
    }
}

fn name_of(module: u32, layers: u32) -> String {
    match module {
        0 => EMBEDDING.to_owned(),
        layer if layer <= layers => format!("{LAYERS}{}", layer - 1),
        norm if norm == layers + 1 => NORM.to_owned(),
        _ => OUTPUT.to_owned(),
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
