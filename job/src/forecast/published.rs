//! Published figures of TorchTitan, and what is predicted of the same runs.

use super::{Forecast, Question, WRITE_BANDWIDTH};
use crate::config::Config;
use crate::error::Result;
use crate::estimate::{Assumptions, Device};
use std::fmt::Write;

/// A run whose speed was published.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// What was run, in words.
    pub what: &'static str,
    /// Its ranks.
    pub world: u32,
    /// The device that stands for what it ran on.
    pub device: &'static str,
    /// What it did that the trainer does not, as after `--assume`.
    pub assumed: &'static [&'static str],
    /// Its settings.
    pub flags: &'static str,
    /// Tokens per second of one device.
    pub tokens_per_second: f64,
    /// Bytes of memory, the most of any device, in GiB, as the allocator had reserved them.
    pub memory_gib: Option<f64>,
    /// Whether constants were chosen by it; the others were in view.
    pub is_calibrated_on: bool,
}

const LLAMA_8B: &str = "--model.name=llama3 --model.flavor=8B --training.seq_len=8192 --training.local_batch_size=2 \
                        --activation_checkpoint.mode=selective --activation_checkpoint.selective_ac_option=op";
const LLAMA_8B_LONG: &str =
    "--model.name=llama3 --model.flavor=8B --training.local_batch_size=1 --activation_checkpoint.mode=full";
const LLAMA_70B: &str = "--model.name=llama3 --model.flavor=70B --training.seq_len=8192 --training.local_batch_size=16 \
                         --activation_checkpoint.mode=full --parallelism.tensor_parallel_degree=8";
const LLAMA_405B: &str = "--model.name=llama3 --model.flavor=405B --training.seq_len=8192 --training.local_batch_size=32 \
                          --activation_checkpoint.mode=full --parallelism.tensor_parallel_degree=8 \
                          --parallelism.pipeline_parallel_degree=8 --parallelism.pipeline_parallel_microbatch_size=4";

const fn row(
    what: &'static str,
    (world, device): (u32, &'static str),
    assumed: &'static [&'static str],
    flags: &'static str,
    (tokens_per_second, memory_gib): (f64, Option<f64>),
    is_calibrated_on: bool,
) -> Published {
    Published { what, world, device, assumed, flags, tokens_per_second, memory_gib, is_calibrated_on }
}

macro_rules! flags {
    ($base:ident, $more:literal) => {{
        const LEN: usize = $base.len() + $more.len();
        const BYTES: [u8; LEN] = {
            let (mut all, mut at) = ([0; LEN], 0);
            while at < LEN {
                all[at] =
                    if at < $base.len() { $base.as_bytes()[at] } else { $more.as_bytes()[at - $base.len()] };
                at += 1;
            }
            all
        };
        match std::str::from_utf8(&BYTES) {
            Ok(flags) => flags,
            Err(_) => "",
        }
    }};
}

