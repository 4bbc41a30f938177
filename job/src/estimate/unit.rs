//! What the units of a model cost on a rank of a device.

use super::Assumptions;
use super::device::Device;
use super::layers::{Layer, Product, Sizes, Work};
use super::links::{Links, Span};
use crate::program::Recompute;
use crate::simulate::{Pass, UnitBytes, UnitCosts};

/// Where a microbatch is computed, and in which types.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Setting<'a> {
    pub(super) device: &'a Device,
    pub(super) sizes: Sizes,
    pub(super) assumptions: Assumptions,
    /// Sequences of a microbatch, and tokens of each.
    pub(super) sequences: u64,
    pub(super) seq_len: u64,
    pub(super) tp: Span,
    pub(super) cp: Span,
    pub(super) fsdp: Span,
    pub(super) dp_replicate: Span,
    /// How context parallelism shares out a sequence: evenly by work, or each rank a run.
    pub(super) is_balanced: bool,
    /// Whether keys and values come by while attention goes on.
    pub(super) is_ring: bool,
    pub(super) is_loss_parallel: bool,
    /// Whether parameters are gathered or cast.
    pub(super) gathered: bool,
    /// Bytes of an element of activations and whole parameters, of what is stored, and of what gradients are summed in.
    pub(super) element: u64,
    pub(super) stored: u64,
    pub(super) reduced: u64,
}

/// Reads and writes of an element by operations one after the other (`eager`), and where they are fused.
#[derive(Clone, Copy)]
struct Traffic {
    eager: f64,
    fused: f64,
}

/// RMSNorm in float32 of its own: cast, square, mean, scale, cast, weight. As PyTorch 2.6 computes it.
const NORM: Traffic = Traffic { eager: 18.0, fused: 2.0 };
/// Sum with the residual; fused with the norm that follows.
const RESIDUAL: Traffic = Traffic { eager: 3.0, fused: 2.0 };
/// Rotary embedding in float32: cast, complex product, cast.
const ROTARY: Traffic = Traffic { eager: 10.0, fused: 2.0 };
/// `silu(gate) * up`, per element of either.
const GATE: Traffic = Traffic { eager: 5.0, fused: 3.0 };
/// Bytes per logit: cast to float32, logarithms of shares, and the gradient back.
const LOSS: Traffic = Traffic { eager: 28.0, fused: 16.0 };
/// Backward passes read and write so many times what forward passes do.
const BACKWARD_TRAFFIC: f64 = 2.0;
/// Attention backward computes the scores again and makes three gradients: 5 products where forward has 2.
const BACKWARD_ATTENTION: f64 = 2.5;
/// Bytes to cast an element to 8 bits: its largest is looked for, then it is read again and written.
const CAST: f64 = 5.0;
/// The same along both dims.
const CAST_BOTH: f64 = 8.0;
/// Bytes to turn an element in 8 bits to its other dim.
const TURN: f64 = 2.0;
/// Bytes of an update of an element in float32: parameter, gradient and two moments are read, three of them written.
const UPDATE: f64 = 28.0;
/// Bytes of the norm of a gradient, and of scaling it.
const CLIP: f64 = 12.0;

