//! What is compared: one table.

use super::families::Model;

/// Sides of one comparison, ours first.
pub(super) struct Comparison {
    pub(super) name: &'static str,
    /// The checkpoint that all sides read.
    pub(super) source: Source,
    pub(super) sides: &'static [Side],
    /// What ours must keep to.
    pub(super) limit: Limit,
}

/// A checkpoint made by PyTorch, in the words of `xtask/peers/bench_checkpoint.py`.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// 291 tensors from 2 ranks, sharded on dim 0.
    Rows,
    /// The same, sharded on dim 1.
    Columns,
    /// One tensor of 16,384 columns from one rank, a quarter of the size.
    OneChunk,
    /// The initial state of a model, made by `titan-ckpt seed` for 4 ranks.
    Seeded(&'static Model),
    /// The same for Hugging Face, made by `titan-ckpt to-hf`.
    Exported(&'static Model),
    /// None: the side makes its own.
    Nothing,
}

#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) label: &'static str,
    pub(super) run: Run,
}

/// What runs. `SRC`, `DST` and `CONFIG` in arguments stand for source, target, and the `config.json` of the source's model.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// `titan-ckpt`.
    Ours(&'static [&'static str]),
    /// An example of this workspace, as many times at once as there are lists of arguments.
    Example(&'static str, &'static [&'static [&'static str]]),
    /// Copies the source's files and makes them durable: nothing that writes as many bytes can be faster.
    CopyDurably,
    /// An operation of `xtask/peers/bench_peer.py` under PyTorch 2.11.
    Torch(&'static [&'static str]),
    /// An operation of `xtask/peers/bench_titan.py` under TorchTitan 0.2.2.
    TorchTitan(&'static [&'static str]),
}

/// What a figure of ours must keep to.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// At most so many times the first other side, and at least so many times as fast as the second, where there is one.
    Times { slower_than_first: f64, faster_than_second: Option<f64> },
    /// At least so many times as fast as the other side.
    Faster(f64),
    /// At most so many seconds.
    Seconds(f64),
    /// At most so many seconds, in at most so much resident memory.
    Startup { seconds_max: f64, resident_mib_max: u64 },
    /// Reads at most so many times the bytes it wants.
    Amplification(f64),
    /// At most so many times the first other side, where that says something, and at most so much resident memory.
    Frugal { slower_than_first: Option<f64>, resident_mib_max: u64 },
    /// At least so many times as fast as the other side, in so many times less resident memory.
    Leaner { faster: f64, smaller: f64 },
}

pub(super) const COPY: Side = Side { label: "cp + fsync", run: Run::CopyDurably };

