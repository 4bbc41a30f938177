//! The report for people.

use super::Forecast;
use crate::flops;
use crate::mesh::ParallelDims;
use crate::quantity::{self, bytes, count, seconds, thousands};
use std::fmt::{self, Write};

impl Forecast {
    /// The report: what `titan-ckpt plan` and `titan-train --dry-run` print.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        self.write_run(out)?;
        self.write_step(out)?;
        self.write_time(out)?;
        self.write_memory(out)?;
        self.write_saves(out)
    }

    fn write_run(&self, out: &mut String) -> fmt::Result {
        let parameters = thousands(self.parameters);
        let (world, device) = (self.dims.world(), self.device);
        writeln!(out, "{}, {parameters} parameters, on {}", self.model.name(), count(world.into(), "rank"))?;
        writeln!(out, "device     {}: {}", device.name, device.about)?;
        let assumed = self.assumptions.names();
        if !assumed.is_empty() {
            writeln!(out, "assumed    {}: the trainer refuses it", assumed.join(", "))?;
        }
        let ParallelDims { pp, dp_replicate, dp_shard, cp, tp, .. } = self.dims;
        writeln!(
            out,
            "mesh       dp_replicate {dp_replicate} x dp_shard {dp_shard} x cp {cp} x tp {tp} x pp {pp}"
        )?;
        let batch = self.step.batch;
        writeln!(
            out,
            "batch      {} of {} = {} x {} with other data x {}; {} of {} in each",
            count(batch.global, "sequence"),
            count(self.seq_len, "token"),
            batch.local,
            count(self.dims.batch().into(), "rank"),
            count(batch.accumulation_steps, "turn"),
            count(batch.microbatches, "microbatch").replace("batchs", "batches"),
            batch.microbatch,
        )?;
        if let Some(schedule) = self.schedule {
            let stages = self.step.stages.len() as u32;
            writeln!(
                out,
                "pipeline   {schedule}, {}, {} per rank",
                count(stages.into(), "stage"),
                stages / pp
            )?;
        }
        Ok(())
    }

    fn write_step(&self, out: &mut String) -> fmt::Result {
        let rate = self.tokens_per_second();
        let all = self.tokens() as f64 / self.figures.seconds;
        writeln!(
            out,
            "step       {}, {} tokens per second and device, {} in all",
            seconds(self.figures.seconds),
            thousands(rate.round() as u64),
            thousands(all.round() as u64)
        )?;
        writeln!(
            out,
            "MFU        {:.1} % of {} in bfloat16: {}",
            self.mfu_percent(),
            quantity::flops(self.device.bfloat16_flops()),
            quantity::flops(1e12 * flops::tflops(self.flops_per_token, rate))
        )?;
        writeln!(out, "bubble     {:.1} % of the step", 100.0 * self.figures.bubble_share())
    }

    fn write_time(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\ntime of a step, mean over the ranks of a pipeline")?;
        let figures = &self.figures;
        let line = |out: &mut String, name: &str, time: f64| {
            let share = 100.0 * time / figures.seconds;
            writeln!(out, "  {name:<32} {:>10} {share:>5.1} %", seconds(time))
        };
        for (kind, time) in &figures.computing {
            line(out, kind, *time)?;
        }
        for (kind, time) in figures.exposed.kinds().into_iter().filter(|(_, time)| *time > 0.0) {
            line(out, &format!("exposed: {kind}"), time)?;
        }
        if figures.bubble > 0.0 {
            line(out, "bubble", figures.bubble)?;
        }
        writeln!(out, "\nbytes that come to a rank in a step")?;
        for (kind, carried) in figures.carried.kinds() {
            writeln!(out, "  {kind:<32} {:>10}", bytes(carried as u64))?;
        }
        Ok(())
    }

    fn write_memory(&self, out: &mut String) -> fmt::Result {
        let (rank, peak) = &self.peak;
        let of = if self.dims.pp > 1 { format!(" of pipeline rank {rank}") } else { String::new() };
        writeln!(out, "\nmost memory{of}: during instruction {} ({})", peak.at, peak.instruction)?;
        for (kind, held) in peak.memory.kinds().into_iter().filter(|(_, held)| *held > 0) {
            writeln!(out, "  {kind:<32} {:>10}", bytes(held))?;
        }
        let total = peak.memory.total();
        writeln!(out, "  {:<32} {:>10}", "total", bytes(total))?;
        let Some((all, max)) = self.device.memory_bytes.zip(self.memory_bytes_max()) else {
            return writeln!(
                out,
                "  {} has no memory of its own: whether it fits depends on the node",
                self.device.name
            );
        };
        let verdict = match self.fits() {
            Some(true) => "fits: ",
            _ => "DOES NOT FIT: ",
        };
        let share = 100.0 * total as f64 / all as f64;
        writeln!(
            out,
            "  {verdict}{share:.0} % of the {} of {}, of which {} can be filled",
            bytes(all),
            self.device.name,
            bytes(max)
        )?;
        match self.fits() {
            Some(false) => writeln!(
                out,
                "  raise parallelism.data_parallel_shard_degree or tensor_parallel_degree, lower training.local_batch_size, or \
                 set activation_checkpoint.mode to \"full\""
            ),
            _ => Ok(()),
        }
    }

    fn write_saves(&self, out: &mut String) -> fmt::Result {
        let saves = &self.saves;
        writeln!(
            out,
            "\nsave       {} together, {} of a rank; {} to host memory, {} to store it at {}/s per node",
            bytes(saves.total_bytes),
            bytes(saves.rank_bytes),
            seconds(saves.stage_seconds),
            seconds(saves.write_seconds),
            bytes(saves.write_bandwidth as u64)
        )?;
        match saves.interval {
            None => writeln!(out, "           checkpoint.enable is off: nothing is saved"),
            Some(steps) => writeln!(
                out,
                "           every {steps} steps ({}); training stands still for {} of it, {:.2} %",
                seconds(saves.interval_seconds),
                seconds(saves.stall_seconds),
                100.0 * saves.stall_share()
            ),
        }
    }
}
