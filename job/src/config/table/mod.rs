//! The table: every section and key, with type, default, meaning, and what becomes of it.
//!
//! One row makes the field of a struct, its default, and what errors, help and `docs/config.md` say of it.
//!
//! Source: TorchTitan v0.2.2, torchtitan/config/job_config.py, and the job_config.py of its extensions `flux` and `ft`.

mod checkpoint;
mod model;
mod parallel;
mod quantize;
mod run;
mod training;

pub use checkpoint::Checkpoint;
pub use model::{ActivationCheckpoint, Compile, Encoder, LrScheduler, Model, Optimizer};
pub use parallel::Parallelism;
pub use quantize::{
    Quantize, QuantizeGroupedMm, QuantizeGroupedMmFloat8, QuantizeGroupedMmMx, QuantizeLinear,
    QuantizeLinearFloat8, QuantizeLinearMx,
};
pub use run::{Comm, Debug, Experimental, FaultTolerance, Job, MemoryEstimation, Metrics, Profiling};
pub use training::{Dataloader, Inference, Training, Validation};

use super::key::Key;
use super::setting::{Slot, Value};
use std::sync::LazyLock;

/// A section, from its rows: `name: type = default`, then what is said of it, as calls on [`Key`].
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr $(, $said:ident($($what:expr),*))*;)*
            $(sections { $($(#[doc = $sub_doc:literal])+ $sub:ident: $sub_type:ty,)+ })?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $type,)*
            $($($(#[doc = $sub_doc])+ pub $sub: $sub_type,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($key: $default,)* $($($sub: <$sub_type>::default(),)+)? }
            }
        }

        impl $crate::config::table::Section for $name {
            const ABOUT: &'static str = concat!($($about),+).trim_ascii();
            const KEYS: &'static [$crate::config::key::Key] = &[$(
                $crate::config::key::Key::new::<$type>(stringify!($key), concat!($($doc),+).trim_ascii())
                    $(.$said($($what),*))*
            ),*];

            fn parts(&mut self) -> $crate::config::table::Parts<'_> {
                (vec![$(&mut self.$key),*], vec![$($((stringify!($sub), &mut self.$sub)),+)?])
            }
        }
    };
}
use section;

/// Where a section's keys hold their values, in the order of the keys; and the sections in it.
type Parts<'a> = (Vec<&'a mut dyn Slot>, Vec<(&'static str, &'a mut dyn Node)>);

/// What the macro makes of a section.
trait Section {
    const ABOUT: &'static str;
    const KEYS: &'static [Key];
    fn parts(&mut self) -> Parts<'_>;
}

/// A section of any type.
trait Node {
    /// This section and those in it, in order.
    fn walk<'a>(&'a mut self, path: String, found: &mut Vec<Found<'a>>);
}

impl<S: Section> Node for S {
    fn walk<'a>(&'a mut self, path: String, found: &mut Vec<Found<'a>>) {
        let (slots, below) = self.parts();
        let keys = S::KEYS.iter().zip(slots).collect();
        found.push(Found { section: path.clone(), about: S::ABOUT, keys });
        let join = |name| if path.is_empty() { String::from(name) } else { format!("{path}.{name}") };
        below.into_iter().for_each(|(name, node)| node.walk(join(name), found));
    }
}

/// A section of a configuration, with the places of its keys.
struct Found<'a> {
    section: String,
    about: &'static str,
    keys: Vec<(&'static Key, &'a mut dyn Slot)>,
}

section! {
    /// The configuration of a training job.
    Config {
        sections {
            /// What the job is called, and where its output goes.
            job: Job,
            /// Traces of steps.
            profiling: Profiling,
            /// What is logged.
            metrics: Metrics,
            /// Which model.
            model: Model,
            /// The update of the parameters.
            optimizer: Optimizer,
            /// The learning rate over the steps.
            lr_scheduler: LrScheduler,
            /// Data, batches, types, number of steps.
            training: Training,
            /// How ranks share the work.
            parallelism: Parallelism,
            /// What is saved when, where and how, and what a job starts from.
            checkpoint: Checkpoint,
            /// What is computed again in backward.
            activation_checkpoint: ActivationCheckpoint,
            /// `torch.compile`.
            compile: Compile,
            /// Low precision.
            quantize: Quantize,
            /// Communication between ranks.
            comm: Comm,
            /// Estimating memory without a GPU.
            memory_estimation: MemoryEstimation,
            /// TorchFT.
            fault_tolerance: FaultTolerance,
            /// Python modules of the user's.
            experimental: Experimental,
            /// Loss on data that is not trained on.
            validation: Validation,
            /// Seeds and determinism.
            debug: Debug,
            /// Encoders of flux.
            encoder: Encoder,
            /// Images made by flux.
            inference: Inference,
        }
    }
}

/// A section of the table.
#[derive(Clone, Debug)]
pub struct SectionRow {
    /// Its path: `training.dataloader`.
    pub path: String,
    /// What it is about.
    pub about: &'static str,
    /// Its keys.
    pub keys: Vec<KeyRow>,
}

/// A key of the table.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// Its path: `training.dataloader.num_workers`.
    pub path: String,
    /// What is known of it.
    pub key: &'static Key,
    /// Its default.
    pub default: Value,
}

/// Every section that has keys, in order.
pub fn sections() -> &'static [SectionRow] {
    static SECTIONS: LazyLock<Vec<SectionRow>> = LazyLock::new(|| {
        let mut config = Config::default();
        let row = |found: Found| {
            let section = found.section;
            let keys = found.keys.into_iter().map(|(key, slot)| KeyRow {
                path: format!("{section}.{}", key.name),
                key,
                default: slot.get(),
            });
            SectionRow { keys: keys.collect(), path: section, about: found.about }
        };
        config.found().into_iter().filter(|found| !found.keys.is_empty()).map(row).collect()
    });
    &SECTIONS
}

/// Every key, in order.
pub fn keys() -> impl Iterator<Item = &'static KeyRow> {
    sections().iter().flat_map(|section| &section.keys)
}

/// The key of a path.
pub fn key(path: &str) -> Option<&'static KeyRow> {
    keys().find(|row| row.path == path)
}

impl Config {
    fn found(&mut self) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        self.walk(String::new(), &mut found);
        found
    }

    /// The values of all keys, in the order of [`keys`].
    pub fn values(&self) -> Vec<(&'static KeyRow, Value)> {
        let mut config = self.clone();
        let slots = config.found().into_iter().flat_map(|found| found.keys);
        keys().zip(slots.map(|(_, slot)| slot.get())).collect()
    }

    /// Puts a value where it belongs; `false` for one of another type.
    pub(super) fn put(&mut self, row: &KeyRow, value: &Value) -> bool {
        let position = keys().position(|candidate| candidate.path == row.path);
        let slots = self.found().into_iter().flat_map(|found| found.keys);
        let slot = position.and_then(|position| slots.skip(position).map(|(_, slot)| slot).next());
        slot.is_some_and(|slot| slot.put(value))
    }
}
