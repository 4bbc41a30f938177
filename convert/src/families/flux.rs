//! Flux: a transformer of image and text streams that removes noise. The outside is diffusers.
//!
//! Source: torchtitan/models/flux, v0.2.2; diffusers/models/transformers/transformer_flux.py, 0.42. Fused linears natively,
//! one for each of query, key and value outside; the two halves of the last modulation in the other order.

use super::Family;
use super::config::{Reading, object};
use super::decoder::Builder;
use crate::error::Result;
use crate::init::Init;
use crate::link::Link;
use crate::spec::{Config, Model};
use serde_json::{Value, json};

/// The family.
#[derive(Debug)]
pub(super) struct Flux;

/// Sizes and settings.
#[derive(Clone, Debug)]
struct Sizes {
    dim: u64,
    heads: u64,
    double: u64,
    single: u64,
    channels_in: u64,
    channels_out: u64,
    pooled: u64,
    context: u64,
    axes: Vec<u64>,
}

/// Name; dim, heads, double blocks, single blocks.
const FLAVORS: &[(&str, [u64; 4])] = &[
    ("flux-debug", [1536, 12, 2, 2]),
    ("flux-dev", [3072, 24, 19, 38]),
    ("flux-schnell", [3072, 24, 19, 38]),
];

impl Family for Flux {
    fn name(&self) -> &'static str {
        "flux"
    }

    fn flavors(&self) -> Vec<&'static str> {
        FLAVORS.iter().map(|flavor| flavor.0).collect()
    }

    fn flavor(&self, name: &str) -> Option<Model> {
        let &(name, [dim, heads, double, single]) = FLAVORS.iter().find(|flavor| flavor.0 == name)?;
        let (channels_in, channels_out, pooled, context) = (64, 64, 768, 4096);
        let axes = vec![16, 56, 56];
        let sizes = Sizes { dim, heads, double, single, channels_in, channels_out, pooled, context, axes };
        Some(sizes.model(name.to_owned()))
    }

    fn reads(&self, model_type: &str) -> bool {
        model_type == "FluxTransformer2DModel"
    }

    fn of_config(&self, object: &str, config: &Config) -> Result<Model> {
        let reading = Reading { object, config };
        let heads = reading.size(&["num_attention_heads"])?;
        let channels_in = reading.size(&["in_channels"])?;
        let axes = config.get("axes_dims_rope").and_then(Value::as_array);
        let sizes = Sizes {
            dim: heads * reading.size(&["attention_head_dim"])?,
            heads,
            double: reading.count(&["num_layers"])?,
            single: reading.count(&["num_single_layers"])?,
            channels_in,
            channels_out: reading.size_or("out_channels", channels_in)?,
            pooled: reading.size(&["pooled_projection_dim"])?,
            context: reading.size(&["joint_attention_dim"])?,
            axes: axes.map_or(vec![16, 56, 56], |axes| axes.iter().filter_map(Value::as_u64).collect()),
        };
        if sizes.dim > 1 << 20 {
            return Err(reading.bad(format!("{heads} heads make up {}, too many", sizes.dim)));
        }
        let mut model = sizes.model(object.to_owned());
        model.config = config.clone();
        // Natively there is no such part.
        model.config.insert("guidance_embeds".to_owned(), json!(false));
        Ok(model)
    }
}

impl Sizes {
    fn model(&self, flavor: String) -> Model {
        let dim = self.dim;
        let mut builder = Builder::default();
        let embedder = "time_text_embed";
        for (native, outside, shape, init) in [
            ("img_in", "x_embedder".to_owned(), [dim, self.channels_in], xavier(self.channels_in, dim)),
            ("txt_in", "context_embedder".to_owned(), [dim, self.context], xavier(self.context, dim)),
            ("time_in.in_layer", format!("{embedder}.timestep_embedder.linear_1"), [dim, 256], SMALL),
            ("time_in.out_layer", format!("{embedder}.timestep_embedder.linear_2"), [dim, dim], SMALL),
            ("vector_in.in_layer", format!("{embedder}.text_embedder.linear_1"), [dim, self.pooled], SMALL),
            ("vector_in.out_layer", format!("{embedder}.text_embedder.linear_2"), [dim, dim], SMALL),
        ] {
            linear(&mut builder, native, shape, init, &[(&outside, 0, shape[0])]);
        }
        for block in 0..self.double {
            self.double_block(
                &mut builder,
                &format!("double_blocks.{block}"),
                &format!("transformer_blocks.{block}"),
            );
        }
        for block in 0..self.single {
            let (native, outside) =
                (format!("single_blocks.{block}"), format!("single_transformer_blocks.{block}"));
            self.single_block(&mut builder, &native, &outside);
        }
        // Natively shift above scale, outside scale above shift.
        let halves = [("norm_out.linear", 0, dim, dim), ("norm_out.linear", dim, dim, 0)];
        linear_at(&mut builder, "final_layer.adaLN_modulation.1", [2 * dim, dim], Init::Zeros, &halves);
        linear(
            &mut builder,
            "final_layer.linear",
            [self.channels_out, dim],
            Init::Zeros,
            &[("proj_out", 0, self.channels_out)],
        );
        let mut model = builder.model("flux", flavor, self.config());
        let guidance = "of the guidance, which the native module does not have";
        model.stem = "diffusion_pytorch_model";
        model.outside_only.push(("time_text_embed.guidance_embedder.*".to_owned(), guidance));
        model
    }

