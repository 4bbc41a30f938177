//! What a step and a validation report, and the figures made of it.
//!
//! Source: torchtitan/components/metrics.py, v0.2.2, but for the time of one step: it divides the time since the last log
//! by `log_freq` even where fewer steps have passed, after the first one and after a resumption.

use super::memory::Memory;
use job::flops::{self, Peak};

/// A logged step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Record {
    /// Steps done, this one included.
    pub step: u64,
    /// Loss per token over the tokens of all ranks.
    pub global_avg_loss: f64,
    /// The largest of the ranks' own losses per token.
    pub global_max_loss: f64,
    /// L2 norm of the gradients of all ranks before they were clipped.
    pub grad_norm: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Tokens of all ranks since the training began, resumptions included.
    pub tokens_seen: u64,
    /// Since the last log.
    pub window: Window,
    /// The device's.
    pub memory: Memory,
}

/// What one rank did since it logged last.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Window {
    /// Steps.
    pub steps: u64,
    /// Tokens that this rank was given. Ranks that share their sequences are given the same ones.
    pub tokens: u64,
    /// Wall time.
    pub seconds: f64,
    /// Batches that the step loop asked for.
    pub batches: u64,
    /// Wall time that the step loop waited for them, in all.
    pub data_loading_seconds: f64,
    /// Wall time that the step loop waited for the saving of checkpoints, in all.
    pub checkpoint_wait_seconds: f64,
}

/// A validation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Validation {
    /// Steps done before it.
    pub step: u64,
    /// Loss per token over the tokens of all ranks.
    pub loss: f64,
    /// Tokens per second of one device.
    pub tokens_per_second: f64,
    /// The device's.
    pub memory: Memory,
}

/// What a token costs and what the devices can do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Costs {
    /// Operations of forward and backward per token, of [`flops::per_token`]; none for models that have no such figure.
    pub flops_per_token: Option<u64>,
    /// What a device can do, of [`flops::peak`].
    pub peak: Peak,
    /// Devices that share the tokens of one data-parallel rank.
    pub non_data_parallel: u32,
}

/// Figures of a [`Window`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// Tokens per second of one device.
    pub tokens_per_second: f64,
    /// 10^12 operations per second of one device.
    pub tflops: Option<f64>,
    /// Percent of the device's peak.
    pub mfu_percent: Option<f64>,
    /// Wall time of one step, in the mean.
    pub step_seconds: f64,
    /// Wall time that the loop waited for one batch, in the mean.
    pub batch_seconds: f64,
    /// Percent of the wall time that the loop waited for batches.
    pub data_loading_percent: f64,
}

impl Window {
    /// Its figures. Those of a window without time are not finite; without steps or batches it is as if there were one.
    pub fn rates(&self, costs: &Costs) -> Rates {
        let tokens_per_second = flops::tokens_per_second(self.tokens, self.seconds, costs.non_data_parallel);
        let of_flops = |figure: &dyn Fn(u64) -> f64| costs.flops_per_token.map(figure);
        Rates {
            tokens_per_second,
            tflops: of_flops(&|flops| flops::tflops(flops, tokens_per_second)),
            mfu_percent: of_flops(&|flops| flops::utilisation(flops, tokens_per_second, costs.peak.flops)),
            step_seconds: self.seconds / self.steps.max(1) as f64,
            batch_seconds: self.data_loading_seconds / self.batches.max(1) as f64,
            data_loading_percent: 100.0 * self.data_loading_seconds / self.seconds,
        }
    }
}

/// Records that the tests of all sinks use. TorchTitan's own figures of the first are in the tests of `console` and
/// `tensorboard`.
#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use crate::metrics::memory::BYTES_PER_GIB;

    const GIB: u64 = BYTES_PER_GIB as u64;

    /// Llama 3 8B on H100s, two of which share their sequences.
    pub(in crate::metrics) const COSTS: Costs = Costs {
        flops_per_token: Some(57_914_449_920),
        peak: Peak { flops: 989e12, is_known: true },
        non_data_parallel: 2,
    };

    pub(in crate::metrics) fn memory() -> Memory {
        Memory {
            max_active_bytes: 40 * GIB,
            max_reserved_bytes: 48 * GIB,
            total_bytes: 85_017_493_504,
            alloc_retries: 0,
            ooms: 0,
        }
    }

    pub(in crate::metrics) fn record(step: u64) -> Record {
        let window = Window {
            steps: 10,
            tokens: 56_000,
            seconds: 4.0,
            batches: 2,
            data_loading_seconds: 0.4,
            checkpoint_wait_seconds: 0.125,
        };
        Record {
            step,
            global_avg_loss: 8.123456,
            global_max_loss: 8.5,
            grad_norm: 1.98765,
            lr: 3e-4,
            tokens_seen: 655_360,
            window,
            memory: memory(),
        }
    }

    pub(in crate::metrics) fn validation() -> Validation {
        Validation { step: 200, loss: 3.98765, tokens_per_second: 820_500.0, memory: memory() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_torchtitans() {
        let rates = samples::record(10).window.rates(&samples::COSTS);
        let expected = Rates {
            tokens_per_second: 7000.0,
            tflops: Some(405.40114944),
            mfu_percent: Some(40.99101612133468),
            step_seconds: 0.4,
            batch_seconds: 0.2,
            data_loading_percent: 10.0,
        };
        assert_eq!(rates, expected);
    }

    #[test]
    fn a_step_has_the_time_of_a_step_in_a_short_window_too() {
        // The first step is logged by itself, whatever log_freq is.
        let window = Window { steps: 1, tokens: 100, seconds: 2.0, ..Window::default() };
        let rates = window.rates(&samples::COSTS);
        assert_eq!((rates.step_seconds, rates.batch_seconds, rates.data_loading_percent), (2.0, 0.0, 0.0));
    }

    #[test]
    fn a_model_without_a_figure_has_throughput_alone() {
        let costs = Costs { flops_per_token: None, ..samples::COSTS };
        let rates = samples::record(10).window.rates(&costs);
        assert_eq!((rates.tokens_per_second, rates.tflops, rates.mfu_percent), (7000.0, None, None));
    }

    #[test]
    fn no_time_is_no_panic() {
        let rates = Window { tokens: 5, ..Window::default() }.rates(&samples::COSTS);
        assert_eq!(rates.tokens_per_second, f64::INFINITY);
        assert!(rates.data_loading_percent.is_nan());
    }
}