impl Setting<'_> {
    /// Tokens of a microbatch that the ranks of a tensor-parallel group work on together.
    fn tokens(&self) -> f64 {
        (self.sequences * self.seq_len) as f64 / f64::from(self.cp.ranks)
    }

    fn tp(&self) -> f64 {
        f64::from(self.tp.ranks)
    }

    /// Bytes of the residual stream of a microbatch, of all ranks of a tensor-parallel group.
    fn stream_bytes(&self) -> f64 {
        self.tokens() * (self.sizes.dim * self.element) as f64
    }

    /// Bytes of the same on one rank: what goes from stage to stage.
    pub(super) fn message_bytes(&self) -> u64 {
        (self.stream_bytes() / self.tp()) as u64
    }

    /// Elements of the logits of a microbatch on one rank.
    pub(super) fn logits(&self) -> f64 {
        let ranks = if self.is_loss_parallel { self.tp() } else { 1.0 };
        self.tokens() * self.sizes.vocabulary as f64 / ranks
    }

    /// Seconds of a matrix product of `operations`, which reads and writes `bytes`.
    fn product_seconds(&self, operations: f64, bytes: f64, in_float8: bool) -> f64 {
        let calibration = self.device.calibration;
        let rate = match self.device.float8_flops.filter(|_| in_float8) {
            Some(peak) => peak * calibration.float8_share,
            None if self.element == 2 => self.device.bfloat16_flops() * calibration.product_share,
            None => self.device.float32_flops * calibration.product_share,
        };
        (operations / rate).max(self.device.traffic(bytes)).max(calibration.operation_seconds)
    }

    /// Seconds of operations element by element, of `elements` of each.
    fn elementwise(&self, operations: &[(Traffic, f64)]) -> f64 {
        let each_of = |passes: &Traffic| if self.assumptions.compile { passes.fused } else { passes.eager };
        let bytes = operations.iter().map(|(each, elements)| each_of(each) * elements * self.element as f64);
        let issued = match self.assumptions.compile {
            true => operations.len() as f64,
            // A pass is a read or a write, an operation about two.
            false => operations.iter().map(|(each, _)| each.eager / 2.0).sum(),
        };
        self.device.traffic(bytes.sum()).max(issued * self.device.calibration.operation_seconds)
    }

    /// A product on one rank: operations, and bytes of input, weight and output.
    fn local(&self, product: &Product) -> (f64, [f64; 3]) {
        let tp = self.tp();
        let (inputs, outputs) = match product.tp_dim {
            Some(0) => (product.inputs as f64, product.outputs as f64 / tp),
            Some(_) => (product.inputs as f64 / tp, product.outputs as f64),
            None => (product.inputs as f64, product.outputs as f64),
        };
        let tokens = self.tokens() * product.times as f64;
        let element = self.element as f64;
        let bytes = [tokens * inputs, inputs * outputs * product.weights as f64, tokens * outputs];
        (2.0 * tokens * inputs * outputs, bytes.map(|elements| elements * element))
    }

    /// Seconds of a product forward, of the gradient of its input, and of that of its weight.
    fn product(&self, work: &Work, product: &Product) -> [f64; 3] {
        let in_float8 =
            self.assumptions.float8 && work.layer == Layer::Block && self.device.float8_flops.is_some();
        let (operations, [input, weight, output]) = self.local(product);
        let seconds = self.product_seconds(operations, input + weight + output, in_float8);
        if !in_float8 {
            return [seconds; 3];
        }
        let cast = |bytes: f64, each: f64| self.device.traffic(bytes / self.element as f64 * each);
        // What is gathered is cast before that, and is in 8 bits when its other dim is wanted.
        let (before, again) = match product.tp_dim {
            Some(0) if self.tp.ranks > 1 => (cast(input / self.tp(), CAST), cast(input, TURN)),
            _ => (cast(input, CAST), cast(input, CAST)),
        };
        let once = if product.shares_input { 0.0 } else { 1.0 };
        [seconds + once * before, seconds + cast(output, CAST_BOTH), seconds + once * again]
    }

    /// Operations of attention forward, on one rank.
    fn attention_operations(&self) -> f64 {
        let Sizes { queries, attended, .. } = self.sizes;
        let cp = f64::from(self.cp.ranks);
        // Half of the scores are masked. Without balance the rank with the end of the sequence has more than that.
        let seen = if self.is_balanced { 0.5 } else { 1.0 - 0.5 / cp };
        2.0 * self.tokens() * self.seq_len as f64 * seen * (queries + attended) as f64 / self.tp()
    }

    fn attention(&self) -> f64 {
        let calibration = self.device.calibration;
        let peak = if self.element == 2 { self.device.bfloat16_flops() } else { self.device.float32_flops };
        let seconds = self.attention_operations() / (peak * calibration.attention_share);
        seconds.max(calibration.operation_seconds)
    }

    /// Keys and values of all ranks come, `times` their bytes, beside so many seconds of attention.
    fn keys_and_values(&self, times: f64, attention: f64) -> Pass {
        let Sizes { keys, values, .. } = self.sizes;
        let bytes =
            times * (self.sequences * self.seq_len * (keys + values) * self.element) as f64 / self.tp();
        let seconds = Links(self.device).all_gather(self.cp, bytes);
        let seconds = if self.is_ring { (seconds - attention).max(0.0) } else { seconds };
        Pass { context_parallel: seconds, carried: self.cp.carried(bytes), ..Pass::default() }
    }

    /// So many collectives that carry the residual stream, in elements of so many bytes.
    fn streams(&self, count: f64, element: u64) -> Pass {
        let bytes = self.stream_bytes() / self.element as f64 * element as f64;
        let seconds = count * Links(self.device).all_gather(self.tp, bytes);
        let hidden = if self.assumptions.async_tp {
            self.device.calibration.async_tensor_parallel_hidden
        } else {
            0.0
        };
        let carried = count * self.tp.carried(bytes);
        Pass { tensor_parallel: seconds * (1.0 - hidden), carried, ..Pass::default() }
    }

    /// The costs of a unit.
    pub(super) fn unit(&self, work: &Work, recompute: Recompute) -> UnitCosts {
        let passes = match work.layer {
            Layer::Embedding => self.embedding(),
            Layer::Block => self.block(work, recompute),
            Layer::Head => self.head(work),
        };
        let tp = self.tp();
        let local = work.sharded as f64 / tp + work.replicated as f64;
        let whole = local * self.element as f64;
        let links = Links(self.device);
        let is_float8 = self.assumptions.float8 && work.layer == Layer::Block;
        let carried = if is_float8 { local } else { whole };
        // What travels is put together before, and taken apart after.
        let gather = links.all_gather(self.fsdp, carried) + self.device.traffic(2.0 * carried);
        let summed = local * self.reduced as f64;
        let shard = local / f64::from(self.fsdp.ranks);
        let reduce = links.reduce_scatter(self.fsdp, summed)
            + links.all_reduce(self.dp_replicate, shard * self.reduced as f64)
            + self.device.traffic(whole + summed);
        let bytes = |elements: f64, each: u64| (elements * each as f64) as u64;
        UnitCosts {
            gather,
            reduce,
            finish_reduce: self.device.traffic(3.0 * shard * self.stored as f64),
            clip: self.device.traffic(CLIP * shard),
            update: self.device.traffic(UPDATE * shard),
            forward: passes.forward,
            recompute: passes.recompute,
            backward_input: passes.backward_input,
            backward_weight: passes.backward_weight,
            bytes: UnitBytes {
                shard: bytes(shard, self.stored),
                moments: 2 * bytes(shard, self.stored),
                shard_gradient: bytes(shard, self.stored),
                whole: if self.gathered { whole as u64 } else { 0 },
                whole_gradient: whole as u64,
                reducing: summed as u64,
                gather_carried: self.fsdp.carried(carried) as u64,
                reduce_carried: (self.fsdp.carried(summed)
                    + 2.0 * self.dp_replicate.carried(shard * self.reduced as f64))
                    as u64,
                ..self.kept(work)
            },
        }
    }

    fn embedding(&self) -> UnitPasses {
        // Rows are read and written; the gradient is added to those of the weight.
        let lookup = self.device.traffic(2.0 * self.stream_bytes());
        let stream = self.streams(1.0, self.element);
        let forward = Pass::computing(lookup).then(&stream);
        UnitPasses {
            forward,
            recompute: forward,
            backward_input: stream,
            backward_weight: Pass::computing(2.0 * lookup),
        }
    }

    fn block(&self, work: &Work, recompute: Recompute) -> UnitPasses {
        let products: Vec<_> = work.products.iter().map(|product| self.product(work, product)).collect();
        let sum = |part: usize| products.iter().map(|seconds| seconds[part]).sum::<f64>();
        // Every second one, the first kept.
        let again: f64 = products.iter().skip(1).step_by(2).map(|seconds| seconds[0]).sum();
        let elementwise = self.elementwise(&self.block_operations(work));
        let attention = self.attention();
        // The input of the first products of attention and feed-forward is gathered, the output of the last scattered. In 8
        // bits what is gathered is cast before.
        let gathered = self.streams(2.0, if self.assumptions.float8 { 1 } else { self.element });
        let forward = Pass::computing(sum(0) + elementwise + attention)
            .then(&gathered)
            .then(&self.streams(2.0, self.element))
            .then(&self.keys_and_values(1.0, attention));
        // Nothing needs what the last product gives. A compiler leaves it out.
        let last = products.last().map_or(0.0, |seconds| seconds[0]);
        let needed = Pass::computing(sum(0) - last + elementwise + attention)
            .then(&gathered)
            .then(&self.streams(1.0, self.element))
            .then(&self.keys_and_values(1.0, attention));
        let recompute = match recompute {
            Recompute::Nothing => Pass::default(),
            Recompute::Everything if self.assumptions.compile => needed,
            Recompute::Everything => forward,
            Recompute::Operations => Pass::computing(again + elementwise).then(&gathered),
        };
        let attention = BACKWARD_ATTENTION * attention;
        UnitPasses {
            forward,
            recompute,
            // The other way round: what was scattered is gathered. Keys and values come again, and their gradients go back.
            backward_input: Pass::computing(sum(1) + attention + BACKWARD_TRAFFIC * elementwise)
                .then(&self.streams(4.0, self.element))
                .then(&self.keys_and_values(2.0, attention)),
            backward_weight: Pass::computing(sum(2)),
        }
    }

    /// Operations element by element of a block forward, with the elements of each on one rank.
    fn block_operations(&self, work: &Work) -> [(Traffic, f64); 4] {
        let Sizes { dim, queries, keys, .. } = self.sizes;
        let each = |width: u64| self.tokens() * width as f64 / self.tp();
        [
            (NORM, each(dim * work.norms)),
            (RESIDUAL, each(dim * 2)),
            (ROTARY, each(queries + keys)),
            (GATE, each(hidden(work))),
        ]
    }

    fn head(&self, work: &Work) -> UnitPasses {
        let products: Vec<_> = work.products.iter().map(|product| self.product(work, product)).collect();
        let sum = |part: usize| products.iter().map(|seconds| seconds[part]).sum::<f64>();
        let norm = self.elementwise(&[(NORM, self.tokens() * self.sizes.dim as f64 / self.tp())]);
        let stream = self.streams(1.0, self.element);
        let all = match self.is_loss_parallel {
            true => Pass::default(),
            false => self.all_logits(),
        };
        let forward = Pass::computing(sum(0) + norm).then(&stream).then(&all);
        UnitPasses {
            forward,
            recompute: forward,
            backward_input: Pass::computing(sum(1) + BACKWARD_TRAFFIC * norm).then(&stream),
            backward_weight: Pass::computing(sum(2)),
        }
    }

    /// Logits of the whole vocabulary come to every rank.
    fn all_logits(&self) -> Pass {
        let bytes = self.logits() * self.element as f64;
        let tensor_parallel = Links(self.device).all_gather(self.tp, bytes);
        Pass { tensor_parallel, carried: self.tp.carried(bytes), ..Pass::default() }
    }

    /// The loss and its gradient.
    pub(super) fn loss(&self) -> Pass {
        let each = if self.assumptions.compile { LOSS.fused } else { LOSS.eager };
        let computing = Pass::computing(self.device.traffic(each * self.logits()));
        if !self.is_loss_parallel {
            return computing;
        }
        // Largest, sum and the label's logit go round, a float32 of each token.
        let bytes = 4.0 * self.tokens();
        let tensor_parallel = 3.0 * Links(self.device).all_reduce(self.tp, bytes);
        Pass { tensor_parallel, carried: 6.0 * self.tp.carried(bytes), ..computing }
    }

    /// Bytes that passes of a unit leave and take.
    fn kept(&self, work: &Work) -> UnitBytes {
        let Sizes { dim, queries, keys, values, attended, .. } = self.sizes;
        let (tp, dim, hidden) = (self.tp(), dim as f64, hidden(work) as f64);
        let bytes = |width: f64| (self.tokens() * width * self.element as f64) as u64;
        let stream = dim / tp;
        let heads = (queries + keys + values + attended) as f64 / tp;
        let (graph, operations, input) = match work.layer {
            // Its tokens.
            Layer::Embedding => ((self.tokens() * 8.0) as u64, (self.tokens() * 8.0) as u64, 0),
            // Inputs of both norms; what they give, whole; queries, keys, values and what comes of them; gate before and
            // after its function, up, and their product.
            Layer::Block => {
                let outputs = work.products.iter().step_by(2).map(|product| {
                    let ranks = if product.tp_dim.is_some() { tp } else { 1.0 };
                    (product.outputs * product.times) as f64 / ranks
                });
                let some = stream + attended as f64 / tp + outputs.sum::<f64>();
                (bytes(2.0 * stream + 2.0 * dim + heads + 4.0 * hidden / tp), bytes(some), bytes(stream))
            }
            Layer::Head => (bytes(stream + dim), bytes(stream + dim), bytes(stream)),
        };
        let working = match work.layer {
            Layer::Embedding => bytes(dim),
            Layer::Block => bytes(2.0 * dim + 3.0 * hidden / tp),
            Layer::Head => bytes(dim),
        };
        UnitBytes {
            graph,
            operations,
            input,
            put_off: graph + bytes(stream),
            working,
            ..UnitBytes::default()
        }
    }
}

/// Width of a block between its gate and what takes it back; of experts, of all that a token uses.
fn hidden(work: &Work) -> u64 {
    let mut back = work.products.iter().filter(|product| product.tp_dim == Some(1)).rev();
    back.next().map_or(0, |product| product.inputs * product.times)
}

/// A unit's passes.
struct UnitPasses {
    forward: Pass,
    recompute: Pass,
    backward_input: Pass,
    backward_weight: Pass,
}
