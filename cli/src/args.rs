//! Arguments that several commands share, and how sizes and types are typed.

use crate::error::{CliError, Result};
use crate::{place, task};
use convert::dialect::{Dialect, written};
use convert::spec::Model;
use dcp::convert::{ConvertOptions, ExpertCut, Sharding, Task};
use dcp::copy::CopyOptions;
use dcp::format::{FORMATS, Format, WriteOptions};
use dcp::model::{DType, Fqn, FqnFilter, can_cast};
use dcp::plan::{Degrees, ExpertDegrees, expert_mesh_of};
use dcp::storage::Place;

/// Which tensors and values.
#[derive(clap::Args, Debug)]
pub(crate) struct Filter {
    /// Only names that match; `*` is any run of characters, `?` any one. May be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No names that match; wins over --include. May be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
}

impl Filter {
    pub(crate) fn compile(&self) -> Result<FqnFilter> {
        Ok(FqnFilter::new(&self.include, &self.exclude)?)
    }
}

/// How to copy.
#[derive(clap::Args, Debug)]
pub(crate) struct Copying {
    /// Convert floating-point tensors to this type: float32 (f32), bfloat16 (bf16), float16 (f16), float64 (f64)
    #[arg(long, value_name = "DTYPE", value_parser = float_type)]
    dtype: Option<DType>,
    #[command(flatten)]
    filter: Filter,
    /// Compress, in formats that can
    #[arg(long)]
    compress: bool,
    /// Largest file of a format that splits by size
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = byte_size)]
    shard_size: u64,
    /// Leave out what is no tensor, where the format holds tensors only
    #[arg(long)]
    drop_values: bool,
    /// Memory of all buffers together
    #[arg(long, value_name = "SIZE", default_value = "256MB", value_parser = byte_size)]
    memory: u64,
    /// Threads that read and write; by default one per core, 16 at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Which task of how many this is, from 0, where several processes share the work; by default what srun, mpirun or
    /// torchrun say
    #[arg(long, value_name = "I/N", value_parser = task::named)]
    task: Option<Task>,
    /// Plan and check, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

impl Copying {
    /// The library's options; sharding is left to the command.
    pub(crate) fn options(&self) -> Result<ConvertOptions> {
        let write = WriteOptions {
            shard_bytes_max: Some(self.shard_size),
            compress: self.compress,
            ..WriteOptions::default()
        };
        Ok(ConvertOptions {
            filter: self.filter.compile()?,
            dtype: self.dtype,
            drop_values: self.drop_values,
            write,
            copy: CopyOptions { memory_bytes_max: self.memory, threads: threads(self.threads) },
            task: task::task(self.task)?,
            ..ConvertOptions::default()
        })
    }
}

/// The number of threads asked for, or the library's choice.
pub(crate) fn threads(asked: Option<u16>) -> usize {
    asked.map_or_else(|| CopyOptions::default().threads, usize::from)
}

/// A destination: the place to write to, and the name of the file where it is a single one.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) format: &'static dyn Format,
    pub(crate) place: Place,
    pub(crate) file_name: Option<String>,
}

impl Destination {
    /// Reads a destination as typed. Its extension makes it a single file, and names the format where `format` does not.
    pub(crate) fn new(url: &str, format: Option<&'static dyn Format>) -> Result<Self> {
        let place = place::open(url)?;
        let name = place.key.name().to_owned();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let of_extension =
            FORMATS.iter().copied().find(|known| !extension.is_empty() && known.single_file(extension));
        let format = match (format, of_extension) {
            (Some(format), Some(other)) if !format.single_file(extension) => {
                return Err(CliError::usage(format!(
                    "`{name}` is the name of a {} file, but the format is {}; give another name or another --to",
                    other.name(),
                    format.name()
                )));
            }
            (Some(format), _) | (None, Some(format)) => format,
            (None, None) => {
                return Err(CliError::usage(format!(
                    "the format is missing; name it with --to: {}",
                    dcp::format::names()
                )));
            }
        };
        Ok(match of_extension {
            Some(_) => {
                let folder = Place { store: place.store, key: place.key.parent() };
                Destination { format, place: folder, file_name: Some(name) }
            }
            None => Destination { format, place, file_name: None },
        })
    }

