//! One JSON object per record, each a line, appended to one file over all runs of a job.
//!
//! Keys end with their unit. Every object has `kind` (`step`, `validation`, `event`), `unix_seconds` and `rank`. A number
//! that JSON has no word for is null, and a second key, `..._text`, says which: `nan`, `inf` or `-inf`.

use super::record::{Rates, Record, Validation};
use crate::error::{Error, Result};
use crate::metrics::memory::Memory;
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const KEY: &str = "enable_jsonl";

/// A file of objects that is appended to.
#[derive(Debug)]
pub(super) struct JsonLines {
    file: File,
    path: PathBuf,
}

/// One object.
pub(super) type Object = Map<String, Value>;

impl JsonLines {
    /// Opens a file, and makes it and its folder where they are missing. Half a line that a kill left at its end is ended,
    /// so that it spoils no other.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed(folder, "making the folder"))?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut lines = JsonLines { file: file.map_err(failed(path, "opening it"))?, path: path.to_owned() };
        if lines.is_cut().map_err(failed(path, "reading its end"))? {
            lines.append(b"\n")?;
        }
        Ok(lines)
    }

    fn is_cut(&mut self) -> std::io::Result<bool> {
        if self.file.metadata()?.len() == 0 {
            return Ok(false);
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }

    /// Writes an object as one line, in one call of the system: a kill leaves whole lines, but for the last.
    pub(super) fn write(&mut self, object: Object) -> Result<()> {
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        self.append(line.as_bytes())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(failed(&self.path, "writing"))
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(failed(&self.path, "waiting for the disk"))
    }
}

fn failed(file: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let file = file.to_owned();
    move |source| Error::Metrics { file, action, key: KEY, source }
}

/// The object of a step. Models without a figure for their operations have null for what rests on it.
pub(super) fn step_object(record: &Record, rates: &Rates, unix_seconds: f64, rank: u32) -> Object {
    let mut object = begin("step", unix_seconds, rank);
    put(&mut object, "step", record.step);
    put_float(&mut object, "global_avg_loss", record.global_avg_loss);
    put_float(&mut object, "global_max_loss", record.global_max_loss);
    put_float(&mut object, "grad_norm", record.grad_norm);
    put_float(&mut object, "lr", record.lr);
    put(&mut object, "seen_tokens", record.tokens_seen);
    put(&mut object, "window_steps", record.window.steps);
    put_float(&mut object, "window_seconds", record.window.seconds);
    put(&mut object, "window_tokens", record.window.tokens);
    put_float(&mut object, "device_tokens_per_second", rates.tokens_per_second);
    put_measured(&mut object, "device_tflops", rates.tflops);
    put_measured(&mut object, "mfu_percent", rates.mfu_percent);
    put_float(&mut object, "step_mean_seconds", rates.step_seconds);
    put_float(&mut object, "batch_wait_mean_seconds", rates.batch_seconds);
    put_float(&mut object, "data_loading_seconds", record.window.data_loading_seconds);
    put_float(&mut object, "data_loading_percent", rates.data_loading_percent);
    put_float(&mut object, "checkpoint_wait_seconds", record.window.checkpoint_wait_seconds);
    put_memory(&mut object, &record.memory);
    object
}

/// The object of a validation.
pub(super) fn validation_object(validation: &Validation, unix_seconds: f64, rank: u32) -> Object {
    let mut object = begin("validation", unix_seconds, rank);
    put(&mut object, "step", validation.step);
    put_float(&mut object, "loss", validation.loss);
    put_float(&mut object, "device_tokens_per_second", validation.tokens_per_second);
    put_memory(&mut object, &validation.memory);
    object
}

/// The object of anything else that happens. A field whose key is taken already gets `field_` before it.
pub(super) fn event_object(name: &str, fields: &[(&str, Value)], unix_seconds: f64, rank: u32) -> Object {
    let mut object = begin("event", unix_seconds, rank);
    put(&mut object, "name", name);
    for (key, value) in fields {
        let mut key = (*key).to_owned();
        while object.contains_key(&key) {
            key.insert_str(0, "field_");
        }
        object.insert(key, value.clone());
    }
    object
}

fn begin(kind: &str, unix_seconds: f64, rank: u32) -> Object {
    let mut object = Object::new();
    put(&mut object, "kind", kind);
    put_float(&mut object, "unix_seconds", unix_seconds);
    put(&mut object, "rank", rank);
    object
}

fn put(object: &mut Object, key: &str, value: impl Into<Value>) {
    object.insert(key.to_owned(), value.into());
}

fn put_float(object: &mut Object, key: &str, value: f64) {
    // Null where it is not finite.
    put(object, key, value);
    if !value.is_finite() {
        let text = if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        };
        put(object, &format!("{key}_text"), text);
    }
}

fn put_measured(object: &mut Object, key: &str, value: Option<f64>) {
    match value {
        Some(value) => put_float(object, key, value),
        None => put(object, key, Value::Null),
    }
}

