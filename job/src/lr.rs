//! The learning rate over the steps: it rises, stays, falls.
//!
//! Source: torchtitan/components/lr_scheduler.py, v0.2.2.

use crate::config::{Config, DecayType};

/// A schedule: what the learning rate is multiplied with at each step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Schedule {
    /// Steps in which it rises.
    pub warmup: u64,
    /// Steps in which it stays, one more than fit: so that the last step's factor is above the floor.
    pub stable: u64,
    /// Steps in which it falls.
    pub decay: u64,
    /// The shape of the fall.
    pub decay_type: DecayType,
    /// The floor.
    pub min_factor: f64,
    /// Whether a warm-up longer than the schedule was shortened to it.
    pub is_warmup_cut: bool,
}

impl Schedule {
    /// The schedule of a configuration.
    pub fn new(config: &Config) -> Self {
        let scheduler = &config.lr_scheduler;
        let total = scheduler.total_steps.unwrap_or(config.training.steps);
        let warmup = scheduler.warmup_steps.min(total);
        let rest = total - warmup;
        // Python rounds halves to even. A ratio is at most 1, so the cast is exact or cut to `rest`.
        let decay = match scheduler.decay_ratio {
            Some(ratio) => ((total as f64 * ratio).round_ties_even() as u64).min(rest),
            None => rest,
        };
        Schedule {
            warmup,
            stable: rest - decay + 1,
            decay,
            decay_type: scheduler.decay_type,
            min_factor: scheduler.min_lr_factor,
            is_warmup_cut: scheduler.warmup_steps > total,
        }
    }

    /// The factor at a step, counted from 0. After the end it stays at the floor, without a fall at 1.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let fall_start = self.warmup + self.stable;
        if step < fall_start || self.decay == 0 {
            return 1.0;
        }
        let progress = ((step + 1 - fall_start) as f64 / self.decay as f64).min(1.0);
        let left = match self.decay_type {
            DecayType::Linear => 1.0 - progress,
            DecayType::Sqrt => 1.0 - progress.sqrt(),
            DecayType::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.min_factor + (1.0 - self.min_factor) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(steps: u64, warmup: u64, ratio: Option<f64>, decay_type: DecayType, min: f64) -> Schedule {
        let mut config = Config::default();
        config.training.steps = steps;
        config.lr_scheduler.warmup_steps = warmup;
        config.lr_scheduler.decay_ratio = ratio;
        config.lr_scheduler.decay_type = decay_type;
        config.lr_scheduler.min_lr_factor = min;
        Schedule::new(&config)
    }

    fn factors(schedule: Schedule, steps: u64) -> Vec<f64> {
        (0..steps).map(|step| (schedule.factor(step) * 1e12).round() / 1e12).collect()
    }

    #[test]
    fn ten_steps_as_torchtitan_has_them() {
        let all = schedule(10, 2, None, DecayType::Linear, 0.0);
        let expected = [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125];
        assert_eq!(factors(all, 10), expected);
        let half = schedule(10, 2, Some(0.5), DecayType::Linear, 0.0);
        assert_eq!(factors(half, 10), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]);
        let cosine = schedule(10, 2, Some(0.5), DecayType::Cosine, 0.1);
        let half = 0.1 + 0.9 * 0.5 * (1.0 + (0.6 * std::f64::consts::PI).cos());
        assert_eq!(factors(cosine, 10)[8], (half * 1e12).round() / 1e12);
        let sqrt = schedule(10, 2, Some(0.4), DecayType::Sqrt, 0.0);
        assert_eq!(
            factors(sqrt, 10)[7..],
            [0.5, (1e12 * (1.0 - 0.5f64.sqrt())).round() / 1e12, 0.133974596216]
        );
    }

    #[test]
    fn lengths_are_cut_and_rounded_as_pythons() {
        let long = schedule(10, 20, None, DecayType::Linear, 0.0);
        assert_eq!((long.warmup, long.decay, long.is_warmup_cut), (10, 0, true));
        assert_eq!(long.factor(9), 1.0);
        // 5 x 0.5 = 2.5, which Python rounds to 2.
        assert_eq!(schedule(5, 1, Some(0.5), DecayType::Linear, 0.0).decay, 2);
        assert_eq!(schedule(5, 2, Some(1.0), DecayType::Linear, 0.0).decay, 3);
        let mut config = Config::default();
        config.lr_scheduler.total_steps = Some(100);
        config.lr_scheduler.warmup_steps = 1;
        assert_eq!(Schedule::new(&config).decay, 99);
    }

    #[test]
    fn after_the_end_it_stays() {
        let schedule = schedule(10, 2, None, DecayType::Linear, 0.1);
        assert_eq!((schedule.factor(10), schedule.factor(1000)), (0.1, 0.1));
    }

    proptest! {
        #[test]
        fn it_rises_stays_and_falls_and_is_never_0(
            steps in 1u64..200, warmup in 0u64..250, ratio in proptest::option::of(0.0f64..=1.0),
            shape in 0usize..3, min in 0.0f64..=1.0,
        ) {
            let schedule = schedule(steps, warmup, ratio, DecayType::ALL[shape], min);
            prop_assert_eq!(schedule.warmup + schedule.stable + schedule.decay, steps + 1);
            let factors: Vec<_> = (0..steps).map(|step| schedule.factor(step)).collect();
            prop_assert!(factors.iter().all(|factor| *factor > 0.0 && *factor <= 1.0));
            let rising = (schedule.warmup as usize).min(factors.len());
            prop_assert!(factors[..rising].is_sorted());
            prop_assert!(factors[rising..].is_sorted_by(|earlier, later| earlier >= later));
            prop_assert!(factors.iter().skip(schedule.warmup as usize).all(|factor| *factor >= min - 1e-12));
        }
    }
}
