//! Names of the objects of a checkpoint, below its folder.

use crate::error::Result;
use crate::format::Attempt;
use crate::storage::Key;

/// Largest generation: it has 4 digits.
pub(crate) const GENERATION_MAX: u32 = 9999;

/// `titan-0000.json`: the manifest of a generation.
pub(crate) fn manifest(generation: u32) -> String {
    format!("titan-{generation:04}.json")
}

/// The generation that a file name of a manifest gives; `None` for any other name.
pub(crate) fn generation(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("titan-")?.strip_suffix(".json")?;
    let digits = (digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)?;
    digits.parse().ok().filter(|&generation| generation <= GENERATION_MAX)
}

/// The key of one object of a writer, below the checkpoint's folder.
pub(crate) fn object(attempt: &str, writer: u32, sequence: u32, compressed: bool) -> Result<Key> {
    let extension = if compressed { "frames" } else { "safetensors" };
    Key::new(format!("{attempt}/r{writer:05}-{sequence:04}.{extension}"))
}

/// The key of a writer's part record, below the checkpoint's folder.
pub(crate) fn part(attempt: &str, writer: u32) -> Result<Key> {
    Key::new(format!("{attempt}/r{writer:05}.part.json"))
}

/// Whether a name, relative to the checkpoint's folder, is one that an attempt gives its objects and records.
pub(crate) fn is_of_attempt(name: &str) -> bool {
    let Some((attempt, file)) = name.split_once('/') else { return false };
    let digits =
        |text: &str, count: usize| text.len() >= count && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_object = |file: &str| {
        let stem = file.strip_suffix(".safetensors").or_else(|| file.strip_suffix(".frames"));
        stem.and_then(|stem| stem.split_once('-'))
            .is_some_and(|(writer, sequence)| digits(writer, 5) && digits(sequence, 4))
    };
    let is_part = |file: &str| file.strip_suffix(".part.json").is_some_and(|writer| digits(writer, 5));
    Attempt::generation_of(attempt).is_some()
        && file.strip_prefix('r').is_some_and(|file| is_object(file) || is_part(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_attempts_are_known_by_name() {
        let attempt = Attempt::new(3).id;
        for compressed in [false, true] {
            assert!(is_of_attempt(object(&attempt, 123_456, 2, compressed).unwrap().as_str()));
        }
        assert!(is_of_attempt(part(&attempt, 7).unwrap().as_str()));
        for other in
            ["notes.txt", "r00000.part.json/x", "r1.part.json", "r00000-1.frames", "00000-0000.frames"]
        {
            assert!(!is_of_attempt(&format!("{attempt}/{other}")), "{other}");
        }
        assert!(!is_of_attempt("model/r00000.part.json"));
    }

    #[test]
    fn manifests_are_known_by_name() {
        assert_eq!(generation(&manifest(12)), Some(12));
        for other in
            ["titan-1.json", "titan-00000.json", "titan-+001.json", "titan-0000.json.tmp", "config.json"]
        {
            assert_eq!(generation(other), None, "{other}");
        }
    }
}
