//! A simulated step as a timeline, with the names and kinds that the trainer's traces have.

use super::clock::{Stream, Timed};
use crate::timeline::{Event, Lane, kind};
use std::time::Duration;

/// The events of a rank. In the lane of the program every instruction is, in its order, as a trainer's trace has it: what
/// only begins communication takes no time there. What it begins is in the lane of its stream, under the same name.
pub fn events(timed: &[Timed]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut computed = 0.0;
    for timed in timed {
        let event = |lane, begin: f64, end: f64| Event {
            name: timed.instruction.to_string(),
            kind: kind(timed.instruction),
            lane,
            begun: Duration::from_secs_f64(begin.max(0.0)),
            took: Duration::from_secs_f64((end - begin).max(0.0)),
            step: 1,
        };
        let lane = match timed.stream {
            Stream::Compute => {
                // As a trainer sees it: with what was waited for.
                events.push(event(Lane::Program, computed, timed.end));
                computed = timed.end;
                continue;
            }
            Stream::Gathers => Lane::Gathers,
            Stream::Reductions => Lane::Reductions,
            Stream::Messages => Lane::Messages,
        };
        events.push(event(Lane::Program, computed, computed));
        events.push(event(lane, timed.begin, timed.end));
    }
    events
}