    fn double_block(&self, builder: &mut Builder, native: &str, outside: &str) {
        let (dim, hidden, head) = (self.dim, 4 * self.dim, self.dim / self.heads);
        for (stream, norm, [query, key, value], [query_norm, key_norm], out, ff) in [
            ("img", "norm1", ["to_q", "to_k", "to_v"], ["norm_q", "norm_k"], "to_out.0", "ff"),
            (
                "txt",
                "norm1_context",
                ["add_q_proj", "add_k_proj", "add_v_proj"],
                ["norm_added_q", "norm_added_k"],
                "to_add_out",
                "ff_context",
            ),
        ] {
            let ours = |name: &str| format!("{native}.{stream}_{name}");
            let theirs = |name: &str| format!("{outside}.{name}");
            let attention = |name: &str| format!("{outside}.attn.{name}");
            linear(
                builder,
                &ours("mod.lin"),
                [6 * dim, dim],
                Init::Zeros,
                &[(&theirs(&format!("{norm}.linear")), 0, 6 * dim)],
            );
            let parts = [attention(query), attention(key), attention(value)];
            let parts = [(&*parts[0], 0, dim), (&*parts[1], dim, dim), (&*parts[2], 2 * dim, dim)];
            linear(builder, &ours("attn.qkv"), [3 * dim, dim], xavier(dim, 3 * dim), &parts);
            builder.norm(
                &format!("{}.weight", ours("attn.norm.query_norm")),
                &format!("{}.weight", attention(query_norm)),
                head,
            );
            builder.norm(
                &format!("{}.weight", ours("attn.norm.key_norm")),
                &format!("{}.weight", attention(key_norm)),
                head,
            );
            linear(builder, &ours("attn.proj"), [dim, dim], xavier(dim, dim), &[(&attention(out), 0, dim)]);
            linear(
                builder,
                &ours("mlp.0"),
                [hidden, dim],
                xavier(dim, hidden),
                &[(&theirs(&format!("{ff}.net.0.proj")), 0, hidden)],
            );
            linear(
                builder,
                &ours("mlp.2"),
                [dim, hidden],
                xavier(hidden, dim),
                &[(&theirs(&format!("{ff}.net.2")), 0, dim)],
            );
        }
    }

    fn single_block(&self, builder: &mut Builder, native: &str, outside: &str) {
        let (dim, hidden, head) = (self.dim, 4 * self.dim, self.dim / self.heads);
        let ours = |name: &str| format!("{native}.{name}");
        let theirs = |name: &str| format!("{outside}.{name}");
        linear(
            builder,
            &ours("modulation.lin"),
            [3 * dim, dim],
            Init::Zeros,
            &[(&theirs("norm.linear"), 0, 3 * dim)],
        );
        let parts = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"].map(theirs);
        let parts = [
            (&*parts[0], 0, dim),
            (&*parts[1], dim, dim),
            (&*parts[2], 2 * dim, dim),
            (&*parts[3], 3 * dim, hidden),
        ];
        let rows = 3 * dim + hidden;
        linear(builder, &ours("linear1"), [rows, dim], xavier(dim, rows), &parts);
        let columns = dim + hidden;
        linear(
            builder,
            &ours("linear2"),
            [dim, columns],
            xavier(columns, dim),
            &[(&theirs("proj_out"), 0, dim)],
        );
        for (name, norm) in [("query_norm", "norm_q"), ("key_norm", "norm_k")] {
            let (name, norm) = (format!("norm.{name}.weight"), format!("attn.{norm}.weight"));
            builder.norm(&ours(&name), &theirs(&norm), head);
        }
    }

    fn config(&self) -> Config {
        let config = json!({
            "_class_name": "FluxTransformer2DModel",
            "patch_size": 1,
            "in_channels": self.channels_in,
            "out_channels": null,
            "num_layers": self.double,
            "num_single_layers": self.single,
            "attention_head_dim": self.dim / self.heads,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.context,
            "pooled_projection_dim": self.pooled,
            "guidance_embeds": false,
            "axes_dims_rope": self.axes,
        });
        object(config)
    }
}

/// Of the embedders of time and of pooled text.
const SMALL: Init = Init::Normal { std: 0.02 };

/// Uniform with the variance of Glorot and Bengio 2010, as `torch.nn.init.xavier_uniform_`.
fn xavier(fan_in: u64, fan_out: u64) -> Init {
    Init::Uniform { bound: (6.0 / (fan_in + fan_out) as f64).sqrt() }
}

/// A linear with weight and bias, whose rows are those of outside ones: name, first row here, number of rows.
fn linear(builder: &mut Builder, native: &str, shape: [u64; 2], init: Init, parts: &[(&str, u64, u64)]) {
    let parts: Vec<_> = parts.iter().map(|&(outside, first, rows)| (outside, first, rows, 0)).collect();
    linear_at(builder, native, shape, init, &parts);
}

/// The same, with the first row outside as well.
fn linear_at(
    builder: &mut Builder,
    native: &str,
    shape: [u64; 2],
    init: Init,
    parts: &[(&str, u64, u64, u64)],
) {
    let (weight, bias) = (format!("{native}.weight"), format!("{native}.bias"));
    builder.param(&weight, &shape, init, None);
    builder.param(&bias, &shape[..1], Init::Zeros, None);
    for &(outside, first, rows, theirs) in parts {
        let link = Link::same(weight.clone(), format!("{outside}.weight"), &[rows, shape[1]]);
        builder.link(link.native_from(&[first, 0]).outside_from(&[theirs, 0]));
        let link = Link::same(bias.clone(), format!("{outside}.bias"), &[rows]);
        builder.link(link.native_from(&[first]).outside_from(&[theirs]));
    }
}
