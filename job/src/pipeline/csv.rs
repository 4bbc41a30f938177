//! Schedules as files: the CSV that PyTorch writes and reads (`_load_csv` of schedules.py, PyTorch 2.11, format
//! `compute_only`).
//!
//! A line per rank, an entry per pass, such as `2F0`: stage, letter, microbatch. The letters are F (forward), B (backward), I
//! and W (backward for the input, and for the weights). `(0F3;3B1)OVERLAP_F_B` is two passes. An empty entry is a pause, which
//! says nothing here: a rank waits for what it needs. Which rank has which stage is seen from the passes.

use super::{Action, Pass, Pipeline, PipelineError, Shape, Stage, check, communicate};
use crate::program::{Microbatch, Purpose};

const OVERLAP: &str = "OVERLAP_F_B";
/// What PyTorch's lists have beside passes, in its format `compute_comms`.
const PLACED_HERE: [&str; 7] = ["SEND_F", "RECV_F", "SEND_B", "RECV_B", "UNSHARD", "RESHARD", "REDUCE_GRAD"];

/// Reads a schedule. It must have every stage and microbatch of the shape; ranks may have stages in any way.
///
/// Errors: [`PipelineError::Csv`] for an entry, with its line and place, from 1; [`PipelineError::CsvWhole`] for what is
/// missing; [`PipelineError::Unsound`] where it cannot be carried out.
pub fn parse(text: &str, shape: Shape) -> Result<Pipeline, PipelineError> {
    shape.check()?;
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let whole = |why: String| PipelineError::CsvWhole { why };
    if lines.len() != shape.ranks as usize {
        return Err(whole(format!(
            "lines found: {}; expected {}, one per rank of parallelism.pipeline_parallel_degree",
            lines.len(),
            shape.ranks
        )));
    }
    let mut rank_of = vec![None; shape.stages() as usize];
    let mut actions = Vec::new();
    for (rank, line) in (0..shape.ranks).zip(lines) {
        let mut of_rank = Vec::new();
        for (entry, found) in line.split(',').map(str::trim).enumerate() {
            let bad = |why: String| PipelineError::Csv {
                line: rank as usize + 1,
                entry: entry + 1,
                found: found.chars().take(ENTRY_CHARS_MAX).collect(),
                why,
            };
            for action in entry_of(found).map_err(bad)? {
                take(action, rank, shape, &mut rank_of).map_err(bad)?;
                of_rank.push(action);
            }
        }
        actions.push(of_rank);
    }
    let rank_of = rank_of.iter().enumerate().map(|(stage, rank)| {
        rank.ok_or_else(|| {
            whole(format!(
                "no rank has stage {stage}; there are {}, counted from 0: add its passes",
                shape.stages()
            ))
        })
    });
    let pipeline = Pipeline {
        purpose: Purpose::Train,
        rank_of: rank_of.collect::<Result<_, _>>()?,
        microbatches: shape.microbatches,
        actions,
    };
    let communicated = communicate(&pipeline).map_err(PipelineError::Unsound)?;
    check(&pipeline, &communicated.moves).map_err(PipelineError::Unsound)?;
    Ok(pipeline)
}

/// Of an entry that is wrong, this much is told.
const ENTRY_CHARS_MAX: usize = 40;

/// Notes which rank has the stage of a pass.
fn take(action: Action, rank: u32, shape: Shape, rank_of: &mut [Option<u32>]) -> Result<(), String> {
    let Action { stage, microbatch, .. } = action;
    if microbatch.0 >= shape.microbatches {
        return Err(format!("there are {} microbatches, counted from 0", shape.microbatches));
    }
    let Some(owner) = rank_of.get_mut(stage.0 as usize) else {
        return Err(format!("there are {} stages, counted from 0", shape.stages()));
    };
    match owner.replace(rank) {
        Some(other) if other != rank => {
            Err(format!("stage {} is on rank {other} too; one rank has a stage", stage.0))
        }
        _ => Ok(()),
    }
}

/// The passes of an entry.
fn entry_of(text: &str) -> Result<Vec<Action>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    match text.strip_prefix('(') {
        None => Ok(vec![action_of(text)?]),
        Some(rest) => {
            let pair = rest.strip_suffix(OVERLAP).and_then(|rest| rest.strip_suffix(')'));
            let pair = pair.ok_or_else(|| format!("expected such as (0F3;3B1){OVERLAP}"))?;
            pair.split(';').map(|action| action_of(action.trim())).collect()
        }
    }
}

fn action_of(text: &str) -> Result<Action, String> {
    let letters = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let (stage, rest) = text.split_at(text.len() - letters.len());
    let microbatch = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    let word = &rest[..rest.len() - microbatch.len()];
    let pass = match word {
        "F" => Pass::Forward,
        "B" => Pass::Backward,
        "I" => Pass::BackwardInput,
        "W" => Pass::BackwardWeight,
        _ if PLACED_HERE.contains(&word) => {
            return Err(
                "communication is placed by the trainer; write passes alone (format compute_only)".to_owned()
            );
        }
        _ => return Err("expected stage, F, B, I or W, and microbatch, such as 2F0".to_owned()),
    };
    let number = |text: &str, what| {
        text.parse().map_err(|_| format!("its {what} is `{text}`, expected a number, such as 2F0"))
    };
    let (stage, microbatch) = (number(stage, "stage")?, number(microbatch, "microbatch")?);
    Ok(pass.of(Stage(stage), Microbatch(microbatch)))
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
