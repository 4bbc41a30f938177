//! Configurations by name: those that TorchTitan 0.2 comes with. `job/presets` has one TOML file each.

use crate::config::{Config, Parsed};
use crate::error::{Error, Result};
use std::path::Path;

/// A configuration by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preset {
    /// Its name, for `--job.config_file preset:NAME`.
    pub name: &'static str,
    /// Its TOML.
    pub toml: &'static str,
    /// How many ranks it is meant for; any multiple has the same parallel degrees and more shards.
    pub world: u32,
}

/// A row for each file.
macro_rules! presets {
    ($($name:literal $world:literal,)+) => {
        &[$(Preset { name: $name, toml: include_str!(concat!("../presets/", $name, ".toml")), world: $world }),+]
    };
}

/// Every preset, with the number of ranks that it is meant for.
pub static PRESETS: &[Preset] = presets! {
    "llama3_debug" 8,
    "llama3_8b" 8,
    "llama3_70b" 64,
    "llama3_405b" 512,
    "llama3_ft_debug" 8,
    "llama4_debug" 8,
    "llama4_17bx16e" 64,
    "llama4_17bx128e" 256,
    "deepseek_v3_debug" 8,
    "deepseek_v3_16b" 8,
    "deepseek_v3_671b" 256,
    "qwen3_0.6b" 8,
    "qwen3_1.7b" 8,
    "qwen3_32b" 32,
    "gpt_oss_debug" 8,
    "flux_debug" 8,
    "flux_dev" 8,
    "flux_schnell" 8,
};

/// The TOML of a preset.
///
/// Errors: [`Error::NoSuchPreset`], with those there are.
pub fn toml(name: &str) -> Result<&'static str> {
    let known = || PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    let found = PRESETS.iter().find(|preset| preset.name == name);
    found
        .map(|preset| preset.toml)
        .ok_or_else(|| Error::NoSuchPreset { name: name.to_owned(), known: known() })
}

impl Config {
    /// The configuration of a preset.
    ///
    /// Errors: [`Error::NoSuchPreset`]; [`Error::BadConfig`] for a preset that needs what cannot be had.
    pub fn preset(name: &str) -> Result<Parsed> {
        Config::from_toml(toml(name)?, Path::new(&format!("preset:{name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, ParamDtype};
    use std::fmt::Write;

    #[test]
    fn which_load_and_which_are_refused_and_why() {
        let mut text = String::new();
        for preset in PRESETS {
            let checked = Config::preset(preset.name).and_then(|parsed| {
                parsed.config.validate(preset.world)?;
                Ok(parsed)
            });
            match checked {
                Ok(parsed) => {
                    assert_eq!(parsed.notes, Vec::<String>::new(), "{}", preset.name);
                    let _ = writeln!(text, "{}: valid on {} ranks", preset.name, preset.world);
                }
                Err(error) => {
                    let _ = writeln!(text, "{}: {error}", preset.name);
                }
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn every_file_is_listed_once() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("presets");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut listed: Vec<_> = PRESETS.iter().map(|preset| format!("{}.toml", preset.name)).collect();
        files.sort();
        listed.sort();
        assert_eq!(files, listed);
    }

    #[test]
    fn what_a_preset_says_that_is_refused_can_be_turned_off() {
        let read = |_: &Path| -> std::io::Result<String> { panic!("a preset is not a file") };
        let args =
            ["--job.config_file=preset:deepseek_v3_16b", "--compile.no-enable", "--training.steps", "7"];
        let parsed = Config::from_args(args, read).unwrap();
        assert_eq!(parsed.config.training.steps, 7);
        assert_eq!(parsed.config.parallelism.expert_parallel_degree, 8);
        assert_eq!(parsed.config.training.mixed_precision_param, ParamDtype::Bfloat16);
        assert_eq!(parsed.origin("training.steps"), Origin::Flag);
        assert!(matches!(parsed.origin("optimizer.lr"), Origin::File { line: 1.., .. }));
        parsed.config.validate(8).unwrap();
    }

    #[test]
    fn a_preset_that_is_none() {
        insta::assert_snapshot!(Config::preset("llama3_9b").unwrap_err());
    }
}
