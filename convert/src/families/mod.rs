//! The families. To add one: a file here, a line in the table. `docs/add-a-family.md` shows it.

mod config;
mod decoder;
mod deepseek_v3;
mod flux;
mod gpt_oss;
mod llama3;
mod llama4;
mod qwen3;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::spec::{Config, Model};

/// Every family.
pub static FAMILIES: &[&dyn Family] = &[
    &llama3::Llama3,
    &llama4::Llama4,
    &deepseek_v3::DeepSeekV3,
    &gpt_oss::GptOss,
    &qwen3::Qwen3,
    &flux::Flux,
];

/// One family of models.
pub trait Family: Sync {
    /// Its name, as TorchTitan's `model.name`. Never changes once released.
    fn name(&self) -> &'static str;

    /// The names of its flavors.
    fn flavors(&self) -> Vec<&'static str>;

    /// Names of flavors that differ in how attention is computed alone, each with the flavor that has the same parameters.
    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The model of a flavor; `None` for a name that is none.
    fn flavor(&self, name: &str) -> Option<Model>;

    /// Whether it reads the `config.json` of this `model_type`.
    fn reads(&self, model_type: &str) -> bool;

    /// The model of a `config.json` that it reads. `object` names it in errors.
    ///
    /// Errors: [`Error::BadConfig`] for what is missing, and for what the native modules cannot compute.
    fn of_config(&self, object: &str, config: &Config) -> Result<Model>;
}

/// The model of `FAMILY:FLAVOR`, or of an alias.
///
/// Errors: [`Error::NoSuchModel`], with those there are.
pub fn by_name(name: &str) -> Result<Model> {
    let found = name.split_once(':').and_then(|(family, flavor)| {
        let family = FAMILIES.iter().find(|candidate| candidate.name() == family)?;
        let alias = family.aliases().iter().find(|(alias, _)| *alias == flavor);
        let model = family.flavor(alias.map_or(flavor, |(_, flavor)| flavor))?;
        Some(Model { flavor: flavor.to_owned(), ..model })
    });
    found.ok_or_else(|| Error::NoSuchModel { name: name.to_owned(), known: names().join(", ") })
}

/// Every `FAMILY:FLAVOR`, aliases included.
pub fn names() -> Vec<String> {
    let of = |family: &&dyn Family| {
        let name = family.name();
        let aliases = family.aliases().iter().map(|(alias, _)| *alias);
        family.flavors().into_iter().chain(aliases).map(move |flavor| format!("{name}:{flavor}"))
    };
    FAMILIES.iter().flat_map(of).collect()
}

/// The model of a `config.json`.
///
/// Errors: [`Error::BadConfig`].
pub fn of_config(object: &str, json: &str) -> Result<Model> {
    let bad = |why: String| Error::BadConfig { object: object.to_owned(), why };
    let config: Config =
        serde_json::from_str(json).map_err(|error| bad(format!("not a JSON object: {error}")))?;
    // Meta's params.json tells nothing, and has names of its own.
    let config = match llama3::config_of_params(object, &config)? {
        Some(of_params) => of_params,
        None => config,
    };
    // Diffusers tells the class.
    let told =
        config.get("model_type").or_else(|| config.get("_class_name")).and_then(serde_json::Value::as_str);
    let model_type = told.ok_or_else(|| bad("it has no `model_type`".to_owned()))?;
    match FAMILIES.iter().find(|family| family.reads(model_type)) {
        Some(family) => family.of_config(object, &config),
        None => Err(bad(format!("`model_type` is {model_type:?}, of no family that is known"))),
    }
}