    /// Whether the format holds whole tensors by default: all that can be a single file do.
    pub(crate) fn holds_whole_tensors(&self) -> bool {
        holds_whole_tensors(self.format)
    }
}

/// Whether a format holds whole tensors by default: those do that can be a single file named after them.
pub(crate) fn holds_whole_tensors(format: &dyn Format) -> bool {
    format.single_file(format.name())
}

/// How a checkpoint is cut.
#[derive(clap::Args, Debug)]
pub(crate) struct Cut {
    /// FSDP shards
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    dp_shard: u32,
    /// Tensor parallelism
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    tp: u32,
    /// Pipeline stages
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    pp: u32,
    /// Copies of the sharded model (HSDP)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    dp_replicate: u32,
    /// Context parallelism
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    cp: u32,
    /// Expert parallelism, of a model that is named
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    ep: u32,
    /// Tensor parallelism of each expert, with --ep: 1, or as --tp
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    etp: u32,
}

fn degree() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 24)
}

impl Cut {
    /// The degrees, those of experts left out.
    fn degrees(&self) -> Degrees {
        let &Cut { dp_shard, tp, pp, dp_replicate, cp, .. } = self;
        Degrees { pp, dp_replicate, dp_shard, cp, tp }
    }

    /// Cuts `names` for the degrees, as the model says where there is one.
    pub(crate) fn apply<'a>(
        &self,
        options: &mut ConvertOptions,
        model: Option<&Model>,
        names: impl Iterator<Item = &'a Fqn> + Clone,
    ) -> Result<()> {
        options.sharding = Sharding::Degrees(self.degrees());
        options.tp_dims = model.map(|model| model.tp_dims(names.clone()));
        options.experts = self.experts(model, names)?;
        Ok(())
    }

    /// As [`Self::apply`], with whole tensors where no degree is given.
    pub(crate) fn apply_where_cut<'a>(
        &self,
        options: &mut ConvertOptions,
        model: &Model,
        names: impl Iterator<Item = &'a Fqn> + Clone,
    ) -> Result<()> {
        self.apply(options, Some(model), names)?;
        let Degrees { pp, dp_replicate, dp_shard, cp, tp } = self.degrees();
        let is_cut = [pp, dp_replicate, dp_shard, cp, tp, self.ep, self.etp].iter().any(|&degree| degree > 1);
        if !is_cut {
            options.sharding = Sharding::Whole;
        }
        Ok(())
    }

    /// How experts are cut; `None` where they are cut as other tensors.
    fn experts<'a>(
        &self,
        model: Option<&Model>,
        names: impl Iterator<Item = &'a Fqn>,
    ) -> Result<Option<ExpertCut>> {
        let &Cut { ep, etp, .. } = self;
        if ep == 1 && etp == 1 {
            return Ok(None);
        }
        let degrees = ExpertDegrees { ep, etp };
        expert_mesh_of(self.degrees(), degrees)?;
        let usage = |message: String, hint: &str| CliError::Usage { message, hint: Some(hint.to_owned()) };
        let model = model.ok_or_else(|| {
            let message =
                format!("--ep {ep} needs --model: a checkpoint does not say which tensors are of experts");
            usage(message, "name it: --model deepseek_v3:16B")
        })?;
        let tensors = model.expert_names(names);
        if tensors.is_empty() {
            return Err(usage(format!("--ep {ep}: {} has no experts", model.name()), "leave --ep out"));
        }
        Ok(Some(ExpertCut { degrees, tensors }))
    }
}

/// Which model a checkpoint is of.
#[derive(clap::Args, Debug)]
pub(crate) struct ModelChoice {
    /// The model, FAMILY:FLAVOR as in TorchTitan: llama3:8B
    #[arg(long, value_name = "MODEL", conflicts_with = "config")]
    model: Option<String>,
    /// A config.json of transformers that describes the model, or the folder with it
    #[arg(long, value_name = "PATH")]
    config: Option<String>,
}

impl ModelChoice {
    /// Largest config.json.
    const CONFIG_BYTES_MAX: u64 = 16 << 20;