/// Runs of TorchTitan's docs/performance.md and benchmarks/*.md, v0.2.2. Where a pipeline's microbatches are not named there,
/// there are as many as ranks, the default of its time.
#[rustfmt::skip]
pub static PUBLISHED: &[Published] = &[
    row("8B, FSDP 8", (8, "h100"), &[], LLAMA_8B, (5762.0, Some(82.4)), true),
    row("8B, FSDP 8", (8, "h100"), &["compile"], LLAMA_8B, (6667.0, Some(77.0)), true),
    row("8B, FSDP 8", (8, "h100"), &["compile", "float8"], LLAMA_8B, (8532.0, Some(76.8)), true),
    row("8B, FSDP 128", (128, "h100"), &[], LLAMA_8B, (5605.0, Some(67.0)), false),
    row("8B, FSDP 128", (128, "h100"), &["compile"], LLAMA_8B, (6514.0, Some(62.0)), false),
    row("8B, FSDP 128", (128, "h100"), &["compile", "float8"], LLAMA_8B, (8380.0, Some(61.8)), false),
    row("8B, 32,768 tokens, FSDP 8", (8, "h100"), &["compile", "float8"],
        flags!(LLAMA_8B_LONG, " --training.seq_len=32768"), (3890.0, Some(83.9)), false),
    row("8B, 65,536 tokens, FSDP 4, CP 2", (8, "h100"), &["compile", "float8"],
        flags!(LLAMA_8B_LONG, " --training.seq_len=65536 --parallelism.context_parallel_degree=2"), (2540.0, Some(84.2)), false),
    row("8B, 131,072 tokens, FSDP 2, CP 4", (8, "h100"), &["compile", "float8"],
        flags!(LLAMA_8B_LONG, " --training.seq_len=131072 --parallelism.context_parallel_degree=4"), (1071.0, Some(84.0)), false),
    row("8B, 262,144 tokens, CP 8", (8, "h100"), &["compile", "float8"],
        flags!(LLAMA_8B_LONG, " --training.seq_len=262144 --parallelism.context_parallel_degree=8"), (548.0, Some(84.5)), false),
    row("8B, FSDP 8, TP 8, batch 12", (64, "h100"), &["compile"],
        flags!(LLAMA_8B, " --training.local_batch_size=12 --parallelism.tensor_parallel_degree=8"), (4378.0, None), false),
    row("8B, FSDP 8, TP 8, batch 12", (64, "h100"), &["compile", "async-tp"],
        flags!(LLAMA_8B, " --training.local_batch_size=12 --parallelism.tensor_parallel_degree=8"), (4809.4, None), false),
    row("70B, FSDP 32, TP 8", (256, "h100"), &["compile"], LLAMA_70B, (597.3, None), false),
    row("70B, FSDP 32, TP 8", (256, "h100"), &["compile", "float8"], LLAMA_70B, (829.0, Some(71.9)), true),
    row("70B, FSDP 32, TP 8", (256, "h100"), &["compile", "float8", "async-tp"], LLAMA_70B, (876.0, Some(67.6)), true),
    row("405B, FSDP 8, TP 8, PP 8, 1F1B", (512, "h100"), &["compile", "float8", "async-tp"],
        flags!(LLAMA_405B, " --parallelism.pipeline_parallel_schedule=1F1B"), (100.0, Some(82.5)), true),
    row("405B, FSDP 8, TP 8, PP 8, Interleaved1F1B", (512, "h100"), &["compile", "float8", "async-tp"],
        flags!(LLAMA_405B, " --parallelism.pipeline_parallel_schedule=Interleaved1F1B"), (128.0, Some(72.7)), true),
    row("8B, FSDP 32", (32, "h200"), &["compile", "float8"], LLAMA_8B, (10938.0, Some(47.96)), false),
    row("8B, FSDP 8, batch 1", (8, "b200"), &["compile"],
        flags!(LLAMA_8B, " --training.local_batch_size=1"), (8307.5, Some(31.4)), false),
    row("8B, FSDP 8, batch 1", (8, "b200"), &["compile", "float8"],
        flags!(LLAMA_8B, " --training.local_batch_size=1"), (10417.0, Some(31.1)), false),
    row("8B, FSDP 64, batch 1", (64, "a100"), &["compile"],
        flags!(LLAMA_8B, " --training.local_batch_size=1"), (2973.0, None), false),
];

impl Published {
    /// What is predicted of the run.
    ///
    /// Errors: as of [`Forecast::new`].
    pub fn forecast(&self) -> Result<Forecast> {
        let read = |path: &std::path::Path| -> std::io::Result<String> {
            Err(std::io::Error::other(format!("{}: no row has a file", path.display())))
        };
        let parsed = Config::from_args(self.flags.split_whitespace(), read)?;
        let mut assumptions = Assumptions::default();
        for name in self.assumed {
            assumptions.assume(name);
        }
        let device = Device::find(self.device).map_err(|why| crate::error::Error::NotModelled { why })?;
        let (config, write_bandwidth) = (&parsed.config, WRITE_BANDWIDTH);
        Forecast::new(&Question {
            config,
            csv: None,
            world: self.world,
            device,
            assumptions,
            write_bandwidth,
        })
    }

    /// How far a prediction is off, in percent of what was published.
    pub fn error_percent(&self, forecast: &Forecast) -> f64 {
        100.0 * (forecast.tokens_per_second() / self.tokens_per_second - 1.0)
    }
}

/// Every row beside its prediction, as the table of `docs/plan.md`.
///
/// Errors: as of [`Published::forecast`].
pub fn table() -> Result<String> {
    let mut table = "| run | device | assumed | published | predicted | error | memory, GiB | predicted |\n\
                     |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in PUBLISHED {
        let forecast = row.forecast()?;
        let mark = if row.is_calibrated_on { " *" } else { "" };
        let memory = row.memory_gib.map_or(String::new(), |gib| format!("{gib:.1}"));
        let gib = forecast.peak.1.memory.total() as f64 / f64::from(1 << 30);
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| {}{mark} | {} x {} | {} | {:.0} | {:.0} | {:+.1} % | {memory} | {gib:.1} |",
            row.what,
            row.world,
            row.device,
            row.assumed.join(", "),
            row.tokens_per_second,
            forecast.tokens_per_second(),
            row.error_percent(&forecast),
        );
    }
    Ok(table)
}
