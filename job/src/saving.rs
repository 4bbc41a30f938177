//! When a checkpoint is saved, and what of.
//!
//! Source: torchtitan/components/checkpoint.py, v0.2.2, `save` and `_should_save`. Of our own: a job that is asked to stop
//! saves, and exports need their step.

use crate::config::Checkpoint;

/// What is saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Everything that a run goes on from.
    Full,
    /// The model, in the type for export.
    Model,
}

/// A save that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// What is saved.
    pub content: Content,
    /// Whether the job ends with it: then it waits until all is stored.
    pub is_last: bool,
    /// Whether the step is exported as a Hugging Face model.
    pub is_exported: bool,
}

/// The save that is due after a step, of `steps` in all. A job that is asked to stop ends after it, whichever step it is.
pub fn due(checkpoint: &Checkpoint, step: u64, steps: u64, is_stopping: bool) -> Option<Due> {
    if !checkpoint.enable || checkpoint.load_only {
        return None;
    }
    let is_final = step >= steps;
    let every = |interval: u64| interval > 0 && step.is_multiple_of(interval);
    let is_exported = every(checkpoint.export_hf_interval) || is_final && checkpoint.last_save_in_hf;
    let is_due = is_final
        || is_stopping
        || is_exported
        || every(checkpoint.interval)
        || step == 1 && checkpoint.enable_first_step_checkpoint;
    let content = match is_final && checkpoint.last_save_model_only {
        true => Content::Model,
        false => Content::Full,
    };
    is_due.then_some(Due { content, is_last: is_final || is_stopping, is_exported })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(checkpoint: &Checkpoint, steps: u64) -> Vec<(u64, Content, bool, bool)> {
        let of = |step| {
            let due = due(checkpoint, step, steps, false)?;
            Some((step, due.content, due.is_last, due.is_exported))
        };
        (1..=steps).filter_map(of).collect()
    }

    #[test]
    fn at_intervals_and_at_the_end() {
        let on = Checkpoint { enable: true, interval: 4, ..Checkpoint::default() };
        let (full, model) = (Content::Full, Content::Model);
        assert_eq!(
            dues(&on, 10),
            [(4, full, false, false), (8, full, false, false), (10, model, true, false)]
        );
        let last_full = Checkpoint { last_save_model_only: false, ..on.clone() };
        assert_eq!(dues(&last_full, 8), [(4, full, false, false), (8, full, true, false)]);
        let first = Checkpoint { enable_first_step_checkpoint: true, ..on.clone() };
        assert_eq!(dues(&first, 2), [(1, full, false, false), (2, model, true, false)]);
        let exporting = Checkpoint { export_hf_interval: 3, ..on.clone() };
        assert_eq!(
            dues(&exporting, 5),
            [(3, full, false, true), (4, full, false, false), (5, model, true, false)]
        );
        let last_in_hf = Checkpoint { last_save_in_hf: true, ..on.clone() };
        assert_eq!(dues(&last_in_hf, 3), [(3, model, true, true)]);
        assert_eq!(dues(&Checkpoint { enable: false, ..on.clone() }, 10), []);
        assert_eq!(dues(&Checkpoint { load_only: true, ..on }, 10), []);
    }

    #[test]
    fn a_job_that_is_asked_to_stop_saves_all() {
        let on = Checkpoint { enable: true, ..Checkpoint::default() };
        let stopped = Some(Due { content: Content::Full, is_last: true, is_exported: false });
        assert_eq!(due(&on, 3, 10, true), stopped);
        assert_eq!(due(&on, 3, 10, false), None);
        assert_eq!(due(&on, 10, 10, true).map(|due| due.content), Some(Content::Model));
        assert_eq!(due(&Checkpoint::default(), 3, 10, true), None);
    }
}
