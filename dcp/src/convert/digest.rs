//! What is being made, in 32 bytes: equal for all tasks of a job, and for a later run of the same command.

use super::ConvertOptions;
use crate::error::Result;
use crate::format::{Draft, Format, Reader, Target};
use sha2::{Digest, Sha256};
use std::fmt::{self, Debug, Write};

/// A digest of everything that decides which bytes are written: this version, the source's objects, the target with its
/// values, the choices. It depends on neither tasks nor time.
///
/// Errors: [`BudgetTooSmall`](crate::Error::BudgetTooSmall).
pub(super) fn of_target(
    reader: &dyn Reader,
    target: &Target,
    format: &dyn Format,
    options: &ConvertOptions,
) -> Result<[u8; 32]> {
    let mut hasher = Hasher::new("titan-job 1");
    hasher.add(&env!("CARGO_PKG_VERSION"));
    hasher.add(&format.name());
    hasher.add(&options.made_of);
    let write = &options.write;
    hasher.add(&(write.shard_bytes_max, write.compress, &write.file_name, &write.stem, write.sharded));
    // Memory and threads decide how compressed objects are cut in frames, and nothing else.
    hasher.add(&if write.compress { Some(options.copy.compressed_strip_bytes()?) } else { None });
    for (name, bytes) in &options.beside {
        hasher.add(&(name, Sha256::digest(bytes)));
    }
    let catalog = reader.catalog();
    hasher.add(&catalog.format);
    for object in &catalog.objects {
        // Another mount of the same folder is the same source.
        let name = object.key.below(&reader.place().key).unwrap_or(object.key.as_str());
        hasher.add(&(name, object.byte_len));
    }
    hasher.add(target);
    Ok(hasher.finish())
}

/// The digest of the target together with what was laid out for it.
pub(super) fn of_draft(target: [u8; 32], draft: &dyn Draft) -> String {
    let mut hasher = Hasher::new("titan-job draft 1");
    hasher.add(&target);
    for object in draft.objects() {
        hasher.add(&(object.key.as_str(), object.byte_len));
    }
    hasher.finish().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The number that an attempt is named after.
pub(super) fn identity(target: [u8; 32]) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&target[..16]);
    u128::from_be_bytes(first)
}

/// Hashes the `Debug` text of values: every field counts, those that are added later too. Only equality is asked of it,
/// within one version of this program.
struct Hasher(Sha256);

impl Hasher {
    fn new(domain: &str) -> Self {
        let mut hasher = Hasher(Sha256::new());
        hasher.add(&domain);
        hasher
    }

    fn add(&mut self, value: &dyn Debug) {
        // Quotes and escapes keep one value from running into the next.
        writeln!(self, "{value:?}").expect("hashing does not fail");
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}