fn put_memory(object: &mut Object, memory: &Memory) {
    put(object, "memory_max_active_bytes", memory.max_active_bytes);
    put(object, "memory_max_reserved_bytes", memory.max_reserved_bytes);
    put(object, "memory_total_bytes", memory.total_bytes);
    put(object, "memory_alloc_retries", memory.alloc_retries);
    put(object, "memory_ooms", memory.ooms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::record::Costs;
    use crate::metrics::record::samples::{COSTS, record, validation};
    use serde_json::json;

    fn line(object: Object) -> String {
        Value::Object(object).to_string()
    }

    #[test]
    fn a_step() {
        let object = step_object(&record(10), &record(10).window.rates(&COSTS), 1_764_064_800.125, 3);
        assert_eq!(
            line(object),
            "{\"kind\":\"step\",\"unix_seconds\":1764064800.125,\"rank\":3,\"step\":10,\
             \"global_avg_loss\":8.123456,\"global_max_loss\":8.5,\"grad_norm\":1.98765,\"lr\":0.0003,\
             \"seen_tokens\":655360,\"window_steps\":10,\"window_seconds\":4.0,\"window_tokens\":56000,\
             \"device_tokens_per_second\":7000.0,\"device_tflops\":405.40114944,\
             \"mfu_percent\":40.99101612133468,\"step_mean_seconds\":0.4,\"batch_wait_mean_seconds\":0.2,\
             \"data_loading_seconds\":0.4,\"data_loading_percent\":10.0,\"checkpoint_wait_seconds\":0.125,\
             \"memory_max_active_bytes\":42949672960,\"memory_max_reserved_bytes\":51539607552,\
             \"memory_total_bytes\":85017493504,\"memory_alloc_retries\":0,\"memory_ooms\":0}"
        );
    }

    #[test]
    fn a_validation() {
        assert_eq!(
            line(validation_object(&validation(), 1.5, 0)),
            "{\"kind\":\"validation\",\"unix_seconds\":1.5,\"rank\":0,\"step\":200,\"loss\":3.98765,\
             \"device_tokens_per_second\":820500.0,\"memory_max_active_bytes\":42949672960,\
             \"memory_max_reserved_bytes\":51539607552,\"memory_total_bytes\":85017493504,\
             \"memory_alloc_retries\":0,\"memory_ooms\":0}"
        );
    }

    #[test]
    fn an_event() {
        let fields = [("step", json!(10)), ("byte_len", json!(5)), ("rank", json!("a\nb"))];
        assert_eq!(
            line(event_object("saved", &fields, 1.5, 0)),
            r#"{"kind":"event","unix_seconds":1.5,"rank":0,"name":"saved","step":10,"byte_len":5,"field_rank":"a\nb"}"#
        );
    }

    #[test]
    fn what_json_has_no_word_for() {
        let mut broken = record(10);
        (broken.global_avg_loss, broken.global_max_loss) = (f64::NAN, f64::INFINITY);
        broken.lr = f64::NEG_INFINITY;
        let costs = Costs { flops_per_token: None, ..COSTS };
        let object = step_object(&broken, &broken.window.rates(&costs), 0.0, 0);
        let read: Value = serde_json::from_str(&line(object)).unwrap();
        for (key, text) in [("global_avg_loss", "nan"), ("global_max_loss", "inf"), ("lr", "-inf")] {
            assert_eq!((&read[key], &read[format!("{key}_text")]), (&Value::Null, &json!(text)));
        }
        // Unknown is another thing than not a number.
        assert_eq!((&read["mfu_percent"], read.get("mfu_percent_text")), (&Value::Null, None));
        assert_eq!(read["grad_norm"], 1.98765);
    }

    /// Killed after any byte, and gone on with: every line but the cut one is whole.
    #[test]
    fn a_cut_line_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/metrics.jsonl");
        let object = |name| event_object(name, &[], 0.0, 0);
        let mut lines = JsonLines::open(&path).unwrap();
        lines.write(object("first")).unwrap();
        lines.write(object("second")).unwrap();
        let whole = fs::read(&path).unwrap();
        for byte_len in 0..=whole.len() {
            fs::write(&path, &whole[..byte_len]).unwrap();
            JsonLines::open(&path).unwrap().write(object("third")).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.ends_with('\n') && !text.contains("\n\n") && !text.starts_with('\n'), "{text:?}");
            let names = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let names: Vec<_> = names.map(|object| object["name"].as_str().unwrap().to_owned()).collect();
            let kept = whole[..byte_len].iter().filter(|byte| **byte == b'\n').count();
            // A line that lacks nothing but its end is whole.
            let is_whole = matches!(whole.get(byte_len), Some(b'\n'));
            let mut expected = ["first", "second"][..kept + usize::from(is_whole)].to_vec();
            expected.push("third");
            assert_eq!(names, expected, "cut at {byte_len}");
        }
    }

    #[test]
    fn files_that_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let error = JsonLines::open(folder.path()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "{}: opening it failed; metrics go there: make its folder writable and see that there is room, or \
                 turn off metrics.enable_jsonl",
                folder.path().display()
            )
        );
        let mut full = JsonLines::open(Path::new("/dev/full")).unwrap();
        let error = full.write(Object::new()).unwrap_err();
        assert!(error.to_string().starts_with("/dev/full: writing failed; "), "{error}");
    }
}
