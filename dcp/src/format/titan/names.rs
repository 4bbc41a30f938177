//! Names of the objects of a checkpoint, below its folder.

use crate::error::Result;
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

#[cfg(test)]
mod tests {
    use super::*;

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
