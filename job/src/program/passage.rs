//! How far microbatches are in the stages of a rank.

use super::{Microbatch, Program, Purpose, StageUnits, Unit};
use crate::pipeline::{Message, Payload, Stage};

pub(super) type Step = Result<(), String>;

pub(super) fn expect(holds: bool, why: impl FnOnce() -> String) -> Step {
    if holds { Ok(()) } else { Err(why()) }
}

/// A microbatch in a stage.
#[derive(Clone, Copy, Default, Debug)]
struct Passage {
    /// The unit that is next on the way forward; none before the input is there.
    next: Option<u32>,
    is_output_sent: bool,
    /// The unit after the one that is next on the way back; none before the gradient of the output is there.
    left: Option<u32>,
    is_gradient_sent: bool,
}

#[derive(Debug)]
pub(super) struct Passages {
    /// Units of the model.
    units: u32,
    /// The stages of this rank, and their microbatches.
    stages: Vec<(StageUnits, Vec<Passage>)>,
}

impl Passages {
    /// Nothing has passed. The first stage finds its input in the batch.
    pub(super) fn new(program: &Program) -> Self {
        let of_stage = |stage: &StageUnits| {
            let next = (stage.units.start == 0).then_some(0);
            let passage = Passage { next, ..Passage::default() };
            (stage.clone(), vec![passage; program.microbatches as usize])
        };
        Passages { units: program.units, stages: program.stages.iter().map(of_stage).collect() }
    }

    /// Whether this rank has a unit.
    pub(super) fn has(&self, unit: Unit) -> bool {
        self.stages.iter().any(|(stage, _)| stage.units.contains(&unit.0))
    }

    /// The passage of a microbatch through a stage of this rank, and the units of the stage.
    fn passage(
        &mut self,
        is_it: impl Fn(&StageUnits) -> bool,
        microbatch: Microbatch,
    ) -> Result<Option<(StageUnits, &mut Passage)>, String> {
        let Some((stage, passages)) = self.stages.iter_mut().find(|(stage, _)| is_it(stage)) else {
            return Ok(None);
        };
        let passage = passages.get_mut(microbatch.0 as usize);
        let passage = passage.ok_or_else(|| "there is no such microbatch".to_owned())?;
        Ok(Some((stage.clone(), passage)))
    }

    fn at_unit(&mut self, unit: Unit, microbatch: Microbatch) -> Result<(StageUnits, &mut Passage), String> {
        self.passage(|stage| stage.units.contains(&unit.0), microbatch)?
            .ok_or_else(|| "there is no such unit".to_owned())
    }

    fn at_stage(
        &mut self,
        stage: Stage,
        microbatch: Microbatch,
    ) -> Result<(StageUnits, &mut Passage), String> {
        let number = stage.0;
        self.passage(|of| of.stage == stage, microbatch)?
            .ok_or_else(|| format!("stage {number} is not on this rank"))
    }

    /// A microbatch goes forward through a unit.
    pub(super) fn forward(&mut self, unit: Unit, microbatch: Microbatch) -> Step {
        let (StageUnits { stage, units }, passage) = self.at_unit(unit, microbatch)?;
        let next = passage.next.ok_or_else(|| "the stage's input is not there".to_owned())?;
        expect(next == unit.0, || format!("the microbatch has passed {next} units"))?;
        passage.next = Some(next + 1);
        // What the next stage takes, where it is on this rank too.
        if next + 1 == units.end
            && let Some((after, passage)) = self.passage(|of| of.stage.0 == stage.0 + 1, microbatch)?
        {
            passage.next = Some(after.units.start);
        }
        Ok(())
    }

    /// The loss of a microbatch is computed.
    pub(super) fn loss(&mut self, microbatch: Microbatch) -> Step {
        let all = self.units;
        let last = self.passage(|stage| stage.units.end == all, microbatch)?;
        let (_, passage) = last.ok_or_else(|| "the last stage is not on this rank".to_owned())?;
        let passed = passage.next;
        expect(passed == Some(all), || format!("the microbatch has passed {passed:?} of {all} units"))?;
        expect(passage.left.is_none(), || "its loss was computed before".to_owned())?;
        passage.left = Some(all);
        Ok(())
    }