    /// The model that was named, or that the config.json describes: the one that was named, or the one in `folder`.
    pub(crate) fn model(&self, folder: Option<&Place>) -> Result<Model> {
        if let Some(name) = &self.model {
            return Ok(convert::families::by_name(name)?);
        }
        let inside = |folder: &Place| -> Result<Place> {
            Ok(Place { store: folder.store.clone(), key: folder.key.join("config.json")? })
        };
        let place = match (&self.config, folder) {
            (Some(config), _) => {
                let place = place::open(config)?;
                let is_file = place.store.head(&place.key)?.is_some();
                if is_file { place } else { inside(&place)? }
            }
            (None, Some(folder)) => inside(folder)?,
            (None, None) => return Err(Self::unnamed()),
        };
        let (place, json) = match (place.store.get(&place.key, Self::CONFIG_BYTES_MAX), folder) {
            // As Meta names it.
            (Err(dcp::Error::NotFound { .. }), Some(folder)) if self.config.is_none() => {
                let params = Place { store: folder.store.clone(), key: folder.key.join("params.json")? };
                match params.store.get(&params.key, Self::CONFIG_BYTES_MAX) {
                    Err(dcp::Error::NotFound { .. }) => return Err(Self::unnamed()),
                    json => (params, json?),
                }
            }
            (json, _) => (place, json?),
        };
        let json = String::from_utf8_lossy(&json);
        Ok(convert::families::of_config(&place.display(), &json)?)
    }

    fn unnamed() -> CliError {
        CliError::Usage {
            message: "it is not said which model this is, and there is no config.json".to_owned(),
            hint: Some(format!(
                "name it with --model or --config; known: {}",
                convert::families::names().join(", ")
            )),
        }
    }
}

/// The models that there are, for the end of a help.
pub(crate) fn models_help() -> String {
    let mut lines = vec!["Models, by FAMILY:FLAVOR:".to_owned()];
    for family in convert::families::FAMILIES {
        let mut flavors: Vec<String> = family.flavors().into_iter().map(str::to_owned).collect();
        flavors.extend(family.aliases().iter().map(|(alias, flavor)| format!("{alias} (as {flavor})")));
        lines.push(format!("  {}: {}", family.name(), flavors.join(", ")));
    }
    lines.join("\n")
}

/// The dialect of this name.
pub(crate) fn dialect(name: &str) -> Result<&'static Dialect, String> {
    convert::dialect::by_name(name).ok_or_else(|| {
        let known: Vec<_> = written().map(|dialect| dialect.name).collect();
        format!("known: {}", known.join(", "))
    })
}

/// The format with this name.
pub(crate) fn format_named(name: &str) -> Result<&'static dyn Format> {
    Ok(dcp::format::by_name(name)?)
}

fn float_type(text: &str) -> Result<DType, String> {
    let known = || DType::all().filter(|dtype| can_cast(DType::F32, *dtype));
    DType::from_name(text)
        .or_else(|| DType::from_safetensors_name(&text.to_ascii_uppercase()))
        .filter(|dtype| known().any(|other| other == *dtype))
        .ok_or_else(|| {
            let known: Vec<_> = known().map(DType::name).collect();
            format!("tensors can be converted to: {}", known.join(", "))
        })
}

/// Reads `5GB`, `256 MiB`, `4096`: powers of 1000, or of 1024 with an `i`.
pub(crate) fn byte_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let factor: u64 = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return Err("a size is a number and a unit: 4096, 256MB, 1.5GiB".to_owned()),
    };
    let byte_len = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor),
        Err(_) => number.parse::<f64>().ok().map(|number| (number * factor as f64) as u64),
    };
    byte_len.filter(|&byte_len| byte_len > 0).ok_or_else(|| {
        "a size is a number above 0 and a unit: 4096, 256MB, 1.5GiB; at most 2^64 - 1 bytes".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_both_kinds_of_units() {
        for (text, byte_len) in [
            ("4096", 4096),
            ("5GB", 5_000_000_000),
            ("5g", 5_000_000_000),
            ("256 MiB", 256 << 20),
            ("1.5KiB", 1536),
        ] {
            assert_eq!(byte_size(text), Ok(byte_len), "{text}");
        }
        for text in ["", "GB", "5XB", "0", "-1", "1.2.3GB", "99999999999TB"] {
            assert!(byte_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn types_are_read_by_either_name() {
        assert_eq!(float_type("bf16"), Ok(DType::BF16));
        assert_eq!(float_type("float32"), Ok(DType::F32));
        assert!(float_type("int8").is_err() && float_type("bf15").is_err());
    }
}