pub(super) static COMPARISONS: &[Comparison] = &[
    Comparison {
        name: "reshard rows, 2 to 4 ranks",
        source: Source::Rows,
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["reshard", "SRC", "DST", "--dp-shard", "4"]) },
            COPY,
        ],
        limit: Limit::Times { slower_than_first: 1.25, faster_than_second: None },
    },
    Comparison {
        name: "reshard columns to rows, 2 to 4 ranks",
        source: Source::Columns,
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["reshard", "SRC", "DST", "--dp-shard", "4"]) },
            COPY,
        ],
        limit: Limit::Times { slower_than_first: 2.0, faster_than_second: None },
    },
    Comparison {
        name: "reshard columns, 2 to 4 ranks",
        source: Source::Columns,
        sides: &[Side { label: "titan-ckpt", run: Run::Ours(&["reshard", "SRC", "DST", "--tp", "4"]) }, COPY],
        limit: Limit::Times { slower_than_first: 2.0, faster_than_second: None },
    },
    Comparison {
        name: "dcp to one safetensors file",
        source: Source::Rows,
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["convert", "SRC", "DST.safetensors"]) },
            COPY,
            Side {
                label: "HuggingFaceStorageWriter + consolidation",
                run: Run::Torch(&["hf_consolidated", "SRC", "DST"]),
            },
        ],
        limit: Limit::Times { slower_than_first: 1.25, faster_than_second: Some(3.0) },
    },
    Comparison {
        name: "dcp to one torch.save file",
        source: Source::Rows,
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["convert", "SRC", "DST.pt"]) },
            COPY,
            Side { label: "dcp_to_torch_save", run: Run::Torch(&["dcp_to_torch_save", "SRC", "DST"]) },
        ],
        limit: Limit::Times { slower_than_first: 1.25, faster_than_second: Some(3.0) },
    },
    Comparison {
        name: "dcp to titan",
        source: Source::Rows,
        sides: &[
            Side { label: "titan-ckpt", run: Run::Ours(&["convert", "SRC", "DST", "--to", "titan"]) },
            COPY,
        ],
        limit: Limit::Times { slower_than_first: 1.25, faster_than_second: None },
    },
    Comparison {
        name: "load on 2 ranks, rows to columns",
        source: Source::Rows,
        sides: &[
            Side {
                label: "dcp::copy::load, 2 processes",
                run: Run::Example("load_shard", &[&["SRC", "1", "0", "2"], &["SRC", "1", "1", "2"]]),
            },
            Side { label: "dcp.load, 2 processes", run: Run::Torch(&["load_columns", "SRC", "DST"]) },
        ],
        limit: Limit::Faster(2.0),
    },
    Comparison {
        name: "load one eighth of the rows of one chunk",
        source: Source::OneChunk,
        sides: &[
            Side { label: "dcp::copy::load", run: Run::Example("load_shard", &[&["SRC", "0", "3", "8"]]) },
            Side { label: "dcp.load", run: Run::Torch(&["load_eighth", "SRC", "DST", "0"]) },
        ],
        limit: Limit::Amplification(1.1),
    },
    Comparison {
        name: "load one eighth of the columns of one chunk",
        source: Source::OneChunk,
        sides: &[
            Side { label: "dcp::copy::load", run: Run::Example("load_shard", &[&["SRC", "1", "3", "8"]]) },
            Side { label: "dcp.load", run: Run::Torch(&["load_eighth", "SRC", "DST", "1"]) },
        ],
        limit: Limit::Amplification(1.1),
    },
    Comparison {
        name: "save: the call returns",
        source: Source::Nothing,
        sides: &[Side {
            label: "Saver::save",
            run: Run::Example("save_state", &[&["return", "DST", "GIB"]]),
        }],
        limit: Limit::Seconds(0.005),
    },
    Comparison {
        name: "save: the state may change again",
        source: Source::Nothing,
        sides: &[
            Side { label: "wait_staged", run: Run::Example("save_state", &[&["snapshot", "DST", "GIB"]]) },
            Side { label: "warm memcpy", run: Run::Example("save_state", &[&["memcpy", "DST", "GIB"]]) },
            Side { label: "async_save returns", run: Run::Torch(&["async_save_returns", "GIB", "DST"]) },
        ],
        limit: Limit::Times { slower_than_first: 1.2, faster_than_second: None },
    },
    Comparison {
        name: "save: durable",
        source: Source::Nothing,
        sides: &[
            Side { label: "wait_done", run: Run::Example("save_state", &[&["total", "DST", "GIB"]]) },
            Side { label: "write + fsync", run: Run::Example("save_state", &[&["write", "DST", "GIB"]]) },
            Side { label: "dcp.save", run: Run::Torch(&["save", "GIB", "DST"]) },
            Side { label: "async_save, done", run: Run::Torch(&["async_save_done", "GIB", "DST"]) },
        ],
        limit: Limit::Times { slower_than_first: 1.2, faster_than_second: Some(2.0) },
    },
    Comparison {
        name: "save: to S3 over the loopback device",
        source: Source::Nothing,
        sides: &[
            Side { label: "wait_done", run: Run::Example("s3_upload", &[&["save", "GIB"]]) },
            Side { label: "plain multipart upload", run: Run::Example("s3_upload", &[&["plain", "GIB"]]) },
        ],
        limit: Limit::Times { slower_than_first: 1.43, faster_than_second: None },
    },
    Comparison {
        name: "computation of one thread beside saves",
        source: Source::Nothing,
        sides: &[
            Side { label: "while saving", run: Run::Example("save_state", &[&["compute", "DST", "GIB"]]) },
            Side { label: "alone", run: Run::Example("save_state", &[&["compute-alone", "DST", "GIB"]]) },
        ],
        limit: Limit::Times { slower_than_first: 1.11, faster_than_second: None },
    },
    Comparison {
        name: "open Llama 405B + AdamW of 16,384 ranks",
        source: Source::Nothing,
        sides: &[Side { label: "dcp::format::open", run: Run::Example("scale", &[&["open"]]) }],
        limit: Limit::Seconds(0.2),
    },
    Comparison {
        name: "plan one rank's load of it on 8,192 ranks",
        source: Source::Nothing,
        sides: &[Side { label: "dcp::plan::reads", run: Run::Example("scale", &[&["plan-rank"]]) }],
        limit: Limit::Seconds(0.05),
    },
    Comparison {
        name: "plan every rank's load, 512 to 1,024 ranks",
        source: Source::Nothing,
        sides: &[Side { label: "dcp::plan::reads", run: Run::Example("scale", &[&["plan-all"]]) }],
        limit: Limit::Seconds(2.0),
    },
    Comparison {
        name: "start: programs of one rank of 16,384, Llama 405B",
        source: Source::Nothing,
        sides: &[Side { label: "job::step", run: Run::Example("scale", &[&["step-rank"]]) }],
        limit: Limit::Startup { seconds_max: 1.0, resident_mib_max: 200 },
    },
];