    /// A microbatch goes backward through a unit, as far as the gradient of its input.
    pub(super) fn backward(&mut self, unit: Unit, microbatch: Microbatch) -> Step {
        let (StageUnits { stage, units }, passage) = self.at_unit(unit, microbatch)?;
        let left =
            passage.left.ok_or_else(|| "the gradient of the stage's output is not there".to_owned())?;
        expect(left == unit.0 + 1, || format!("on the way back {left} units are left"))?;
        passage.left = Some(unit.0);
        if unit.0 == units.start
            && let Some((before, passage)) =
                self.passage(|of| of.stage.0.checked_add(1) == Some(stage.0), microbatch)?
        {
            passage.left = Some(before.units.end);
        }
        Ok(())
    }

    /// A message leaves.
    pub(super) fn send(&mut self, message: Message) -> Step {
        let Message { payload, from, to, microbatch } = message;
        self.is_between(message, to)?;
        let (StageUnits { units, .. }, passage) = self.at_stage(from, microbatch)?;
        let (is_made, is_sent) = match payload {
            Payload::Activation => (passage.next == Some(units.end), &mut passage.is_output_sent),
            Payload::Gradient => (passage.left == Some(units.start), &mut passage.is_gradient_sent),
        };
        expect(is_made, || "it is not computed".to_owned())?;
        expect(!std::mem::replace(is_sent, true), || "it was sent before".to_owned())
    }

    /// A message is on its way here.
    pub(super) fn recv(&mut self, message: Message) -> Step {
        let Message { payload, from, to, microbatch } = message;
        self.is_between(message, from)?;
        let (StageUnits { units, .. }, passage) = self.at_stage(to, microbatch)?;
        let (arrived, value) = match payload {
            Payload::Activation => (&mut passage.next, units.start),
            Payload::Gradient => (&mut passage.left, units.end),
        };
        expect(arrived.replace(value).is_none(), || "it has come before".to_owned())
    }

    /// Whether a message goes from a stage to the next one of its way, and the other end is on another rank.
    fn is_between(&self, Message { payload, from, to, .. }: Message, other: Stage) -> Step {
        let is_next = match payload {
            Payload::Activation => from.0.checked_add(1) == Some(to.0),
            Payload::Gradient => to.0.checked_add(1) == Some(from.0),
        };
        expect(is_next, || "activations go to the stage after, gradients to the one before".to_owned())?;
        let is_here = self.stages.iter().any(|(stage, _)| stage.stage == other);
        expect(!is_here, || format!("stage {} is on this rank too", other.0))
    }

    /// Nothing is left.
    pub(super) fn end(&self, purpose: Purpose) -> Step {
        let is_here = |wanted: Option<u32>| self.stages.iter().any(|(of, _)| Some(of.stage.0) == wanted);
        for (StageUnits { stage, units }, passages) in &self.stages {
            let (is_first, is_last) = (units.start == 0, units.end == self.units);
            let sends_output = !is_last && !is_here(Some(stage.0 + 1));
            let sends_gradient = purpose == Purpose::Train && !is_first && !is_here(stage.0.checked_sub(1));
            for (microbatch, passage) in passages.iter().enumerate() {
                let of = || format!("microbatch {microbatch} of stage {}", stage.0);
                expect(passage.next == Some(units.end), || format!("{} has not gone forward", of()))?;
                expect(!is_last || passage.left.is_some(), || {
                    format!("microbatch {microbatch} has no loss")
                })?;
                let is_back = purpose == Purpose::Evaluate || passage.left == Some(units.start);
                expect(is_back, || format!("{} has not gone backward", of()))?;
                expect(!sends_output || passage.is_output_sent, || format!("{} was not sent on", of()))?;
                expect(!sends_gradient || passage.is_gradient_sent, || {
                    format!("the gradient of {} was not sent back", of())
                })?;
            }
        }
        Ok(())
    }
}
