//! The report for programs.

use super::Forecast;
use crate::flops;
use serde_json::{Map, Value, json};

impl Forecast {
    /// The report as JSON. Seconds, bytes and shares are numbers; keys keep their names and meanings.
    pub fn json(&self) -> Value {
        let (dims, batch, figures, saves) = (&self.dims, &self.step.batch, &self.figures, &self.saves);
        let (rank, peak) = &self.peak;
        let rate = self.tokens_per_second();
        json!({
            "model": self.model.name(), "parameters": self.parameters, "ranks": dims.world(),
            "device": self.device.name, "assumed": self.assumptions.names(),
            "mesh": {
                "dp_replicate": dims.dp_replicate, "dp_shard": dims.dp_shard, "cp": dims.cp, "tp": dims.tp, "pp": dims.pp,
            },
            "batch": {
                "global": batch.global, "local": batch.local, "accumulation_steps": batch.accumulation_steps,
                "microbatches": batch.microbatches, "microbatch": batch.microbatch, "seq_len": self.seq_len,
            },
            "schedule": self.schedule, "stages": self.step.stages.len(),
            "step_seconds": figures.seconds, "tokens_per_second": rate, "mfu_percent": self.mfu_percent(),
            "tflops": flops::tflops(self.flops_per_token, rate), "bubble_share": figures.bubble_share(),
            "computing_seconds": object(figures.computing.iter().map(|(kind, time)| (*kind, json!(time)))),
            "exposed_seconds": object(figures.exposed.kinds().map(|(kind, time)| (kind, json!(time)))),
            "bubble_seconds": figures.bubble,
            "carried_bytes": object(figures.carried.kinds().map(|(kind, bytes)| (kind, json!(bytes as u64)))),
            "memory": {
                "fits": self.fits(), "device_bytes": self.device.memory_bytes, "usable_bytes": self.memory_bytes_max(),
                "peak_bytes": peak.memory.total(), "pipeline_rank": rank, "instruction": peak.at,
                "instruction_text": peak.instruction.to_string(),
                "at_peak_bytes": object(peak.memory.kinds().map(|(kind, bytes)| (kind, json!(bytes)))),
                "most_bytes": object(peak.of_each.kinds().map(|(kind, bytes)| (kind, json!(bytes)))),
            },
            "save": {
                "total_bytes": saves.total_bytes, "rank_bytes": saves.rank_bytes, "stage_seconds": saves.stage_seconds,
                "write_bandwidth": saves.write_bandwidth, "write_seconds": saves.write_seconds,
                "interval_steps": saves.interval, "stall_seconds": saves.stall_seconds, "stall_share": saves.stall_share(),
            },
        })
    }
}

/// An object whose keys are names with underscores.
fn object(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let entries = entries.into_iter().map(|(name, value)| (name.replace(", ", "_").replace(' ', "_"), value));
    Value::Object(entries.collect::<Map<_, _>>())
}
