//! A configuration from a file and flags: defaults, then the file, then flags.

use super::key::Status;
use super::setting::Value;
use super::table::{Config, KeyRow};
use super::{file, flags};
use crate::error::{Error, Place, Problem, Result};
use crate::presets;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What `job.config_file` begins with where it names a preset.
const PRESET: &str = "preset:";

/// A value for a key.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) row: &'static KeyRow,
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A configuration, and where it is from.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The configuration.
    pub config: Config,
    /// What the user should know of it, though nothing is wrong.
    pub notes: Vec<String>,
    /// Whether help was asked for; then all else is as if nothing had been given.
    pub wants_help: bool,
    origins: BTreeMap<String, Place>,
}

/// Where the value of a key is from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The TOML file.
    File {
        /// Its path as it was given.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// The command line.
    Flag,
}

impl Parsed {
    /// Where the value of a key is from: `training.steps`. A path that is no key's is by default.
    pub fn origin(&self, path: &str) -> Origin {
        match self.origins.get(path) {
            Some(Place::File { path, line, column }) => {
                Origin::File { path: path.clone(), line: *line, column: *column }
            }
            Some(Place::Flag) => Origin::Flag,
            Some(Place::Whole) | None => Origin::Default,
        }
    }
}

impl Config {
    /// Reads arguments, the program's name left out, and by `read_file` the file that `--job.config_file` names and what
    /// describes the model, where `model.flavor` is the path of that.
    ///
    /// Whether the values fit together and the number of ranks is for [`Config::validate`].
    ///
    /// Errors: [`Error::BadConfig`] with every unknown key, wrong type and refused value at once; [`Error::Unreadable`]
    /// and [`Error::UnreadableModel`] where `read_file` fails; [`Error::NoSuchPreset`].
    pub fn from_args<S: Into<String>>(
        args: impl IntoIterator<Item = S>,
        read_file: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Parsed> {
        let flags = flags::read(args.into_iter().map(Into::into));
        if flags.wants_help {
            return Ok(Parsed { wants_help: true, ..Load::default().finish()? });
        }
        let files = flags.assignments.iter().filter(|assignment| assignment.row.path == "job.config_file");
        let named = match files.map(|assignment| &assignment.value).next_back() {
            Some(Value::Text(named)) => Some(PathBuf::from(named)),
            _ => None,
        };
        let mut load = Load::default();
        if let Some(path) = named {
            let text = match path.to_str().and_then(|path| path.strip_prefix(PRESET)) {
                Some(preset) => presets::toml(preset)?.to_owned(),
                None => {
                    read_file(&path).map_err(|source| Error::Unreadable { path: path.clone(), source })?
                }
            };
            let (assignments, problems) = file::read(&text, &path);
            load.add(assignments, problems);
        }
        load.add(flags.assignments, flags.problems);
        let mut parsed = load.finish()?;
        parsed.config.model.flavor.read(read_file)?;
        Ok(parsed)
    }

    /// Reads TOML alone, and no file that it names. `path` names it in errors.
    ///
    /// Errors: as [`Config::from_args`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Parsed> {
        let (assignments, problems) = file::read(text, path);
        let mut load = Load::default();
        load.add(assignments, problems);
        load.finish()
    }

    /// Every value as JSON, by section; keys in the order of the table.
    pub fn to_json(&self) -> serde_json::Value {
        let mut document = serde_json::Value::Object(serde_json::Map::new());
        for (row, value) in self.values() {
            let mut place = &mut document;
            for part in row.path.split('.') {
                let default = || serde_json::Value::Object(serde_json::Map::new());
                let serde_json::Value::Object(map) = place else { break };
                place = map.entry(part).or_insert_with(default);
            }
            *place = value.to_json();
        }
        document
    }

    /// The bytes of `job.save_config_file`, and the text of `job.print_config`: indented JSON.
    pub fn to_json_text(&self) -> String {
        format!("{:#}\n", self.to_json())
    }
}

/// Values and problems so far.
#[derive(Debug, Default)]
struct Load {
    config: Config,
    origins: BTreeMap<String, Place>,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Load {
    fn add(&mut self, assignments: Vec<Assignment>, problems: Vec<Problem>) {
        self.problems.extend(problems);
        for Assignment { row, value, place } in assignments {
            if self.config.put(row, &value) {
                self.origins.insert(row.path.clone(), place);
                continue;
            }
            let (path, expected) = (&row.path, (row.key.expected)());
            let message = format!("found `{path} = {value}`, expected {expected}");
            self.problems.push(Problem { place, message });
        }
    }

    fn finish(mut self) -> Result<Parsed> {
        self.deprecated();
        self.refuse();
        self.idle();
        if !self.problems.is_empty() {
            return Err(Error::BadConfig { problems: self.problems });
        }
        let Load { config, origins, notes, .. } = self;
        Ok(Parsed { config, notes, wants_help: false, origins })
    }

    /// What has a new name.
    fn deprecated(&mut self) {
        let Some(path) = self.config.model.tokenizer_path.take() else { return };
        let place = self.origins.get("model.tokenizer_path").cloned().unwrap_or(Place::Whole);
        if self.origins.contains_key("model.hf_assets_path") && self.config.model.hf_assets_path != path {
            let message = format!(
                "found `model.tokenizer_path = {path:?}`, the old name of model.hf_assets_path, which is {:?}; \
                 remove the old one",
                self.config.model.hf_assets_path
            );
            self.problems.push(Problem { place, message });
            return;
        }
        self.notes.push(
            "model.tokenizer_path is the old name of model.hf_assets_path; the value was taken for it"
                .to_owned(),
        );
        self.origins.remove("model.tokenizer_path");
        self.origins.insert("model.hf_assets_path".to_owned(), place);
        self.config.model.hf_assets_path = path;
    }

    /// What cannot be had, and what has no effect.
    fn refuse(&mut self) {
        for (KeyRow { path, key, default }, value) in self.config.values() {
            if value == *default {
                continue;
            }
            let single = key.refused_values.iter().find(|refused| refused.value == value.to_flag());
            let (reason, remedy) = match (key.status, single) {
                (_, Some(refused)) => (refused.reason, refused.remedy),
                (Status::Refused { reason, remedy }, _) => (reason, remedy),
                (Status::Moot { why }, _) => {
                    self.notes.push(format!("{path} = {value} has no effect: {why}"));
                    continue;
                }
                (Status::Implemented | Status::Inert { .. }, None) => continue,
            };
            let message = format!("`{path} = {value}` cannot be had: {reason}; {remedy}");
            let place = self.origins.get(path).cloned().unwrap_or(Place::Whole);
            self.problems.push(Problem { place, message });
        }
    }

    /// What goes with a key that is off.
    fn idle(&mut self) {
        let (training, validation) = (&self.config.training, &self.config.validation);
        for (section, loader) in [("training", &training.dataloader), ("validation", &validation.dataloader)]
        {
            if let (0, Some(batches)) = (loader.num_workers, loader.prefetch_factor) {
                self.notes.push(format!(
                    "{section}.dataloader.prefetch_factor = {batches} has no effect: num_workers is 0, so that nothing is \
                     read ahead"
                ));
            }
        }
    }
}
